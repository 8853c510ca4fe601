/**
 * The client in runtimes that lack this and that, on servers that cut responses, with ids in any form: everything stored
 * is read once and in order, and every message ends as sent.
 */

import fc from "fast-check";
import { afterEach, expect, test, vi } from "vitest";
import { SupabaseChatTransport } from "../src/ai.ts";
import { newId, openSession, openSessionList } from "../src/index.ts";
import { Rest, SESSION, USER, message, uuid, type Row } from "./rest.ts";
import { timeAt } from "./world.ts";

/** What React Native or an older browser does not have. */
const MISSING: [object, string][] = [
  [globalThis, "crypto"],
  [globalThis, "document"],
  [globalThis, "navigator"],
  [globalThis, "addEventListener"],
  [globalThis, "structuredClone"],
  [AbortSignal, "timeout"],
  [AbortSignal, "any"],
  [Array.prototype, "at"],
  [Array.prototype, "findLast"],
  [Array.prototype, "findLastIndex"],
  [Array.prototype, "toSorted"],
  [Array.prototype, "toReversed"],
  [String.prototype, "at"],
  [String.prototype, "isWellFormed"],
  [String.prototype, "toWellFormed"],
  [Object, "groupBy"],
  [Promise, "withResolvers"],
];

const unhandled: unknown[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(reason));

afterEach(() => {
  vi.useRealTimers();
  expect(unhandled).toEqual([]);
});

/** Runs `run` without these globals. */
async function without(names: readonly [object, string][], run: () => Promise<void>): Promise<void> {
  const saved = names.map(([owner, name]) => [owner, name, Object.getOwnPropertyDescriptor(owner, name)] as const);
  for (const [owner, name] of names) Reflect.deleteProperty(owner, name);
  try {
    await run();
  } finally {
    for (const [owner, name, descriptor] of saved) if (descriptor) Object.defineProperty(owner, name, descriptor);
  }
}

const form = fc.constantFrom<(id: string) => string>(
  (id) => id,
  (id) => id.toUpperCase(),
  (id) => `{${id}}`,
  (id) => id.replace(/-/g, ""),
);
const size = fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(50, 1_000));
/** What happens to a request: an answer, none, or none although it has arrived. */
const fate = fc.constantFrom("ok", "ok", "ok", "lost", "unanswered", "502");

interface World {
  missing: [object, string][];
  maxRows: number;
  pageSize: number;
  rows: number;
  form: (id: string) => string;
  sends: ("ok" | "lost" | "unanswered" | "502")[][];
}

const world: fc.Arbitrary<World> = fc.record({
  missing: fc.subarray(MISSING),
  maxRows: size,
  pageSize: size,
  rows: fc.integer({ min: 0, max: 30 }),
  form,
  sends: fc.array(fc.array(fate, { maxLength: 3 }), { maxLength: 3 }),
});

async function play({ missing, maxRows, pageSize, rows, form, sends }: World): Promise<void> {
  vi.useFakeTimers();
  const rest = new Rest();
  rest.maxRows = maxRows;
  for (let at = 1; at <= rows; at++) {
    rest.rows("messages").push(message(at) as unknown as Row);
    rest.rows("sessions").push({ id: uuid(at), title: `${at}`, updated_at: timeAt(at) });
    rest.rows("code_files").push({ id: uuid(at), session_id: SESSION, path: `${at}.py`, content: "", revision: 1, updated_at: "" });
  }
  const client = rest.client();
  const fates: string[] = [];
  const serve = rest.fetch.bind(rest);
  vi.spyOn(rest, "fetch").mockImplementation(async (address, init) => {
    const fate = init?.method === "POST" ? fates.shift() : "ok";
    if (fate === "lost") throw new TypeError("fetch failed");
    if (fate === "502") return new Response("<html>Bad gateway</html>", { status: 502 });
    const response = await serve(address, init);
    if (fate === "unanswered") throw new TypeError("fetch failed");
    return response;
  });
  await without(missing, async () => {
    const session = openSession(client, form(SESSION), { pageSize });
    const list = openSessionList(client, form(USER));
    try {
      await vi.advanceTimersByTimeAsync(100);
      for (let pages = 0; session.getSnapshot().hasOlder; pages++) {
        expect(pages).toBeLessThan(rows + 2);
        const older = session.loadOlder();
        await vi.advanceTimersByTimeAsync(0);
        await older;
      }
      const all = Array.from({ length: rows }, (_, at) => `${at + 1}`);
      const contents = () => session.getSnapshot().messages.map(({ content }) => content);
      expect(contents()).toEqual(all);
      expect(session.getSnapshot().files).toHaveLength(rows);
      expect(list.getSnapshot().sessions.map(({ title }) => title)).toEqual([...all].reverse());

      fates.push(...sends.flatMap((each) => [...each.filter((one) => one !== "ok"), "ok"]));
      const given = sends.map(() => newId());
      const sent = given.map((id, at) => session.send(`new ${at}`, undefined, form(id)));
      await vi.advanceTimersByTimeAsync(300_000);
      expect(await Promise.all(sent)).toEqual(sends.map(() => true));
      const asked = sends.map((_, at) => `new ${at}`);
      expect(contents()).toEqual([...all, ...asked]);
      expect(rest.rows("messages").slice(rows).map((row) => row["id"])).toEqual(given);
      expect(session.getSnapshot()).toMatchObject({ busy: false, error: null });

      const { length } = rest.requests;
      await vi.advanceTimersByTimeAsync(60_000);
      expect(rest.requests).toHaveLength(length); // nobody polls
    } finally {
      session.close();
      list.close();
    }
  });
}

test("nothing is lost, doubled or left waiting", async () => {
  await fc.assert(fc.asyncProperty(world, play), { numRuns: 100 });
});

test("nothing is lost without any of them, one row per response", async () => {
  const sends: World["sends"] = [["lost", "unanswered"], ["502"]];
  await play({ missing: MISSING, maxRows: 1, pageSize: 7, rows: 12, form: (id) => id.toUpperCase(), sends });
});

// apart from the others, because Node's own `Response` needs streams
test("useChat without streams sends nothing, and names the polyfill", async () => {
  const rest = new Rest();
  const transport = new SupabaseChatTransport(rest.client());
  const asked = { id: newId(), role: "user", parts: [{ type: "text", text: "Hello?" }] } as const;
  const options = { chatId: SESSION, messageId: undefined, abortSignal: undefined, messages: [{ ...asked, parts: [...asked.parts] }] };
  await without([[globalThis, "ReadableStream"]], async () => {
    for (const trigger of ["submit-message", "regenerate-message"] as const) {
      await expect(transport.sendMessages({ ...options, trigger })).rejects.toThrow(/web-streams-polyfill/);
    }
    await expect(transport.reconnectToStream({ chatId: SESSION })).rejects.toThrow(/web-streams-polyfill/);
  });
  transport.close();
  expect(rest.requests).toEqual([]);
});
