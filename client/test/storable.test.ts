/** Text that Postgres cannot store never leaves the client. */

import { createClient } from "@supabase/supabase-js";
import type { UIMessage } from "ai";
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { SupabaseChatTransport } from "../src/ai.ts";
import { supabaseBackend } from "../src/backend.ts";
import { ChatSession, RequestError, openSession, openSessionList, type AnySupabaseClient, type Json, type SessionList } from "../src/index.ts";
import { storable } from "../src/storable.ts";

/** What a body must not contain: the escapes of NUL and of a surrogate, which `JSON.stringify` writes only for a lone one. */
const UNSTORABLE = /\\u(0000|d[89a-f])/i;
const BAD = "a\0b\ud83d c\udc00 \u{1f600}";
const GOOD = "ab\ufffd c\ufffd \u{1f600}";

const piece = fc.oneof(fc.string(), fc.constantFrom("\0", "\ud83d", "\udc00", "\ud83d\ude00", "\\u0000", "\\", "__proto__", "\ufffd"));
const text = fc.array(piece, { maxLength: 4 }).map((pieces) => pieces.join(""));
const json = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    text,
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.array(fc.tuple(text, tie("value")), { maxLength: 4 }).map((entries) => Object.fromEntries(entries)),
  ),
})).value;

/** Whether no surrogate is without its partner. `isWellFormed` is newer than the language level of this project. */
function isWellFormed(value: string): boolean {
  try {
    encodeURIComponent(value);
    return true;
  } catch {
    return false;
  }
}

const canStore = (value: string): boolean => isWellFormed(value) && !value.includes("\0");

/** All texts in a value, the names of fields too. */
function textsOf(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (typeof value !== "object" || value === null) return [];
  return [...(Array.isArray(value) ? [] : Object.keys(value)), ...Object.values(value).flatMap(textsOf)];
}

test("no value keeps text that cannot be stored, and every other one stays as it is", () => {
  fc.assert(
    fc.property(json, (value) => {
      const before = structuredClone(value);
      const stored = storable(value);
      expect(value).toEqual(before);
      expect(textsOf(stored).filter((part) => !canStore(part))).toEqual([]);
      expect(storable(stored)).toEqual(stored);
      if (textsOf(value).every(canStore)) expect(stored).toEqual(value);
    }),
    { numRuns: 2_000 },
  );
});

test("characters of a text keep their places", () => {
  expect(storable(BAD)).toBe(GOOD);
  expect(storable({ [BAD]: [{ [BAD]: BAD }] })).toEqual({ [GOOD]: [{ [GOOD]: GOOD }] });
  expect(storable("\ude00\ud83d")).toBe("\ufffd\ufffd");
});

const cycle: { self?: unknown } = {};
cycle.self = [cycle];
const deep = (levels: number): unknown => Array.from({ length: levels }).reduce((inner) => [inner], null);

test.each<[string, unknown, string]>([
  ["a BigInt", { n: 1n }, '"n" cannot be sent: it is a BigInt.'],
  ["a Map", { [BAD]: new Map([["a", 1]]) }, `"${GOOD}" cannot be sent: it is a Map.`],
  ["a Set", { tags: [new Set([1])] }, '"tags" cannot be sent: it is a Set.'],
  ["a promise", { later: Promise.resolve(1) }, '"later" cannot be sent: it is a Promise.'],
  ["a cycle", { cycle }, '"self" cannot be sent: it is nested too deeply.'],
  ["20,000 levels", { deep: deep(20_000) }, '"deep" cannot be sent: it is nested too deeply.'],
])("%s is refused with a sentence", (_, value, message) => {
  expect(() => storable(value)).toThrow(new RequestError(message));
});

test("everything else is what JSON makes of it", () => {
  const date = new Date(0);
  const value = { a: undefined, b: NaN, c: () => 1, d: Symbol("d"), e: [undefined, () => 1, -Infinity], date, f: Object.create(null), at: deep(90) };
  expect(storable(value)).toEqual(JSON.parse(JSON.stringify(value)));
  expect(storable({ toJSON: () => "x\0" })).toBe("x");
});

test.each<[string, Json]>([
  ["a BigInt", { n: 1n } as never],
  ["a cycle", { cycle } as never],
  ["a getter that throws", Object.defineProperty({}, "x", { enumerable: true, get: () => { throw new Error("no"); } }) as never],
])("a message with %s is not sent, and says why", async (_, data) => {
  const session = new ChatSession("s", supabaseBackend({ from: () => ({ insert: () => undefined }) } as never)); // no request
  expect(await session.send("Hello?", data)).toBe(false);
  expect(session.getSnapshot().messages).toMatchObject([{ status: "not_sent", error: { message: expect.stringMatching(/./) } }]);
  session.close();
});

test("engines without toWellFormed are enough", () => {
  const saved = Object.getOwnPropertyDescriptor(String.prototype, "toWellFormed");
  Reflect.deleteProperty(String.prototype, "toWellFormed");
  try {
    expect(storable(BAD)).toBe(GOOD);
  } finally {
    if (saved) Object.defineProperty(String.prototype, "toWellFormed", saved);
  }
});

describe("every way in", () => {
  const bodies: string[] = [];
  const opened: { close(): void }[] = [];
  let client: AnySupabaseClient;

  /** Remembers every body, and answers with a row that has its values. */
  async function answer(input: RequestInfo | URL, init?: RequestInit): Promise<Response> {
    const body = typeof init?.body === "string" ? init.body : null;
    if (body !== null) bodies.push(body);
    const row = { id: "f", ordinal: 2, role: "user", status: "done", ...JSON.parse(body ?? "{}") };
    const isList = init?.method === undefined || init.method === "GET";
    return Response.json(String(input).includes("/rpc/") ? "queued" : isList ? [] : row);
  }

  function open<T extends { close(): void }>(make: (client: AnySupabaseClient) => T): T {
    client = createClient("http://localhost", "key", {
      global: { fetch: answer },
      auth: { persistSession: false, autoRefreshToken: false },
      realtime: { transport: class { close(): void {} } as never }, // never connects
    });
    const made = make(client);
    opened.push(made);
    return made;
  }

  afterEach(() => {
    for (const one of opened.splice(0)) one.close();
    bodies.length = 0;
  });

  const session = (): ChatSession => open((made) => openSession(made, "s"));
  const list = (): SessionList => open((made) => openSessionList(made, "u"));
  const values = { title: BAD, function: BAD, metadata: { [BAD]: [BAD] } };

  test.each<[string, () => Promise<unknown>]>([
    ["send", () => session().send(BAD, { [BAD]: { deep: [BAD] } })],
    ["resend", async () => {
      const chat = session();
      await chat.send(BAD);
      await chat.resend(chat.getSnapshot().messages[0]?.id ?? "");
    }],
    ["edit", async () => {
      const chat = session();
      await chat.send("first", { [BAD]: BAD });
      await chat.edit(chat.getSnapshot().messages[0]?.id ?? "", BAD);
    }],
    ["files.add", () => session().files.add(BAD, BAD, BAD)],
    ["files.save", () => session().files.save("f", BAD, 1)],
    ["create", () => list().create(values)],
    ["rename", () => list().rename("s", BAD)],
    ["useChat", () => {
      const transport = open((made) => new SupabaseChatTransport(made));
      const message: UIMessage = { id: "m", role: "user", parts: [{ type: "text", text: BAD }] };
      const rest = { chatId: "s", messageId: undefined, abortSignal: undefined, body: { [BAD]: BAD } };
      return transport.sendMessages({ trigger: "submit-message", messages: [message], ...rest });
    }],
  ])("%s", async (_, act) => {
    await act();
    expect(bodies.length).toBeGreaterThan(0);
    for (const body of bodies) {
      expect(body).not.toMatch(UNSTORABLE);
      expect(canStore(body)).toBe(true);
    }
    expect(bodies.at(-1)).toContain(GOOD);
  });
});
