/** The types a frontend sees. What is wrong here does not compile. */

import { expectTypeOf, test } from "vitest";
import type { Json, Message, SessionSnapshot, Streamed } from "../src/index.ts";

/** As BAML's TypeScript generator writes a class. */
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

test("a result is whole when the reply is done, and may lack anything before", () => {
  expectTypeOf(reply).toBeFunction();
  expectTypeOf<Streamed<Invoice>["total"]>().toEqualTypeOf<number | null | undefined>();
  expectTypeOf<NonNullable<Streamed<Invoice>["lines"]>[number]["name"]>().toEqualTypeOf<string | null | undefined>();
});

test("without a type a result is any JSON", () => {
  expectTypeOf<Streamed<Json>>().toEqualTypeOf<Json>();
  expectTypeOf<SessionSnapshot["messages"][number]["data"]>().toEqualTypeOf<Json | null>();
});
