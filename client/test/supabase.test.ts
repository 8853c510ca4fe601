/**
 * The client against a running Supabase with the project's migrations, supabase-js and its default serializer in between.
 *
 * Runs where SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY and SUPABASE_SECRET_KEY are those of a devstack without a worker:
 * the test plays the worker.
 */

import { createClient, type RealtimeChannel, type SupabaseClient } from "@supabase/supabase-js";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import WebSocket from "ws";
import { supabaseBackend } from "../src/backend.ts";
import { openSession, openSessionList, type ChatSession, type Database, type SessionList } from "../src/index.ts";

const { SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY } = process.env;
const WORKER = "client-test";

/** The sockets of the clients, so that a test can break them. */
const sockets = new Set<BreakableSocket>();

class BreakableSocket extends WebSocket {
  /** The join frame of each topic. */
  readonly joins = new Map<string, string>();

  constructor(address: string | URL, protocols?: string | string[]) {
    super(address, protocols);
    sockets.add(this);
    this.on("close", () => sockets.delete(this));
  }

  override send(data: string | Buffer): void {
    if (typeof data === "string" && data.includes('"phx_join"')) {
      const [joinRef, , topic] = JSON.parse(data) as [string, string, string];
      this.joins.set(topic, joinRef);
    }
    super.send(data);
  }

  /** What the server does when it closes a channel, as at the end of a token's life. */
  closeTopic(topic: string): void {
    const joinRef = this.joins.get(topic);
    if (joinRef === undefined) return;
    const frame = JSON.stringify([joinRef, null, topic, "phx_close", {}]);
    this.onmessage?.({ data: frame, type: "message", target: this });
  }
}

function connect(key: string): SupabaseClient<Database> {
  return createClient<Database>(SUPABASE_URL!, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    // Node 20 has no WebSocket of its own; the DOM's type is wider than what is used
    realtime: { transport: BreakableSocket as never, reconnectAfterMs: () => 100 },
  });
}

interface Job {
  message_id: string;
  reply_id: string;
  attempt: number;
}

/** Plays the worker. */
class Worker {
  readonly #service = connect(SUPABASE_SECRET_KEY!) as SupabaseClient;
  #channel: RealtimeChannel | null = null;

  async join(sessionId: string): Promise<void> {
    await this.#service.realtime.setAuth();
    const channel = this.#service.channel(`session:${sessionId}`, { config: { private: true } });
    this.#channel = channel;
    await new Promise<void>((resolve, reject) =>
      channel.subscribe((status, error) => (status === "SUBSCRIBED" ? resolve() : reject(error ?? Error(status)))),
    );
  }

  async claim(): Promise<Job> {
    const args = { worker: WORKER, slots: 1, holding: [], lease_seconds: 30, history: 10 };
    const { jobs } = await this.#call<{ jobs: Job[] }>("bridge_claim", args);
    expect(jobs).toHaveLength(1);
    return jobs[0]!;
  }

  async delta(job: Job, seq: number, text: string): Promise<void> {
    const payload = { message_id: job.reply_id, reply_to: job.message_id, attempt: job.attempt, seq, text };
    expect(await this.#channel!.send({ type: "broadcast", event: "delta", payload })).toBe("ok");
  }

  async beat({ message_id, attempt }: Job, seq: number, content: string): Promise<void> {
    await this.#call("bridge_beat", { worker: WORKER, jobs: [{ message_id, attempt, seq, content }] });
  }

  async finish({ message_id, attempt }: Job, result: object): Promise<void> {
    await this.#call("bridge_finish", { worker: WORKER, results: [{ message_id, attempt, ...result }] });
  }

  async stop(): Promise<void> {
    await this.#service.removeAllChannels();
  }

  async #call<T>(name: string, args: object): Promise<T> {
    const { data, error } = await this.#service.rpc(name, args);
    if (error) throw error;
    return data as T;
  }
}

async function signUp(): Promise<{ client: SupabaseClient<Database>; userId: string }> {
  const client = connect(SUPABASE_PUBLISHABLE_KEY!);
  const email = `${crypto.randomUUID()}@example.com`;
  const { data, error } = await client.auth.signUp({ email, password: crypto.randomUUID() });
  if (error) throw error;
  return { client, userId: data.user!.id };
}

// on this machine only: the test makes users and plays the worker
const local = /^https?:\/\/(127\.0\.0\.1|localhost)[:/]/.test(SUPABASE_URL ?? "");
const absent = !local || !SUPABASE_PUBLISHABLE_KEY || !SUPABASE_SECRET_KEY;

describe.skipIf(absent)("with Supabase", { timeout: 20_000 }, () => {
  let client: SupabaseClient<Database>;
  let list: SessionList;
  let chat: ChatSession;
  let worker: Worker;

  const until = (check: () => void) => vi.waitFor(check, { timeout: 8_000, interval: 20 });
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

  test("a question is answered: text by deltas, then the row, a file and the title", async () => {
    expect(await chat.send("Write code.")).toBe(true);
    expect(last()?.status).toBe("queued");
    const job = await worker.claim();
    await worker.delta(job, 1, "Here ");
    await worker.delta(job, 2, "it is");
    await until(() => expect(last()).toMatchObject({ content: "Here it is", status: "running", seq: 2 }));
    const files = [{ path: "a.py", content: "x".repeat(40_000), language: "python" }];
    await worker.finish(job, { outcome: "done", content: "Here it is.", seq: 3, files, title: "Code & co." });
    await until(() => {
      expect(last()).toMatchObject({ content: "Here it is.", status: "done" });
      expect(chat.getSnapshot()).toMatchObject({ busy: false, files: [{ path: "a.py", content: "x".repeat(40_000) }] });
      expect(list.getSnapshot().sessions.find(({ id }) => id === chat.id)?.title).toBe("Code & co.");
    });
  });

  test("a lost delta is made good by the next checkpoint", async () => {
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

  test.each(["the socket breaks", "the server closes the channel"])("when %s, the reply goes on", async (how) => {
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

  test("a retry begins anew, a cancel keeps what was written", async () => {
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

  test("a message that is refused says why; one that had arrived is not sent twice", async () => {
    expect(await chat.send("x".repeat(40_000))).toBe(false);
    expect(last()).toMatchObject({ status: "not_sent", error: { message: expect.stringContaining("too long") } });
    chat.discard(last()!.id);

    const message = { id: crypto.randomUUID(), session_id: chat.id, content: "Hello?" };
    const backend = supabaseBackend(client);
    const first = await backend.insertMessage(message);
    expect(await backend.insertMessage(message)).toEqual(first);
    await until(() => expect(chat.getSnapshot().messages).toMatchObject([{ id: message.id, status: "queued" }]));
    await chat.cancel(last()!.id);
    await until(() => expect(last()?.status).toBe("cancelled"));
  });

  test("a file that is deleted elsewhere goes; a session with a new message comes first", async () => {
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

  test("another user hears and reads nothing", async () => {
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

  test("two views of one session share its topic; renamed and deleted sessions show at once", async () => {
    const second = openSession(client, chat.id);
    await until(() => expect(second.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));
    second.close();
    await chat.send("Hello?");
    const job = await worker.claim();
    await worker.delta(job, 1, "still heard");
    await until(() => expect(last()?.content).toBe("still heard"));
    await worker.finish(job, { outcome: "done", content: "still heard", seq: 1 });

    await list.rename(chat.id, "Another title");
    expect(list.getSnapshot().sessions.find(({ id }) => id === chat.id)?.title).toBe("Another title");
    await client.from("sessions").delete().eq("id", chat.id);
    await until(() => expect(list.getSnapshot().sessions.some(({ id }) => id === chat.id)).toBe(false));
  });

  function listTopic(): string {
    return client.getChannels().find(({ topic }) => topic.startsWith("realtime:user:"))!.topic;
  }
});
