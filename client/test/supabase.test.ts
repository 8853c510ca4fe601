/** The client against a running Supabase, through supabase-js and its default serializer. */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { SupabaseClient } from "@supabase/supabase-js";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { supabaseBackend } from "../src/backend.ts";
import {
  RequestError,
  newId,
  openSession,
  openSessionList,
  type ChatSession,
  type Database,
  type SessionList,
} from "../src/index.ts";
import { Worker, absent, signUp, sockets, until } from "./devstack.ts";

describe.skipIf(absent)("with Supabase", () => {
  let client: SupabaseClient<Database>;
  let list: SessionList;
  let chat: ChatSession;
  let worker: Worker;

  const last = () => chat.getSnapshot().messages.at(-1);

  beforeAll(async () => {
    let userId: string;
    ({ client, userId } = await signUp());
    list = openSessionList(client, userId);
    await until(() => expect(list.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));
  });

  afterAll(async () => {
    list.close();
    await client.removeAllChannels();
  });

  beforeEach(async () => {
    const { id } = await list.create({ function: "Code" });
    chat = openSession(client, id);
    worker = new Worker();
    await worker.join(id);
    await until(() => expect(chat.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));
  });

  afterEach(async () => {
    chat.close();
    await worker.stop();
  });

  test("a session is created once under its id", async () => {
    const id = newId();
    const first = await list.create({ id, function: "Code" });
    expect(await list.create({ id, function: "Code" })).toEqual(first);
  });

  test("a question is answered with deltas, the row, a file and the title", async () => {
    expect(await chat.send("Write code.")).toBe(true);
    expect(last()?.status).toBe("queued");
    const job = await worker.claim();
    await worker.delta(job, 1, "Here ");
    await worker.delta(job, 2, "it is");
    await until(() => expect(last()).toMatchObject({ content: "Here it is", status: "running", seq: 2 }));
    const files = [{ path: "a.py", content: "x".repeat(40_000), language: "python" }];
    await worker.finish(job, { outcome: "done", content: "Here it is.", seq: 3, files });
    await worker.setTitle(chat.id, "Code & co.");
    await until(() => {
      expect(last()).toMatchObject({ content: "Here it is.", status: "done" });
      expect(chat.getSnapshot()).toMatchObject({ busy: false, files: [{ path: "a.py", content: "x".repeat(40_000) }] });
      expect(list.getSnapshot().sessions.find(({ id }) => id === chat.id)?.title).toBe("Code & co.");
    });
  });

  test("the next checkpoint makes up for a lost delta", async () => {
    await chat.send("Hello?");
    const job = await worker.claim();
    await worker.delta(job, 1, "a");
    await worker.delta(job, 3, "c");
    await until(() => expect(last()?.content).toBe("a"));
    await worker.beat(job, 2, "ab");
    await until(() => expect(last()?.content).toBe("abc"));
    await worker.finish(job, { outcome: "done", content: "abc", seq: 3 });
    await until(() => expect(last()?.status).toBe("done"));
  });

  test.each(["the socket breaks", "the server closes the channel"])("the reply goes on when %s", async (how) => {
    await chat.send("Hello?");
    const job = await worker.claim();
    await worker.delta(job, 1, "a");
    await until(() => expect(last()?.content).toBe("a"));
    const topic = `realtime:session:${chat.id}`;
    const [socket] = [...sockets].filter(({ joins }) => joins.has(topic) && joins.has(listTopic()));
    if (how === "the socket breaks") socket!.terminate();
    else socket!.closeTopic(topic);
    await until(() => expect(chat.getSnapshot().connection).toBe("offline"));
    await worker.beat(job, 2, "ab");
    await until(() => expect(chat.getSnapshot().connection).toBe("live"));
    await worker.delta(job, 3, "c");
    await until(() => expect(last()?.content).toBe("abc"));
    await worker.finish(job, { outcome: "failed", content: "abc", seq: 3, error: { code: "model", message: "No." } });
    await until(() => expect(last()).toMatchObject({ status: "failed", error: { message: "No." } }));
  });

  test("a retry starts over and a cancel keeps the text", async () => {
    await chat.send("Hello?");
    let job = await worker.claim();
    await worker.delta(job, 1, "first try");
    await worker.finish(job, { outcome: "failed", content: "first try", seq: 1, error: { code: "x", message: "No." } });
    await until(() => expect(last()?.status).toBe("failed"));
    await chat.retry(last()!.id);
    await until(() => expect(last()?.status).toBe("queued"));
    job = await worker.claim();
    await worker.delta(job, 1, "second");
    await until(() => expect(last()).toMatchObject({ content: "second", attempt: 2 }));
    await chat.cancel(last()!.id);
    await worker.finish(job, { outcome: "done", content: "second", seq: 1 });
    await until(() => expect(last()).toMatchObject({ content: "second", status: "cancelled" }));
  });

  test("a rejected message has the reason, and a repeated one arrives once", async () => {
    const content = "x".repeat(40_000);
    const { error } = await client.from("messages").insert({ session_id: chat.id, content } as never);
    expect(error?.code).toBe("PT413");
    expect(await chat.send(content)).toBe(false);
    expect(last()).toMatchObject({ status: "not_sent", error: { message: error!.message } });
    chat.discard(last()!.id);

    const message = { id: crypto.randomUUID(), session_id: chat.id, content: "Hello?" };
    const backend = supabaseBackend(client);
    const first = await backend.insertMessage(message);
    expect(await backend.insertMessage(message)).toEqual(first);
    await until(() => expect(chat.getSnapshot().messages).toMatchObject([{ id: message.id, status: "queued" }]));
    await chat.cancel(last()!.id);
    await until(() => expect(last()?.status).toBe("cancelled"));
  });

  test("renaming a deleted session fails and removes it from the list", async () => {
    const deaf = openSessionList(client, crypto.randomUUID()); // another user's topic, so no events arrive
    await until(() => expect(deaf.getSnapshot().sessions.map(({ id }) => id)).toContain(chat.id));
    await client.from("sessions").delete().eq("id", chat.id).throwOnError();
    await expect(deaf.rename(chat.id, "Late")).rejects.toThrow(new RequestError("This session was deleted."));
    expect(deaf.getSnapshot().sessions.map(({ id }) => id)).not.toContain(chat.id);
    deaf.close();
  });

  test("a deleted file disappears, and a session with a new message moves to the top", async () => {
    await chat.files.add("a.py", "a");
    await chat.files.add("b.py", "b");
    const paths = () => chat.getSnapshot().files.map(({ path }) => path);
    await client.from("code_files").delete().eq("session_id", chat.id).eq("path", "a.py");
    await until(() => expect(paths()).toEqual(["b.py"]));

    const { id } = await list.create({ function: "Chat" });
    const first = () => list.getSnapshot().sessions[0]?.id;
    expect(first()).toBe(id);
    await chat.send("Hello?");
    await until(() => expect(first()).toBe(chat.id));
    await chat.cancel(last()!.id);
  });

  test("another user receives and reads nothing", async () => {
    const stranger = (await signUp()).client;
    const theirs = openSession(stranger, chat.id);
    await chat.send("Secret");
    await until(() => expect(theirs.getSnapshot()).toMatchObject({ ready: true, connection: "offline" }));
    expect(theirs.getSnapshot().messages).toEqual([]);
    expect(await theirs.send("Let me in")).toBe(false);
    expect(theirs.getSnapshot().messages).toMatchObject([{ status: "not_sent" }]);
    theirs.close();
    await stranger.removeAllChannels();
    await chat.cancel(last()!.id);
  });

  test("views of one session share its topic, and renames and deletions appear at once", async () => {
    const second = openSession(client, chat.id);
    await until(() => expect(second.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));
    second.close();
    await chat.send("Hello?");
    const job = await worker.claim();
    await worker.delta(job, 1, "still live");
    await until(() => expect(last()?.content).toBe("still live"));
    await worker.finish(job, { outcome: "done", content: "still live", seq: 1 });

    await list.rename(chat.id, "Another title");
    expect(list.getSnapshot().sessions.find(({ id }) => id === chat.id)?.title).toBe("Another title");
    await client.from("sessions").delete().eq("id", chat.id);
    await until(() => expect(list.getSnapshot().sessions.some(({ id }) => id === chat.id)).toBe(false));
  });

  test("a session continues with a new token and reports errors after sign-out", async () => {
    const { client: other, userId } = await signUp();
    const theirs = openSessionList(other, userId);
    const { id } = await theirs.create();
    const session = openSession(other, id);
    await until(() => expect(session.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));

    const first = (await other.auth.getSession()).data.session!.access_token;
    let token = first;
    await until(async () => {
      token = (await other.auth.refreshSession()).data.session!.access_token;
      expect(token).not.toBe(first); // tokens of the same second are equal
    });
    await until(() => expect([...sockets].flatMap(({ tokens }) => tokens)).toContain(token));
    expect(await session.send("Hello?")).toBe(true);
    await until(() => expect(session.getSnapshot().messages).toMatchObject([{ status: "queued" }]));
    await session.cancel(session.getSnapshot().messages[0]!.id);

    await other.auth.signOut({ scope: "local" });
    expect(await session.send("Still here?")).toBe(false);
    const { messages } = session.getSnapshot();
    expect(messages).toMatchObject([{ content: "Hello?" }, { status: "not_sent", error: { message: expect.stringMatching(/^.{5,90}$/) } }]);
    await expect(session.retry(messages[0]!.id)).rejects.toThrow(RequestError);
    session.close();
    theirs.close();
    await other.removeAllChannels();
  });

  test("closed sessions are garbage collected and leave their topics", async () => {
    const opened: WeakRef<ChatSession>[] = [];
    for (let at = 0; at < 100; at++) {
      const session = openSession(client, chat.id);
      session.subscribe(() => undefined);
      if (at % 10 === 0) await until(() => expect(session.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));
      session.close();
      opened.push(new WeakRef(session));
    }
    const { id } = await list.create();
    for (let at = 0; at < 10; at++) {
      const session = openSession(client, id);
      await until(() => expect(session.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));
      session.close();
      opened.push(new WeakRef(session));
    }
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    await until(() => {
      collect();
      expect(opened.filter((session) => session.deref() !== undefined)).toHaveLength(0);
    });
    const topics = client.getChannels().map(({ topic }) => topic);
    expect(topics.sort()).toEqual([`realtime:session:${chat.id}`, listTopic()].sort());
  });

  function listTopic(): string {
    return client.getChannels().find(({ topic }) => topic.startsWith("realtime:user:"))!.topic;
  }
});
