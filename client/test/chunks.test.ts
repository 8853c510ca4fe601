import type { UIMessageChunk } from "ai";
import { expect, test } from "vitest";
import { ReplyChunks } from "../src/chunks.ts";
import type { MessageRow, SessionSnapshot } from "../src/types.ts";
import { question, reply, timeAt } from "./world.ts";

function snapshot(...messages: MessageRow[]): SessionSnapshot {
  const rest = { files: [], connection: "live", ready: true, hasOlder: false, busy: false, error: null } as const;
  return { messages: messages as readonly unknown[] as SessionSnapshot["messages"], ...rest };
}

function told(chunks: ReplyChunks, change: Partial<MessageRow>): UIMessageChunk[] {
  return [...chunks.next(snapshot(question(), reply(change)))];
}

const types = (chunks: UIMessageChunk[]) => chunks.map(({ type }) => type);

test("a reply is told from its first word to its end, each piece once", () => {
  const chunks = new ReplyChunks("q");
  expect([...chunks.next(snapshot(question()))]).toEqual([]);
  expect(told(chunks, {})).toEqual([{ type: "start", messageId: "r" }, { type: "start-step" }]);
  expect(told(chunks, { content: "Good" })).toEqual([
    { type: "text-start", id: "text-1" },
    { type: "text-delta", id: "text-1", delta: "Good" },
  ]);
  expect(told(chunks, { content: "Good" })).toEqual([]);
  expect(told(chunks, { content: "Good day", status: "done" })).toEqual([
    { type: "text-delta", id: "text-1", delta: " day" },
    { type: "text-end", id: "text-1" },
    { type: "finish-step" },
    { type: "finish", finishReason: "stop" },
  ]);
  expect(chunks.ended).toBe(true);
  expect(told(chunks, { content: "more", status: "done" })).toEqual([]);
});

test("a new attempt, and a text that was taken back, begin anew", () => {
  const chunks = new ReplyChunks("q");
  told(chunks, { content: "Good day" });
  expect(types(told(chunks, { attempt: 2, content: "" }))).toEqual(["reset-step"]);
  expect(told(chunks, { attempt: 2, content: "Good" })).toEqual([
    { type: "text-start", id: "text-2" },
    { type: "text-delta", id: "text-2", delta: "Good" },
  ]);
  expect(types(told(chunks, { attempt: 2, content: "Bad" }))).toEqual(["reset-step", "text-start", "text-delta"]);
  expect(types(told(chunks, { attempt: 3, content: "Badly" }))).toEqual(["reset-step", "text-start", "text-delta"]);
});

test("what was there before a retry is not told, nor taken for its end", () => {
  const before = [question({ status: "done" }), reply({ content: "old", status: "done", updated_at: timeAt(1) })] as const;
  const chunks = new ReplyChunks("q", snapshot(...before).messages);
  expect([...chunks.next(snapshot(...before))]).toEqual([]); // the retry cannot be read yet
  expect(told(chunks, { content: "old", status: "queued", updated_at: timeAt(2) })).toEqual([]);
  expect(types(told(chunks, { attempt: 2, content: "new" }))).toEqual(["start", "start-step", "text-start", "text-delta"]);
});

test("a retry that is stopped before it begins has ended", () => {
  const before = reply({ content: "old", status: "done", updated_at: timeAt(1) });
  const chunks = new ReplyChunks("q", snapshot(before).messages);
  expect(told(chunks, { ...before, status: "queued", updated_at: timeAt(2) })).toEqual([]);
  expect(types(told(chunks, { ...before, status: "cancelled", updated_at: timeAt(3) })).at(-1)).toBe("abort");
});

test("a structured result is told whenever it changes", () => {
  const chunks = new ReplyChunks("q");
  const data = { rows: [1] };
  expect(told(chunks, { data }).at(-1)).toEqual({ type: "data-result", id: "result", data });
  expect(told(chunks, { data })).toEqual([]);
});

test.each([
  [{ status: "cancelled", content: "a" } as const, ["start", "start-step", "text-start", "text-delta", "text-end", "finish-step", "abort"]],
  [{ status: "failed", error: { code: "x", message: "no" } } as const, ["start", "start-step", "finish-step", "error"]],
])("a reply that ends otherwise: %o", (change, expected) => {
  expect(types(told(new ReplyChunks("q"), change))).toEqual(expected);
});

test("a question that ends without a reply", () => {
  const chunks = new ReplyChunks("q");
  expect(types([...chunks.next(snapshot(question({ status: "cancelled" })))])).toEqual(["abort"]);
});

test("a conversation that is deleted meanwhile ends the stream", () => {
  const chunks = new ReplyChunks("q");
  expect([...chunks.next(snapshot())]).toEqual([]);
  told(chunks, { content: "Good" });
  expect([...chunks.next(snapshot())]).toEqual([{ type: "error", errorText: "The conversation is gone." }]);
  expect(chunks.ended).toBe(true);
});
