/** Every refusal is a sentence, whoever gives it: the database, PostgREST, a gateway, the network. */

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { RequestError, openSession, openSessionList, type AnySupabaseClient } from "../src/index.ts";
import { unwrap } from "../src/backend.ts";
import { Rest, SESSION, USER, message, uuid, type Row } from "./rest.ts";

const SIGN_IN = "You are not signed in. Sign in again.";
const NOT_ALLOWED = "You may not do this.";
const BUSY = "The server is busy. Try again in a moment.";
const INVALID = "A value is missing, too long or invalid.";
const TOO_LARGE = "This is too large.";
const NO_LINE = "Could not reach the server.";
const PAGE = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>nginx</body></html>";

function failure(status: number, body: unknown): RequestError {
  try {
    unwrap({ data: null, error: body, status });
  } catch (error) {
    if (error instanceof RequestError) return error;
  }
  throw new Error("expected a RequestError");
}

test.each([
  [400, "22P02", 'invalid input syntax for type uuid: "abc"', '"abc" is not a valid id.'],
  [400, "22P02", 'invalid input syntax for type bigint: "abc"', INVALID],
  [400, "22P05", "unsupported Unicode escape sequence", INVALID],
  [400, "22021", 'invalid byte sequence for encoding "UTF8": 0x00', INVALID],
  [400, "PGRST102", "Empty or invalid json", INVALID],
  [400, "23502", 'null value in column "content" of relation "messages" violates not-null constraint', INVALID],
  [409, "23503", 'insert or update on table "code_files" violates foreign key constraint', "This was deleted."],
  [409, "23505", 'duplicate key value violates unique constraint "code_files_session_path_key"', "This already exists."],
  [400, "23514", 'new row for relation "sessions" violates check constraint "sessions_title_size"', INVALID],
  [400, "23514", '"metadata" must be a JSON object of at most 16384 bytes (16 KiB)', '"metadata" must be a JSON object of at most 16384 bytes (16 KiB)'],
  [401, "42501", "permission denied for table messages", SIGN_IN],
  [403, "42501", 'new row violates row-level security policy for table "sessions"', NOT_ALLOWED],
  [403, "42501", "Session x does not exist or is not yours", "Session x does not exist or is not yours"],
  [404, "42P01", 'relation "public.messages" does not exist', "The server is not set up for this."],
  [404, "PGRST202", "Could not find the function public.cancel_message in the schema cache", "The server is not set up for this."],
  [401, "PGRST301", "JWT expired", SIGN_IN],
  [401, "PGRST303", "JWT expired", SIGN_IN],
  [401, "PGRST302", "Anonymous access is disabled", SIGN_IN],
  [406, "PGRST116", "Cannot coerce the result to a single JSON object", "This was deleted."],
  [500, "57014", "canceling statement due to statement timeout", BUSY],
  [500, "40001", "could not serialize access due to concurrent update", BUSY],
  [503, "53300", "sorry, too many clients already", BUSY],
  [503, "PGRST000", "Could not connect with the database due to an invalid connection string", BUSY],
  [504, "PGRST003", "Timed out acquiring connection from connection pool.", BUSY],
  [500, "XX000", "cache lookup failed for function 12345", BUSY],
  [500, "54001", "stack depth limit exceeded", TOO_LARGE],
  [413, "PT413", "The message is longer than 32768 bytes", "The message is longer than 32768 bytes"],
  [400, "P0001", "A rule of the application", "A rule of the application"],
])("status %i with %s, %j", (status, code, text, expected) => {
  const error = failure(status, { code, message: text, hint: null, details: null });
  expect(error).toMatchObject({ message: expected, code, isRetryable: status >= 500 });
});

test.each([
  [401, { message: "Invalid API key" }, "Invalid API key"],
  [401, { message: "" }, SIGN_IN],
  [403, { message: PAGE }, NOT_ALLOWED],
  [404, { message: PAGE }, "The server failed to respond (status 404)."],
  [413, { message: PAGE }, TOO_LARGE],
  [413, {}, TOO_LARGE],
  [414, null, TOO_LARGE],
  [429, { message: PAGE }, "Too many requests. Try again in a moment."],
  [429, { message: "Slow down.", hint: "Try again in 5 s." }, "Slow down. Try again in 5 s."],
  [429, { message: PAGE, hint: "Try again in 5 s." }, "Too many requests. Try again in a moment. Try again in 5 s."],
  [500, "oops", "The server failed to respond (status 500)."],
  [502, { message: PAGE }, "The server failed to respond (status 502)."],
  [503, { error: { message: { deep: 1 } } }, "The server failed to respond (status 503)."],
  [503, [1], "The server failed to respond (status 503)."],
  [504, null, "The server failed to respond (status 504)."],
  [520, { message: "error code: 520" }, "The server failed to respond (status 520)."],
  [0, { message: "TypeError: fetch failed\n    at node:internal" }, NO_LINE],
])("status %i of a gateway, with %j", (status, body, expected) => {
  expect(failure(status, body)).toMatchObject({ message: expected, isRetryable: status === 0 || status >= 500 });
});

describe("through supabase-js", () => {
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

  const text = fc.oneof(fc.string(), fc.string({ unit: "binary", maxLength: 400 }), fc.constant(PAGE), fc.constant(""), fc.constant("null"));
  const code = fc.constantFrom("23514", "22P02", "42501", "PGRST301", "57014", "PT429", "PT400", "40P01", "XX000", "99999", "PGRST999", "");
  const body = fc.oneof(
    text,
    fc.json(),
    fc.record({ code, message: text, hint: fc.oneof(text, fc.constant(null)) }).map((fields) => JSON.stringify(fields)),
  );
  const answer = fc.oneof(
    { weight: 8, arbitrary: fc.tuple(fc.integer({ min: 400, max: 599 }), body) },
    { weight: 1, arbitrary: fc.constant(null) },
  );

  test("any answer ends a request with a sentence or a reason to repeat it, and nothing is unhandled", async () => {
    await fc.assert(
      fc.asyncProperty(answer, async (given) => {
        const respond = () => (given === null ? new TypeError("fetch failed") : new Response(given[1], { status: given[0] }));
        rest.answers = [];
        const session = openSession(client, SESSION);
        const list = openSessionList(client, USER);
        await vi.advanceTimersByTimeAsync(100);
        const acts = [
          () => session.cancel(uuid(1)),
          () => session.files.add("a.py"),
          () => session.files.readVersions(uuid(1)),
          () => list.create({ title: "t" }),
          () => list.rename(uuid(1), "t"),
          () => session.send("Hello?"),
        ];
        for (const act of acts) {
          rest.answers = Array.from({ length: 6 }, respond); // supabase-js repeats some reads
          const acted = act().then(
            () => null,
            (error: unknown) => error,
          );
          await vi.advanceTimersByTimeAsync(16_000);
          rest.answers = [];
          await vi.advanceTimersByTimeAsync(16_000);
          const error = await acted;
          const reason = session.getSnapshot().messages[1]?.error?.message;
          for (const sentence of [error === null ? reason : (error as RequestError).message]) {
            if (sentence === undefined) continue;
            expect(sentence).toMatch(/\S/);
            expect(sentence).not.toMatch(/<html|\n\s+at |^\s*[[{]/);
          }
          if (error !== null) expect(error).toBeInstanceOf(RequestError);
        }
        expect(session.getSnapshot().messages.map(({ status }) => status)).not.toContain("sending");
        session.close();
        list.close();
        rest.tables.set("messages", rest.rows("messages").slice(0, 1));
      }),
      { numRuns: 60, examples: [[[400, JSON.stringify({ code: "PT429", message: PAGE, hint: PAGE })]]] },
    );
  });

  test.each([
    ["an HTML page with status 200", () => new Response(PAGE, { status: 200, headers: { "content-type": "text/html" } })],
    ["an empty body", () => new Response("", { status: 200 })],
    ["JSON of another kind", () => Response.json("captive portal")],
    ["null", () => Response.json(null)],
    ["a lost connection", () => new TypeError("fetch failed")],
  ])("%s instead of rows is no answer, and is asked for again", async (_, respond) => {
    rest.answers = [respond(), respond(), respond()];
    const session = openSession(client, SESSION);
    opened.push(session);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(session.getSnapshot()).toMatchObject({ ready: true, error: null, messages: [{ id: uuid(1) }] });
    rest.answers = [respond()];
    const sent = session.send("Hello?");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await sent).toBe(true);
    expect(rest.rows("messages")).toHaveLength(2);
  });

  test("a request that is never answered ends", async () => {
    const session = openSession(client, SESSION);
    opened.push(session);
    await vi.advanceTimersByTimeAsync(100);
    vi.spyOn(rest, "fetch").mockImplementation(() => new Promise(() => undefined)); // ignores the signal
    const cancelled = expect(session.cancel(uuid(1))).rejects.toThrow(NO_LINE);
    await vi.advanceTimersByTimeAsync(16_000);
    await cancelled;
  });
});
