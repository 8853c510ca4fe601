/** What a response of Supabase, or of something between, becomes. */

import { expect, test } from "vitest";
import { unwrap } from "../src/backend.ts";
import { RequestError } from "../src/index.ts";

function thrown(status: number, message: string, code?: string): RequestError {
  try {
    unwrap({ data: null, error: code === undefined ? { message } : { message, code }, status });
  } catch (error) {
    if (error instanceof RequestError) return error;
  }
  throw new Error("no RequestError was thrown");
}

test("a refusal says what the database said", () => {
  expect(thrown(400, "The message is empty.", "PT400")).toMatchObject({ message: "The message is empty.", code: "PT400" });
  expect(thrown(500, "deadlock detected", "40P01")).toMatchObject({ message: "deadlock detected", code: "40P01" });
  expect(thrown(401, "Invalid API key")).toMatchObject({ message: "Invalid API key", code: null });
});

test("a page of a gateway is not shown, nor the runtime's words for no answer", () => {
  expect(thrown(502, "<html><h1>Bad gateway</h1></html>").message).toBe("The server could not answer (status 502).");
  expect(thrown(0, "TypeError: fetch failed").message).toBe("The server could not be reached.");
});

test("data is given as it came", () => {
  expect(unwrap({ data: [1], error: null, status: 200 })).toEqual([1]);
});
