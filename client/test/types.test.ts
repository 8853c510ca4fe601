/** The public types. A wrong expectation here does not compile. */

import { expectTypeOf, test } from "vitest";
import type { Json, Message, SessionSnapshot, Streamed } from "../src/index.ts";

/** A class as BAML's TypeScript generator writes it. */
interface Invoice {
  reply: string;
  total: number;
  due?: string | null;
  lines: { name: string; price: number }[];
}

function reply(message: Message<Invoice>): void {
  if (message.role === "user") expectTypeOf(message.data).toEqualTypeOf<Json | null>();
  else if (message.status === "done") expectTypeOf(message.data).toEqualTypeOf<Invoice | null>();
  else expectTypeOf(message.data).toEqualTypeOf<Streamed<Invoice> | null>();
}

test("a result is complete when the reply is done and partial before", () => {
  expectTypeOf(reply).toBeFunction();
  expectTypeOf<Streamed<Invoice>["total"]>().toEqualTypeOf<number | null | undefined>();
  expectTypeOf<NonNullable<Streamed<Invoice>["lines"]>[number]["name"]>().toEqualTypeOf<string | null | undefined>();
});

test("an untyped result is JSON", () => {
  expectTypeOf<Streamed<Json>>().toEqualTypeOf<Json>();
  expectTypeOf<SessionSnapshot["messages"][number]["data"]>().toEqualTypeOf<Json | null>();
});
