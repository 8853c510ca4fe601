/** How responses of Supabase and of gateways become data or errors. */

import { expect, test } from "vitest";
import { unwrap } from "../src/backend.ts";
import { RequestError } from "../src/index.ts";

function thrown(status: number, message: string, code?: string, hint: string | null = null): RequestError {
  try {
    unwrap({ data: null, error: code === undefined ? { message } : { message, code, hint }, status });
  } catch (error) {
    if (error instanceof RequestError) return error;
  }
  throw new Error("expected a RequestError");
}

test("errors of the database keep their message and code", () => {
  expect(thrown(400, "The message is empty.", "PT400")).toMatchObject({ message: "The message is empty.", code: "PT400" });
  expect(thrown(500, "deadlock detected", "40P01")).toMatchObject({ message: "deadlock detected", code: "40P01" });
  expect(thrown(401, "Invalid API key")).toMatchObject({ message: "Invalid API key", code: null });
});

test("a limit says when to try again, and no other hint is shown", () => {
  const limit = thrown(429, "Rate limit: 30 messages per minute", "PT429", "Try again in 42 s.");
  expect(limit).toMatchObject({ message: "Rate limit: 30 messages per minute. Try again in 42 s.", code: "PT429" });
  expect(thrown(429, "Daily limit reached: 9 tokens", "PT429").message).toBe("Daily limit reached: 9 tokens");
  const hint = "Write some text into content.";
  expect(thrown(400, "The message is empty", "PT400", hint).message).toBe("The message is empty");
});

test("gateway pages and network errors are replaced by a plain message", () => {
  expect(thrown(502, "<html><h1>Bad gateway</h1></html>").message).toBe("The server failed to respond (status 502).");
  expect(thrown(0, "TypeError: fetch failed").message).toBe("Could not reach the server.");
});

test("data is returned unchanged", () => {
  expect(unwrap({ data: [1], error: null, status: 200 })).toEqual([1]);
});
