/** Tools and questions to the user in a `Chat` of the AI SDK. */

import { Chat } from "@ai-sdk/react";
import {
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
  type ChatInit,
  type UIMessage,
} from "ai";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { SupabaseChatTransport, readUIMessages } from "../src/ai.ts";
import type { AnySupabaseClient, Delta, Part } from "../src/types.ts";
import { Supabase } from "./stand-in.ts";
import { reply, timeAt } from "./world.ts";

let supabase: Supabase;
vi.mock("../src/backend.ts", async (importOriginal) => ({
  ...(await importOriginal<typeof import("../src/backend.ts")>()),
  supabaseBackend: () => supabase,
}));

const client = {} as AnySupabaseClient;
const ask = (id: string) => ({ type: "dynamic-tool", toolName: "ask", toolCallId: id, input: { title: `${id}?` } }) as const;
const open = (id: string) => ({ ...ask(id), state: "approval-requested", approval: { id } }) as const;
const text = (content: string) => ({ type: "text", text: content }) as const;
const until = (check: () => void) => vi.waitFor(check, { timeout: 3_000, interval: 5 });

let transport: SupabaseChatTransport;

beforeEach(() => {
  supabase = new Supabase();
  transport = new SupabaseChatTransport(client);
});

afterEach(() => transport.close());

function chatOf(options: Partial<ChatInit<UIMessage>> = {}): Chat<UIMessage> {
  const sendAutomaticallyWhen = lastAssistantMessageIsCompleteWithApprovalResponses;
  return new Chat({ id: "s", transport, sendAutomaticallyWhen, ...options });
}

/** The parts of the reply that a chat shows: only what a user sees. */
function shown(chat: Chat<UIMessage>): unknown[] {
  const parts = chat.messages.at(-1)?.parts.filter(({ type }) => type !== "step-start") ?? [];
  return parts.map((part) => {
    if (part.type === "text") return part.text;
    if (part.type !== "dynamic-tool") return part.type;
    return [part.toolCallId, part.state, part.approval?.approved, part.output ?? part.errorText].filter((one) => one !== undefined);
  });
}

/** Asks, and lets a worker begin with the reply. */
async function begin(chat: Chat<UIMessage>): Promise<void> {
  void chat.sendMessage({ text: "Write to Ann" });
  await until(() => expect(supabase.rows.size).toBe(1));
  await until(() => expect(supabase.listener).not.toBeNull());
  supabase.listener!.onConnection("live");
  const [question] = supabase.rows.values();
  supabase.set(reply({ reply_to: question!.id, updated_at: timeAt(1) }));
  supabase.change("r", { status: "running" });
}

function delta(attempt: number, seq: number, piece: Partial<Delta>): void {
  supabase.send("delta", { message_id: "r", reply_to: supabase.rows.get("r")!.reply_to, attempt, seq, ...piece });
}

/** Lets the reply wait for its user. */
function wait(...parts: Part[]): void {
  supabase.change("r", { status: "waiting", seq: 10, content: "May I? ", parts: [text("May I? "), ...parts] });
}

/** A worker goes on with the reply. */
function resume(...pieces: Partial<Delta>[]): void {
  const { attempt } = supabase.rows.get("r")!;
  supabase.change("r", { status: "running", attempt: attempt + 1, seq: 1 });
  pieces.forEach((piece, at) => delta(attempt + 1, at + 2, piece));
}

function finish(...parts: Part[]): void {
  const content = parts.map((part) => (part.type === "text" ? part.text : "")).join("");
  supabase.change("r", { status: "done", seq: 20, content, parts });
}

const answers = () => supabase.calls.filter((call) => call.startsWith("answer"));
const questions = () => supabase.calls.filter((call) => call.startsWith("insert"));
const output = (id: string, approved: boolean) =>
  ({ ...ask(id), state: "output-available", output: { approved }, approval: { id, approved } }) as const;

describe("a reply that asks", () => {
  let chat: Chat<UIMessage>;

  beforeEach(async () => {
    chat = chatOf();
    await begin(chat);
    delta(1, 1, { text: "May I? " });
    delta(1, 2, { part: open("send") });
    await until(() => expect(shown(chat)).toEqual(["May I? ", ["send", "approval-requested"]]));
    expect(chat.status).toBe("streaming");
    wait(open("send"));
    await until(() => expect(chat.status).toBe("ready"));
  });

  test("goes on in the same message when it is answered", async () => {
    await chat.addToolApprovalResponse({ id: "send", approved: true, reason: "Go on" });
    await until(() => expect(answers()).toEqual(['answer r send {"approved":true,"reason":"Go on"}']));
    resume({ part: output("send", true) }, { part: { type: "step-start" } }, { text: "Sent" });
    await until(() => expect(shown(chat)).toEqual(["May I? ", ["send", "output-available", true, { approved: true }], "Sent"]));
    expect(chat.status).toBe("streaming");
    finish(text("May I? "), output("send", true), { type: "step-start" }, text("Sent."));
    await until(() => expect(chat.status).toBe("ready"));
    expect(shown(chat)).toEqual(["May I? ", ["send", "output-available", true, { approved: true }], "Sent."]);
    expect(chat.messages.map(({ id, role }) => [id === "r", role])).toEqual([[false, "user"], [true, "assistant"]]);
    expect([questions(), answers()]).toEqual([["insert Write to Ann"], expect.objectContaining({ length: 1 })]);
    expect(chat.error).toBeUndefined();
  });

  test("shows the answer of another tab that was first", async () => {
    await supabase.answerMessage("r", "send", { approved: false });
    await chat.addToolApprovalResponse({ id: "send", approved: true });
    await until(() => expect(answers()).toHaveLength(2));
    resume({ text: "" });
    await until(() => expect(shown(chat)).toEqual(["May I? ", ["send", "approval-responded", false]]));
    finish(text("May I? "), output("send", false), { type: "step-start" }, text("Not sent."));
    await until(() => expect(chat.status).toBe("ready"));
    expect(shown(chat)).toEqual(["May I? ", ["send", "output-available", false, { approved: false }], "Not sent."]);
  });

  test("shows that an answer was late", async () => {
    supabase.isLate = true;
    await chat.addToolApprovalResponse({ id: "send", approved: true });
    await until(() => expect(answers()).toHaveLength(1));
    await until(() => expect(chat.status).toBe("submitted"));
    expect(shown(chat)).toEqual(["May I? ", ["send", "approval-responded", true]]);
    resume({ part: { ...ask("send"), state: "output-error", errorText: "No answer in time." } });
    await until(() => expect(shown(chat)).toEqual(["May I? ", ["send", "output-error", "No answer in time."]]));
  });

  test("asks in each page that is loaded, and is answered there", async () => {
    const other = chatOf({ messages: await readUIMessages(client, "s") });
    await other.resumeStream();
    expect([other.status, shown(other)]).toEqual(["ready", ["May I? ", ["send", "approval-requested"]]]);
    await other.addToolApprovalResponse({ id: "send", approved: true });
    await until(() => expect(answers()).toHaveLength(1));
    resume({ part: output("send", true) });
    await until(() => expect(shown(other)).toEqual(["May I? ", ["send", "output-available", true, { approved: true }]]));
    expect(other.messages).toHaveLength(2);
  });

  test("stops at once while it goes on", async () => {
    await chat.addToolApprovalResponse({ id: "send", approved: true });
    await until(() => expect(answers()).toHaveLength(1));
    await until(() => expect(chat.status).toBe("submitted"));
    await chat.stop();
    await until(() => expect(supabase.calls.at(-1)).toMatch(/^cancel /));
    expect(chat.status).toBe("ready");
  });

  test("is cancelled by another tab", async () => {
    await chat.addToolApprovalResponse({ id: "send", approved: true });
    await until(() => expect(answers()).toHaveLength(1));
    const stopped = { ...ask("send"), state: "output-error", errorText: "Stopped.", approval: { id: "send" } } as const;
    supabase.change("r", { status: "cancelled", parts: [text("May I? "), stopped] });
    await until(() => expect(shown(chat)).toEqual(["May I? ", ["send", "output-error", "Stopped."]]));
    await until(() => expect(chat.status).toBe("ready"));
    expect(answers()).toHaveLength(1);
  });

  test("can be answered again after an error", async () => {
    supabase.refuse = Object.assign(new Error("Could not reach the server."), { code: null, isRetryable: true }) as never;
    await chat.addToolApprovalResponse({ id: "send", approved: true });
    await until(() => expect(chat.status).toBe("error"));
    supabase.refuse = null;
    void chat.sendMessage();
    await until(() => expect(answers()).toHaveLength(2));
    expect(supabase.rows.get("r")!.status).toBe("queued");
    expect(questions()).toHaveLength(1);
  });
});

test("two questions are sent when both have an answer", async () => {
  const chat = chatOf();
  await begin(chat);
  wait(open("one"), open("two"));
  await until(() => expect(chat.status).toBe("ready"));
  await chat.addToolApprovalResponse({ id: "one", approved: true });
  expect(answers()).toEqual([]);
  await chat.addToolApprovalResponse({ id: "two", approved: false });
  await until(() => expect(answers()).toHaveLength(2));
  expect(supabase.rows.get("r")).toMatchObject({ status: "queued" });
  expect(answers()).toEqual(['answer r one {"approved":true}', 'answer r two {"approved":false}']);
});

test("a choice is answered with the output of a tool", async () => {
  const chat = chatOf({ sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls });
  await begin(chat);
  wait(open("send"));
  await until(() => expect(chat.status).toBe("ready"));
  await chat.addToolOutput({ tool: "ask", toolCallId: "send", output: { choice: "yes" } });
  await until(() => expect(answers()).toEqual(['answer r send {"choice":"yes"}']));
  const chosen = { ...output("send", false), output: { choice: "yes" } };
  resume({ part: chosen }, { part: { type: "step-start" } }, { text: "Sent" });
  await until(() => expect(shown(chat).at(-1)).toEqual("Sent"));
  finish(text("May I? "), chosen, { type: "step-start" }, text("Sent."));
  await until(() => expect(chat.status).toBe("ready"));
  expect(shown(chat).map((part) => (Array.isArray(part) ? part.at(-1) : part))).toEqual(["May I? ", { choice: "yes" }, "Sent."]);
  expect(answers()).toHaveLength(1);
});

test("a reply that waits for a time stays open, and can be stopped", async () => {
  const chat = chatOf();
  await begin(chat);
  wait();
  await until(() => expect(shown(chat)).toEqual(["May I? "]));
  expect(chat.status).toBe("streaming");
  await chat.stop();
  await until(() => expect(supabase.calls.at(-1)).toMatch(/^cancel /));
});

test("a takeover keeps the finished steps and takes back the rest", async () => {
  const chat = chatOf();
  await begin(chat);
  const call = { type: "dynamic-tool", toolName: "fetch", toolCallId: "fetch", input: { url: "/" } } as const;
  delta(1, 1, { part: { ...call, state: "input-available" } });
  delta(1, 2, { part: { ...call, state: "output-available", output: 1 } });
  delta(1, 3, { part: { type: "step-start" } });
  delta(1, 4, { reasoning: "Hm" });
  delta(1, 5, { text: "Half" });
  await until(() => expect(shown(chat)).toEqual([["fetch", "output-available", 1], "reasoning", "Half"]));
  supabase.change("r", { attempt: 2, seq: 1, content: "", parts: [{ ...call, state: "output-available", output: 1 }] });
  await until(() => expect(shown(chat)).toEqual([["fetch", "output-available", 1]]));
  delta(2, 2, { part: { type: "step-start" } });
  delta(2, 3, { text: "Whole" });
  await until(() => expect(shown(chat)).toEqual([["fetch", "output-available", 1], "Whole"]));
  expect(chat.messages.at(-1)!.parts.filter(({ type }) => type === "step-start")).toHaveLength(2);
});
