/** PostgREST's `max-rows` below what the client asks for: everything is read to its end all the same. */

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { readUIMessages } from "../src/ai.ts";
import { supabaseBackend } from "../src/backend.ts";
import { openSession, openSessionList, type AnySupabaseClient, type ChatSession } from "../src/index.ts";
import { Rest, SESSION, USER, message, uuid, type Row } from "./rest.ts";
import { timeAt } from "./world.ts";

const COUNT = 23;
const ALL = Array.from({ length: COUNT }, (_, at) => `${at + 1}`);

let rest: Rest;
let client: AnySupabaseClient;
const opened: { close(): void }[] = [];

beforeEach(() => {
  vi.useFakeTimers();
  rest = new Rest();
  client = rest.client();
  for (let at = 1; at <= COUNT; at++) {
    rest.rows("messages").push(message(at) as unknown as Row);
    const own = { id: uuid(at), updated_at: timeAt(at) };
    rest.rows("sessions").push({ ...own, title: `${at}` });
    rest.rows("code_files").push({ ...own, session_id: SESSION, path: `${at}.py`, content: "", revision: 1 });
    rest.rows("code_file_versions").push({ id: at, file_id: uuid(1), content: "" });
  }
});

afterEach(() => {
  for (const one of opened.splice(0)) one.close();
  vi.useRealTimers();
});

async function open(pageSize: number): Promise<ChatSession> {
  const session = openSession(client, SESSION, { pageSize });
  opened.push(session);
  await vi.advanceTimersByTimeAsync(100);
  return session;
}

const texts = (session: ChatSession) => session.getSnapshot().messages.map(({ content }) => content);

describe.each([1, 2, 5, 22, 23, 24, 1_000])("with at most %i rows per response", (maxRows) => {
  beforeEach(() => {
    rest.maxRows = maxRows;
  });

  test.each([1, 4, 10, 23, 200])("a session with pages of %i is read to its start", async (pageSize) => {
    const session = await open(pageSize);
    expect(texts(session)).toEqual(ALL.slice(-pageSize));
    while (session.getSnapshot().hasOlder) {
      const { length } = texts(session);
      await session.loadOlder();
      expect(texts(session).length).toBeGreaterThan(length);
    }
    expect(texts(session)).toEqual(ALL);
  });

  test("all files, all sessions and all versions are there", async () => {
    const session = await open(10);
    expect(session.getSnapshot().files).toHaveLength(COUNT);
    const list = openSessionList(client, USER);
    opened.push(list);
    await vi.advanceTimersByTimeAsync(100);
    expect(list.getSnapshot().sessions.map(({ title }) => title)).toEqual([...ALL].reverse());
    const versions = await session.files.readVersions(uuid(1));
    expect(versions.map(({ id }) => id)).toEqual(ALL.map(Number).reverse());
  });

  test("messages are read by id, with their replies and everything newer", async () => {
    const replies = [2, 9].map((at) => message(at, { id: uuid(100 + at), ordinal: 2 * at + 1, reply_to: uuid(at) }));
    rest.rows("messages").push(...(replies as unknown as Row[]));
    const rows = await supabaseBackend(client).readMessages(SESSION, [uuid(2), uuid(9)], 30);
    expect(rows.map(({ ordinal }) => ordinal)).toEqual([4, 5, 18, 19, 32, 34, 36, 38, 40, 42, 44, 46]);
  });

  test("a chat starts with all of its messages", async () => {
    expect((await readUIMessages(client, SESSION)).map(({ id }) => id)).toEqual(ALL.map((at) => uuid(Number(at))));
  });
});

test("a response that is not cut is not read twice", async () => {
  await open(200);
  const first = rest.requests.filter((request) => request === "GET messages");
  expect(first).toHaveLength(1); // it has the session's first message
  await supabaseBackend(client).readMessages(SESSION, [uuid(2)], 30);
  expect(rest.requests.filter((request) => request === "GET messages")).toHaveLength(2); // a longer one has been seen
});

test("a server that ignores order and filters is not read for ever", async () => {
  vi.spyOn(rest, "fetch").mockImplementation(() => Promise.resolve(Response.json([message(5), message(6)])));
  expect(await supabaseBackend(client).readSessions()).toHaveLength(2);
});
