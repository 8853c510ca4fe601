/** Ids as people give them: upper case, braces, no hyphens, or no UUID at all. */

import type { UIMessage } from "ai";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { SupabaseChatTransport, readUIMessages } from "../src/ai.ts";
import { canonicalId, isId } from "../src/id.ts";
import { newId, openSession, openSessionList, type AnySupabaseClient, type ChatSession } from "../src/index.ts";
import { Rest, SESSION, USER, message, uuid, type Row } from "./rest.ts";

const FORMS: [string, (id: string) => string][] = [
  ["upper case", (id) => id.toUpperCase()],
  ["mixed case", (id) => id.replace(/[a-f]/, (letter) => letter.toUpperCase())],
  ["braces", (id) => `{${id}}`],
  ["no hyphens", (id) => id.replaceAll("-", "").toUpperCase()],
];
const BAD = ["not-a-uuid", "", "user_2NNE", `${SESSION}x`, `msg-${SESSION}`, "a,b)", "\0", "x".repeat(5_000)];

let rest: Rest;
let client: AnySupabaseClient;
const opened: { close(): void }[] = [];

beforeEach(() => {
  vi.useFakeTimers();
  rest = new Rest();
  client = rest.client();
  rest.rows("messages").push(message(1) as unknown as Row);
});

afterEach(() => {
  for (const one of opened.splice(0)) one.close();
  vi.useRealTimers();
});

function keep<T extends { close(): void }>(one: T): T {
  opened.push(one);
  return one;
}

async function open(id: string): Promise<ChatSession> {
  const session = keep(openSession(client, id));
  await vi.advanceTimersByTimeAsync(100);
  return session;
}

const ids = (session: ChatSession) => session.getSnapshot().messages.map(({ id }) => id);
const topics = () => client.getChannels().map(({ topic }) => topic);

test("an id is a UUID in lower case, with or without crypto", () => {
  const made = [newId()];
  vi.stubGlobal("crypto", { randomUUID: () => "unused" });
  made.push(newId());
  vi.stubGlobal("crypto", undefined);
  made.push(newId(), newId());
  vi.unstubAllGlobals();
  for (const id of made) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(new Set(made).size).toBe(made.length);
});

describe.each(FORMS)("%s", (_, form) => {
  test("of a session's id joins the session's topic", async () => {
    const session = await open(form(SESSION));
    expect(session.id).toBe(SESSION);
    expect(topics()).toEqual([`realtime:session:${SESSION}`]);
    expect(ids(session)).toEqual([uuid(1)]);
  });

  test("of a user's id joins the user's topic, and sessions are renamed and removed", async () => {
    rest.rows("sessions").push({ id: SESSION, title: "old", updated_at: "" });
    const list = keep(openSessionList(client, form(USER)));
    await vi.advanceTimersByTimeAsync(100);
    expect(topics()).toEqual([`realtime:user:${USER}`]);
    await list.rename(form(SESSION), "new");
    expect(list.getSnapshot().sessions).toMatchObject([{ title: "new" }]);
    await list.remove(form(SESSION));
    expect(list.getSnapshot().sessions).toEqual([]);
  });

  test("of a new session's id is sent as Postgres writes it", async () => {
    const list = keep(openSessionList(client, USER));
    const id = newId();
    expect((await list.create({ id: form(id) })).id).toBe(id);
    expect(JSON.parse(rest.bodies.at(-1)!)).toEqual({ id });
  });

  test("of a message's id shows it once", async () => {
    const session = await open(SESSION);
    const id = newId();
    const sent = session.send("Hello?", undefined, form(id));
    expect(ids(session)).toEqual([uuid(1), id]);
    expect(await sent).toBe(true);
    expect(await session.send("Hello?", undefined, form(id))).toBe(true);
    expect(ids(session)).toEqual([uuid(1), id]);
    await session.cancel(form(id));
    await session.retry(form(id));
    expect(await session.edit(form(id), "Hello!")).toBe(true);
    expect(ids(session)).toHaveLength(3);
  });

  test("of an unsent message's id resends, edits and discards it", async () => {
    const session = await open(SESSION);
    const refuse = () => rest.answers.push(Response.json({ code: "PT413", message: "Too long" }, { status: 413 }));
    refuse();
    const id = newId();
    expect(await session.send("Hello?", undefined, form(id))).toBe(false);
    expect(await session.resend(form(id))).toBe(true);
    refuse();
    const other = newId();
    expect(await session.send("Hello?", undefined, other)).toBe(false);
    session.discard(form(other));
    expect(ids(session)).toEqual([uuid(1), id]);
  });

  test("of a file's id saves and removes it", async () => {
    rest.rows("code_files").push({ id: uuid(5), session_id: SESSION, path: "a.py", content: "a", revision: 1, updated_at: "" });
    const session = await open(SESSION);
    expect(await session.files.save(form(uuid(5)), "b", 1)).toMatchObject({ saved: true });
    await session.files.remove(form(uuid(5)));
    expect(session.getSnapshot().files).toEqual([]);
  });

  test("of a chat's and its messages' ids streams the reply to its end", async () => {
    const transport = keep(new SupabaseChatTransport(client));
    const id = newId();
    const asked: UIMessage = { id: form(id), role: "user", parts: [{ type: "text", text: "Hello?" }] };
    const options = { messages: [asked], abortSignal: undefined, chatId: form(SESSION), body: {} };
    const chunks = async (): Promise<unknown[]> => {
      const stream = await transport.sendMessages({ ...options, trigger: "submit-message", messageId: undefined });
      const read: unknown[] = [];
      for await (const chunk of stream as unknown as AsyncIterable<unknown>) read.push(chunk);
      return read;
    };
    const reading = chunks();
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await reading).toEqual([{ type: "finish", finishReason: "stop" }]);
    expect(rest.rows("messages").map((row) => row["id"])).toEqual([uuid(1), id]);
    expect((await readUIMessages(client, form(SESSION))).map((one) => one.id)).toEqual([uuid(1), id]);
    expect(topics()).toEqual([`realtime:session:${SESSION}`]);
  });
});

describe.each(BAD.map((id) => [id.slice(0, 30), id]))("%j is no id", (_, id) => {
  const SENTENCE = /^".*" is not a valid id\.$/s;

  test("so a session with it says so and makes no further requests", async () => {
    const session = await open(id);
    expect(session.getSnapshot()).toMatchObject({ ready: false, connection: "offline", error: expect.stringMatching(SENTENCE) });
    const { length } = rest.requests;
    await vi.advanceTimersByTimeAsync(600_000);
    expect(rest.requests).toHaveLength(length);
    expect(topics()).toEqual([]);
    expect(await session.send("Hello?")).toBe(false);
    expect(session.getSnapshot().messages).toMatchObject([{ status: "not_sent", error: { message: expect.stringMatching(SENTENCE) } }]);
  });

  test("so what is done with it is refused", async () => {
    const session = await open(SESSION);
    const list = keep(openSessionList(client, USER));
    for (const act of [
      () => session.cancel(id),
      () => session.retry(id),
      () => session.files.save(id, "", 1),
      () => session.files.remove(id),
      () => session.files.readVersions(id),
      () => list.rename(id, "title"),
      () => list.remove(id),
    ]) {
      await expect(act()).rejects.toMatchObject({ name: "RequestError", message: expect.stringMatching(SENTENCE) });
    }
    expect(await session.send("Hello?", undefined, id)).toBe(false);
    expect(await session.resend(`${id}?`)).toBe(false);
    session.discard(id);
    expect(ids(session)).toEqual([uuid(1)]);
  });

  test("so a chat with it fails", async () => {
    const transport = keep(new SupabaseChatTransport(client));
    const asked: UIMessage = { id: "m", role: "user", parts: [{ type: "text", text: "Hello?" }] };
    const options = { messages: [asked], abortSignal: undefined, messageId: undefined, chatId: id };
    await expect(transport.sendMessages({ ...options, trigger: "submit-message" })).rejects.toThrow(SENTENCE);
    const resumed = expect(transport.reconnectToStream({ chatId: id })).rejects.toThrow(SENTENCE);
    await vi.advanceTimersByTimeAsync(1_000);
    await resumed;
  });
});

test("a new session has an id, also if that is given as undefined", async () => {
  const list = keep(openSessionList(client, USER));
  for (const values of [undefined, {}, { id: undefined, title: undefined } as object]) {
    const { id } = await list.create(values);
    expect(isId(id)).toBe(true);
    expect(JSON.parse(rest.bodies.at(-1)!)).toEqual({ id });
  }
});

test("what is no UUID stays as it is", () => {
  for (const id of BAD) expect(canonicalId(id)).toBe(id);
});
