/** The transport under a `Chat` of the AI SDK, against a running Supabase. */

import { Chat } from "@ai-sdk/react";
import type { SupabaseClient } from "@supabase/supabase-js";
import type { UIMessage } from "ai";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { SupabaseChatTransport, readUIMessages } from "../src/ai.ts";
import { newId, openSessionList, type Database, type SessionList } from "../src/index.ts";
import { Worker, absent, signUp, until } from "./devstack.ts";

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
    transport.close();
    await worker.stop();
  });

  const open = (messages: UIMessage[] = [], generateId: () => string = newId) =>
    new Chat({ id, transport, messages, generateId });
  const texts = (chat: { messages: UIMessage[] }) =>
    chat.messages.map(({ parts }) => parts.map((part) => (part.type === "text" ? part.text : "")).join(""));
  const rows = async () => (await client.from("messages").select().eq("session_id", id).order("ordinal")).data!;

  /** The worker answers what is asked next, in one piece. */
  async function answer(content: string): Promise<void> {
    const job = await worker.claim();
    await worker.finish(job, { outcome: "done", content, seq: 1 });
  }

  test("what is shown has the ids of the rows", async () => {
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

  test("a message in other words is asked, and its reply begun anew", async () => {
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

    const anew = chat.regenerate();
    await until(async () => expect((await rows()).at(-1)?.status).toBe("queued"));
    await answer("Good evening");
    await anew;
    expect(texts(chat)).toEqual(["Hello", "Good evening"]);
    expect(await rows()).toHaveLength(4);
  });

  test("ids that are no row's are given one", async () => {
    let count = 0;
    const chat = open([], () => `m${count++}`);
    const sent = chat.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    await answer("Good day");
    await sent;
    expect(texts(chat)).toEqual(["Hello?", "Good day"]);
    const anew = chat.regenerate();
    await until(async () => expect((await rows()).at(-1)?.status).toBe("queued"));
    await answer("Good evening");
    await anew;
    expect(texts(chat)).toEqual(["Hello?", "Good evening"]);
    expect(await rows()).toHaveLength(2);
  });

  test("a stop ends the reply where it is", async () => {
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

  test("a reply that runs is resumed from its first word; where none runs there is nothing to resume", async () => {
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

  test("a refused message and a failed reply are errors with a sentence", async () => {
    const chat = open();
    await chat.sendMessage({ text: "x".repeat(40_000) });
    expect(chat.error?.message).toContain("too long");
    expect(await rows()).toEqual([]);

    const other = open();
    const sent = other.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const job = await worker.claim();
    await worker.finish(job, { outcome: "failed", content: "", seq: 0, error: { code: "x", message: "The model is busy." } });
    await sent;
    expect(other.error?.message).toBe("The model is busy.");
  });

  test("a question from before the newest page is answered anew", async () => {
    for (let at = 0; at < 12; at++) {
      const { error } = await client.from("messages").insert({ session_id: id, content: `${at}` } as never);
      expect(error).toBeNull();
      await answer(`answer ${at}`);
    }
    const chat = open(await readUIMessages(client, id));
    const anew = chat.regenerate({ messageId: chat.messages[1]!.id });
    await until(async () => expect((await rows())[1]?.status).toBe("queued"));
    await answer("another answer");
    await anew;
    expect(chat.error).toBeUndefined();
    expect(texts(chat)).toEqual(["0", "another answer"]);
  });

  test("a resume that another one replaces leaves the reply running", async () => {
    const { error } = await client.from("messages").insert({ session_id: id, content: "Hello?" } as never);
    expect(error).toBeNull();
    const job = await worker.claim();
    await worker.beat(job, 1, "Good ");
    const chat = open(await readUIMessages(client, id));
    const first = chat.resumeStream();
    await until(() => expect(chat.status).toBe("streaming"));
    const second = chat.resumeStream();
    await first;
    const third = chat.resumeStream(); // before the second one is shown
    await second;
    await worker.delta(job, 2, "day");
    await until(() => expect(texts(chat)).toEqual(["Hello?", "Good day"]));
    expect(await worker.beat(job, 2, "Good day")).toBe("ok");
    await chat.stop();
    await third;
    await until(async () => expect(await worker.beat(job, 2, "Good day")).toBe("cancel"));
    await worker.finish(job, { outcome: "done", content: "Good day", seq: 2 });
  });

  test("close ends what is shown and what waits, and leaves replies running", async () => {
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

  test("what waits for a worker that vanished says so", async () => {
    const { timeout } = AbortSignal;
    vi.spyOn(AbortSignal, "timeout").mockImplementation((ms) => timeout.call(AbortSignal, ms === 10_000 ? 1_000 : ms));
    const asked = open();
    void asked.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    const job = await worker.claim();
    const chat = open(await readUIMessages(client, id));
    await chat.sendMessage({ text: "Good day?", messageId: chat.messages[0]!.id });
    expect(chat.error?.message).toBe("The reply that is running could not be stopped yet. Try again in a moment.");
    await chat.regenerate();
    expect(chat.error?.message).toBe("The reply that is running could not be stopped yet. Try again in a moment.");
    await worker.finish(job, { outcome: "done", content: "", seq: 0 });
  });

  test("a session that is deleted ends the stream", async () => {
    const chat = open();
    const sent = chat.sendMessage({ text: "Hello?" });
    await until(async () => expect(await rows()).toHaveLength(1));
    await list.remove(id);
    await sent;
    expect(chat.error?.message).toBe("The conversation is gone.");
  });
});
