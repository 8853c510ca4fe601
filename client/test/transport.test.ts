/** The transport in a `Chat` of the AI SDK, against a running Supabase. */

import { Chat } from "@ai-sdk/react";
import type { SupabaseClient } from "@supabase/supabase-js";
import { lastAssistantMessageIsCompleteWithApprovalResponses, type FileUIPart, type UIMessage } from "ai";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { SupabaseChatTransport, readUIMessages, signParts } from "../src/ai.ts";
import { newId, openSessionList, type Database, type SessionList } from "../src/index.ts";
import { Worker, absent, signUp, until } from "./devstack.ts";

/** How long the transport waits for a stopped reply to end. */
const stopWait = vi.hoisted(() => ({ ms: 10_000 }));
vi.mock("../src/timeout.ts", async (importOriginal) => {
  const { withTimeout } = await importOriginal<typeof import("../src/timeout.ts")>();
  return { withTimeout: ((ms, run) => withTimeout(ms === 10_000 ? stopWait.ms : ms, run)) as typeof withTimeout };
});

describe.skipIf(absent)("with Supabase", () => {
  let client: SupabaseClient<Database>;
  let list: SessionList;
  let transport: SupabaseChatTransport;
  let worker: Worker;
  let id: string;

  beforeAll(async () => {
    let userId: string;
    ({ client, userId } = await signUp());
    list = openSessionList(client, userId);
  });

  afterAll(async () => {
    list.close();
    await client.removeAllChannels();
  });

  beforeEach(async () => {
    ({ id } = await list.create());
    transport = new SupabaseChatTransport(client);
    worker = new Worker();
    await worker.join(id);
  });

  afterEach(async () => {
    stopWait.ms = 10_000;
    transport.close();
    await worker.stop();
  });

  const open = (messages: UIMessage[] = [], generateId: () => string = newId) =>
    new Chat({ id, transport, messages, generateId });
  const texts = (chat: { messages: UIMessage[] }) =>
    chat.messages.map(({ parts }) => parts.map((part) => (part.type === "text" ? part.text : "")).join(""));
  const rows = async () => (await client.from("messages").select().eq("session_id", id).order("ordinal")).data!;

  /** Answers the next question in one piece. */
  async function answer(content: string): Promise<void> {
    const job = await worker.claim();
    await worker.finish(job, { outcome: "done", content, seq: 1 });
  }

  test("messages have the ids of their rows", async () => {
    const chat = open();
    const sent = chat.sendMessage({ text: "Hello?" });
    await until(() => expect(chat.status).toBe("submitted"));
    await until(async () => expect(await rows()).toHaveLength(1));
    await answer("Good day");
    await sent;
    expect(texts(chat)).toEqual(["Hello?", "Good day"]);
    expect(chat.messages.map((message) => message.id)).toEqual((await rows()).map((row) => row.id));
    expect((await readUIMessages(client, id)).map((message) => message.id)).toEqual(chat.messages.map((m) => m.id));
  });

  test("an edited message is asked again, and its reply can be regenerated", async () => {
    const chat = open();
    const sent = chat.sendMessage({ text: "Helo" });
    await until(async () => expect(await rows()).toHaveLength(1));
    await answer("What?");
    await sent;
    const again = chat.sendMessage({ text: "Hello", messageId: chat.messages[0]!.id });
    await until(async () => expect(await rows()).toHaveLength(3));
    await answer("Good day");
    await again;
    expect(chat.error).toBeUndefined();
    expect(texts(chat)).toEqual(["Hello", "Good day"]);
    expect((await rows()).map(({ content }) => content)).toEqual(["Helo", "What?", "Hello", "Good day"]);

    const regenerated = chat.regenerate();
    await until(async () => expect((await rows()).at(-1)?.status).toBe("queued"));
    await answer("Good evening");
    await regenerated;
    expect(texts(chat)).toEqual(["Hello", "Good evening"]);
    expect(await rows()).toHaveLength(4);
  });

  test("messages whose ids are not UUIDs get row ids", async () => {
    let count = 0;
    const chat = open([], () => `m${count++}`);
    const sent = chat.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    await answer("Good day");
    await sent;
    expect(texts(chat)).toEqual(["Hello?", "Good day"]);
    const regenerated = chat.regenerate();
    await until(async () => expect((await rows()).at(-1)?.status).toBe("queued"));
    await answer("Good evening");
    await regenerated;
    expect(texts(chat)).toEqual(["Hello?", "Good evening"]);
    expect(await rows()).toHaveLength(2);
  });

  test("stop ends the reply and keeps its text", async () => {
    const chat = open();
    const sent = chat.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const job = await worker.claim();
    await worker.delta(job, 1, "Good");
    await until(() => expect(texts(chat)).toEqual(["Hello?", "Good"]));
    await chat.stop();
    await sent;
    expect(chat.status).toBe("ready");
    await until(async () => expect(await worker.beat(job, 1, "Good")).toBe("cancel"));
    await worker.finish(job, { outcome: "done", content: "Good", seq: 1 });
    await until(async () => expect((await rows()).at(-1)).toMatchObject({ status: "cancelled", content: "Good" }));
  });

  test("a running reply is resumed from its start, and an idle chat resumes nothing", async () => {
    const idle = open();
    await idle.resumeStream();
    expect(idle).toMatchObject({ status: "ready", error: undefined, messages: [] });

    const left = open();
    void left.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const job = await worker.claim();
    await worker.beat(job, 1, "Good ");
    const chat = open(await readUIMessages(client, id));
    expect(texts(chat)).toEqual(["Hello?", "Good "]);
    const resumed = chat.resumeStream();
    await until(() => expect(chat.status).toBe("streaming"));
    await worker.delta(job, 2, "day");
    await until(() => expect(texts(chat)).toEqual(["Hello?", "Good day"]));
    await worker.finish(job, { outcome: "done", content: "Good day.", seq: 3 });
    await resumed;
    expect(texts(chat)).toEqual(["Hello?", "Good day."]);
    await until(() => expect(texts(left)).toEqual(["Hello?", "Good day."]));
  });

  test("rejected messages and failed replies become errors with a message", async () => {
    const chat = open();
    const content = "x".repeat(40_000);
    const { error } = await client.from("messages").insert({ session_id: id, content } as never);
    await chat.sendMessage({ text: content });
    expect(error?.code).toBe("PT413");
    expect(chat.error?.message).toBe(error!.message);
    expect(await rows()).toEqual([]);

    const other = open();
    const sent = other.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const job = await worker.claim();
    await worker.finish(job, { outcome: "failed", content: "", seq: 0, error: { code: "x", message: "The model is busy." } });
    await sent;
    expect(other.error?.message).toBe("The model is busy.");
  });

  test("a question older than the newest page can be regenerated", async () => {
    for (let at = 0; at < 12; at++) {
      const { error } = await client.from("messages").insert({ session_id: id, content: `${at}` } as never);
      expect(error).toBeNull();
      await answer(`answer ${at}`);
    }
    const chat = open(await readUIMessages(client, id));
    const regenerated = chat.regenerate({ messageId: chat.messages[1]!.id });
    await until(async () => expect((await rows())[1]?.status).toBe("queued"));
    await answer("another answer");
    await regenerated;
    expect(chat.error).toBeUndefined();
    expect(texts(chat)).toEqual(["0", "another answer"]);
  });

  test("a resume that replaces another leaves the reply running", async () => {
    const { error } = await client.from("messages").insert({ session_id: id, content: "Hello?" } as never);
    expect(error).toBeNull();
    const job = await worker.claim();
    await worker.beat(job, 1, "Good ");
    const chat = open(await readUIMessages(client, id));
    const first = chat.resumeStream();
    await until(() => expect(chat.status).toBe("streaming"));
    const second = chat.resumeStream();
    await first;
    const third = chat.resumeStream(); // before the second one shows anything
    await second;
    await worker.delta(job, 2, "day");
    await until(() => expect(texts(chat)).toEqual(["Hello?", "Good day"]));
    expect(await worker.beat(job, 2, "Good day")).toBe("ok");
    await chat.stop();
    await third;
    await until(async () => expect(await worker.beat(job, 2, "Good day")).toBe("cancel"));
    await worker.finish(job, { outcome: "done", content: "Good day", seq: 2 });
  });

  test("close ends streams and pending resumes and leaves replies running", async () => {
    const waiting = transport.reconnectToStream({ chatId: id });
    transport.close();
    await expect(waiting).rejects.toMatchObject({ name: "AbortError" });

    const chat = open();
    const sent = chat.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const job = await worker.claim();
    await worker.beat(job, 1, "Good");
    await until(() => expect(texts(chat)).toEqual(["Hello?", "Good"]));
    transport.close();
    await sent;
    expect(chat).toMatchObject({ status: "ready", error: undefined });
    expect(await worker.beat(job, 1, "Good")).toBe("ok");
    await worker.finish(job, { outcome: "done", content: "Good day", seq: 2 });
    expect(texts(chat)).toEqual(["Hello?", "Good"]);
  });

  test("waiting for a dead worker to stop its reply times out with an error", async () => {
    stopWait.ms = 1_000;
    const asked = open();
    void asked.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const job = await worker.claim();
    const chat = open(await readUIMessages(client, id));
    await chat.sendMessage({ text: "Good day?", messageId: chat.messages[0]!.id });
    expect(chat.error?.message).toBe("The current reply is still stopping. Try again in a moment.");
    await chat.regenerate();
    expect(chat.error?.message).toBe("The current reply is still stopping. Try again in a moment.");
    await worker.finish(job, { outcome: "done", content: "", seq: 0 });
  });

  test("a question of the reply is answered, and the reply goes on in the same message", async () => {
    const sendAutomaticallyWhen = lastAssistantMessageIsCompleteWithApprovalResponses;
    const [chat, other] = [0, 1].map(() => new Chat({ id, transport, generateId: newId, sendAutomaticallyWhen }));
    const states = (of: Chat<UIMessage>) => of.messages.at(-1)!.parts.flatMap((part) => ("state" in part ? [part.state] : []));
    const sent = chat!.sendMessage({ text: "Write to Ann" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const first = await worker.claim();
    await worker.delta(first, 1, "May I? ");
    await worker.ask(first, "send", "May I? ", 2);
    await sent;
    expect(chat!.status).toBe("ready");
    expect(states(chat!)).toEqual(["done", "approval-requested"]);

    other!.messages = await readUIMessages(client, id);
    await other!.resumeStream();
    expect(states(other!)).toEqual(["done", "approval-requested"]);
    await chat!.addToolApprovalResponse({ id: "send", approved: true });
    await until(async () => expect((await rows()).at(-1)?.status).toBe("queued"));
    await other!.addToolApprovalResponse({ id: "send", approved: false });
    // a claim passes over a job that is locked, as it is while the other answer is refused
    const second = await vi.waitFor(() => worker.claim(), { timeout: 8_000, interval: 20 });
    expect([second.reply_id, second.attempt]).toEqual([first.reply_id, 2]);
    const part = { type: "dynamic-tool", toolName: "ask", toolCallId: "send", input: { title: "send?" } } as const;
    const answered = { ...part, state: "output-available", output: { approved: true }, approval: { id: "send", approved: true } } as const;
    await worker.delta(second, 2, { part: answered });
    await worker.delta(second, 3, { part: { type: "step-start" } });
    await worker.delta(second, 4, "Sent");
    for (const one of [chat!, other!]) await until(() => expect(texts(one)).toEqual(["Write to Ann", "May I? Sent"]));
    const parts = [{ type: "text", text: "May I? " }, answered, { type: "step-start" }, { type: "text", text: "Sent." }];
    await worker.finish(second, { outcome: "done", content: "May I? Sent.", parts, seq: 5 });
    for (const one of [chat!, other!]) {
      await until(() => expect(one.status).toBe("ready"));
      expect(texts(one)).toEqual(["Write to Ann", "May I? Sent."]);
      expect(one.messages.at(-1)!.parts.find(({ type }) => type === "dynamic-tool")).toMatchObject(answered);
    }
    expect(await rows()).toHaveLength(2);
  });

  test("files are stored, and are shown by signed URLs when the messages are read again", async () => {
    const chat = open();
    const bytes = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
    const url = `data:image/png;base64,${btoa(String.fromCharCode(...bytes))}`;
    const sent = chat.sendMessage({ files: [{ type: "file", mediaType: "image/png", filename: "a.png", url }] });
    await until(async () => expect(await rows()).toHaveLength(1));
    await answer("A picture");
    await sent;
    expect(chat.error).toBeUndefined();
    const [asked] = await signParts(client, await readUIMessages(client, id));
    expect(asked!.parts).toMatchObject([{ type: "file", mediaType: "image/png", filename: "a.png" }]);
    const response = await fetch((asked!.parts[0] as FileUIPart).url);
    expect(new Uint8Array(await response.arrayBuffer())).toEqual(bytes);

    const edited = chat.sendMessage({ messageId: asked!.id, parts: [...asked!.parts, { type: "text", text: "And now?" }] });
    await until(async () => expect(await rows()).toHaveLength(3));
    await answer("The same");
    await edited;
    const [first, , second] = await rows();
    expect(second).toMatchObject({ content: "And now?", attachments: first!.attachments });
  });

  test("deleting the session ends the stream", async () => {
    const chat = open();
    const sent = chat.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    await list.remove(id);
    await sent;
    expect(chat.error?.message).toBe("This conversation was deleted.");
  });
});
