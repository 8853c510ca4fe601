import type { UIMessageChunk } from "ai";
import { beforeEach, describe, expect, test } from "vitest";
import { ReplyChunks } from "../src/chunks.ts";
import { partsOf } from "../src/parts.ts";
import type { MessageRow, Part, SessionSnapshot } from "../src/types.ts";
import { question, reply, timeAt } from "./world.ts";

function snapshot(...messages: MessageRow[]): SessionSnapshot {
  const rest = { files: [], connection: "live", ready: true, hasOlder: false, busy: false, asks: [], error: null } as const;
  return { messages: messages.map((row) => ({ ...row, parts: partsOf(row) })) as readonly unknown[] as SessionSnapshot["messages"], ...rest };
}

function update(chunks: ReplyChunks, change: Partial<MessageRow>): UIMessageChunk[] {
  return [...chunks.next(snapshot(question(), reply(change)))];
}

const types = (chunks: UIMessageChunk[]) => chunks.map(({ type }) => type);

test("a reply streams from start to end, each piece once", () => {
  const chunks = new ReplyChunks("q");
  expect([...chunks.next(snapshot(question()))]).toEqual([]);
  expect(update(chunks, {})).toEqual([{ type: "start", messageId: "r" }, { type: "start-step" }]);
  expect(update(chunks, { content: "Good" })).toEqual([
    { type: "text-start", id: "text-1" },
    { type: "text-delta", id: "text-1", delta: "Good" },
  ]);
  expect(update(chunks, { content: "Good" })).toEqual([]);
  expect(update(chunks, { content: "Good day", status: "done" })).toEqual([
    { type: "text-delta", id: "text-1", delta: " day" },
    { type: "text-end", id: "text-1" },
    { type: "finish-step" },
    { type: "finish", finishReason: "stop" },
  ]);
  expect(chunks.ended).toBe(true);
  expect(update(chunks, { content: "more", status: "done" })).toEqual([]);
});

test("a new attempt and a revised text reset the step", () => {
  const chunks = new ReplyChunks("q");
  update(chunks, { content: "Good day" });
  expect(types(update(chunks, { attempt: 2, content: "" }))).toEqual(["reset-step"]);
  expect(update(chunks, { attempt: 2, content: "Good" })).toEqual([
    { type: "text-start", id: "text-2" },
    { type: "text-delta", id: "text-2", delta: "Good" },
  ]);
  expect(types(update(chunks, { attempt: 2, content: "Bad" }))).toEqual(["reset-step", "text-start", "text-delta"]);
  // what a new attempt keeps is not taken back
  expect(types(update(chunks, { attempt: 3, content: "Badly" }))).toEqual(["text-delta"]);
});

test("the replaced reply produces no chunks and does not end the stream", () => {
  const before = [question({ status: "done" }), reply({ content: "old", status: "done", updated_at: timeAt(1) })] as const;
  const chunks = new ReplyChunks("q", snapshot(...before).messages);
  expect([...chunks.next(snapshot(...before))]).toEqual([]); // the retry is not readable yet
  expect(update(chunks, { content: "old", status: "queued", updated_at: timeAt(2) })).toEqual([]);
  expect(types(update(chunks, { attempt: 2, content: "new" }))).toEqual(["start", "start-step", "text-start", "text-delta"]);
});

test("a retry that is cancelled before it starts ends the stream", () => {
  const before = reply({ content: "old", status: "done", updated_at: timeAt(1) });
  const chunks = new ReplyChunks("q", snapshot(before).messages);
  expect(update(chunks, { ...before, status: "queued", updated_at: timeAt(2) })).toEqual([]);
  expect(types(update(chunks, { ...before, status: "cancelled", updated_at: timeAt(3) })).at(-1)).toBe("abort");
});

test("a structured result is sent whenever it changes", () => {
  const chunks = new ReplyChunks("q");
  const data = { rows: [1] };
  expect(update(chunks, { data }).at(-1)).toEqual({ type: "data-result", id: "result", data });
  expect(update(chunks, { data })).toEqual([]);
});

test.each([
  [{ status: "cancelled", content: "a" } as const, ["start", "start-step", "text-start", "text-delta", "text-end", "finish-step", "abort"]],
  [{ status: "failed", error: { code: "x", message: "no" } } as const, ["start", "start-step", "finish-step", "error"]],
])("a reply that does not finish: %o", (change, expected) => {
  expect(types(update(new ReplyChunks("q"), change))).toEqual(expected);
});

test("a question that is cancelled before its reply starts ends the stream", () => {
  const chunks = new ReplyChunks("q");
  expect(types([...chunks.next(snapshot(question({ status: "cancelled" })))])).toEqual(["abort"]);
});

test("deleting the conversation ends the stream", () => {
  const chunks = new ReplyChunks("q");
  expect([...chunks.next(snapshot())]).toEqual([]);
  update(chunks, { content: "Good" });
  expect([...chunks.next(snapshot())]).toEqual([{ type: "error", errorText: "This conversation was deleted." }]);
  expect(chunks.ended).toBe(true);
});

describe("a message that continues", () => {
  const ask = { type: "dynamic-tool", toolName: "ask", toolCallId: "send", input: { title: "Send it?" } } as const;
  const asked: Part = { ...ask, state: "approval-requested", approval: { id: "send" } };
  const yes: Part = { ...ask, state: "approval-responded", approval: { id: "send", approved: true } };
  const waiting = { status: "waiting", content: "May I? ", parts: [{ type: "text", text: "May I? " }, asked] } as const;
  const known: Part[] = [{ type: "text", text: "May I? " }, yes];
  let chunks: ReplyChunks;

  beforeEach(() => {
    chunks = new ReplyChunks("q", [], known);
  });

  test("starts with nothing that is known, and does not ask again before the row has the answer", () => {
    expect(update(chunks, { ...waiting, parts: [...waiting.parts] })).toEqual([{ type: "start", messageId: "r" }]);
    expect(chunks.ended).toBe(false);
    const parts: Part[] = [known[0]!, yes, { type: "step-start" }];
    expect(update(chunks, { attempt: 2, content: "May I? Sent.", parts })).toEqual([
      { type: "finish-step" },
      { type: "start-step" },
      { type: "text-start", id: "text-1" },
      { type: "text-delta", id: "text-1", delta: "Sent." },
    ]);
  });

  test("shows what the row says of the answer", () => {
    const no = { id: "send", approved: false };
    expect(update(chunks, { content: "May I? ", parts: [known[0]!, { ...ask, state: "approval-responded", approval: no }] })).toEqual([
      { type: "start", messageId: "r" },
      { type: "tool-approval-response", approvalId: "send", approved: false },
    ]);
    const late = { ...ask, state: "output-error", errorText: "No answer in time." } as const;
    expect(types(update(chunks, { content: "May I? ", parts: [known[0]!, late] }))).toEqual(["tool-approval-request", "tool-output-error"]);
  });

  test("ends again with the next question", () => {
    const next: Part = { ...asked, toolCallId: "more", approval: { id: "more" } };
    const change = { ...waiting, parts: [known[0]!, yes, next] };
    expect(update(chunks, change).slice(1)).toEqual([
      { type: "tool-input-available", toolCallId: "more", toolName: "ask", input: ask.input, dynamic: true },
      { type: "tool-approval-request", toolCallId: "more", approvalId: "more" },
      { type: "finish-step" },
      { type: "finish", finishReason: "tool-calls" },
    ]);
  });
});

test("a reply that waits for a time is not at its end", () => {
  const chunks = new ReplyChunks("q");
  expect(types(update(chunks, { status: "waiting", content: "Later. " }))).toEqual(["start", "start-step", "text-start", "text-delta"]);
  expect(chunks.ended).toBe(false);
});

test("rows that are read again produce no chunks", () => {
  const chunks = new ReplyChunks("q");
  const parts = (): Part[] => [
    { type: "reasoning", text: "Hm" },
    { type: "dynamic-tool", toolName: "fetch", toolCallId: "fetch", state: "output-available", input: { a: 1, b: [2] }, output: { c: 3 } },
    { type: "data-chart", id: "chart", data: { d: [4] } },
    { type: "source-url", sourceId: "s", url: "https://example.com" },
  ];
  expect(update(chunks, { parts: parts() })).toHaveLength(9);
  expect(update(chunks, { parts: parts() })).toEqual([]);
  const changed = parts();
  changed[2] = { type: "data-chart", id: "chart", data: { d: [5] } };
  expect(update(chunks, { parts: changed })).toEqual([changed[2]]);
});
