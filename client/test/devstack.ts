/**
 * A running Supabase with the project's migrations, a fake worker, and sockets that can be broken.
 *
 * `tests/e2e/test_client.py` runs the tests that use this, with the environment of a devstack without a worker.
 */

import { createClient, type RealtimeChannel, type SupabaseClient } from "@supabase/supabase-js";
import { expect, vi } from "vitest";
import WebSocket from "ws";
import type { Database, Delta } from "../src/index.ts";

const { SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY } = process.env;
const WORKER = "client-test";

/** The open sockets of all clients. */
export const sockets = new Set<BreakableSocket>();

export class BreakableSocket extends WebSocket {
  /** The join reference of each topic. */
  readonly joins = new Map<string, string>();
  /** The tokens sent after a join. */
  readonly tokens: string[] = [];

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
    if (typeof data === "string" && data.includes('"access_token",{')) {
      const [, , , , payload] = JSON.parse(data) as [string, string, string, string, { access_token: string }];
      this.tokens.push(payload.access_token);
    }
    super.send(data);
  }

  /** Closes a channel as the server does when a token expires. */
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
    // Node 20 has no WebSocket; the cast: the DOM's type has more than is used
    realtime: { transport: BreakableSocket as never, reconnectAfterMs: () => 100 },
  });
}

export interface Job {
  question_id: string;
  reply_id: string;
  attempt: number;
}

/** A fake worker. */
export class Worker {
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
    const args = { worker: WORKER, slots: 1, holding: [], lease_seconds: 30, history: 10, knows_steps: true };
    const { jobs } = await this.#call<{ jobs: Job[] }>("bridge_claim", args);
    expect(jobs).toHaveLength(1);
    return jobs[0]!;
  }

  async delta(job: Job, seq: number, piece: string | Partial<Delta>): Promise<void> {
    const at = { message_id: job.reply_id, reply_to: job.question_id, attempt: job.attempt, seq };
    const payload = { ...at, ...(typeof piece === "string" ? { text: piece } : piece) };
    expect(await this.#channel!.send({ type: "broadcast", event: "delta", payload })).toBe("ok");
  }

  /** Writes a checkpoint. Returns the job's state: `ok`, `lost` or `cancel`. */
  async beat({ question_id, attempt }: Job, seq: number, content: string): Promise<string | undefined> {
    const args = { worker: WORKER, jobs: [{ question_id, attempt, seq, content }] };
    return (await this.#call<{ results: { [id: string]: string } }>("bridge_beat", args)).results[question_id];
  }

  async finish({ question_id, attempt }: Job, result: object): Promise<void> {
    await this.#call("bridge_finish", { worker: WORKER, results: [{ question_id, attempt, ...result }] });
  }

  /** Ends the attempt with a question to the user, which comes after all of the text. */
  async ask(job: Job, name: string, content: string, seq: number): Promise<void> {
    const asked = { type: "dynamic-tool", toolName: "ask", toolCallId: name, input: { title: `${name}?` } };
    const parts = [{ type: "text", text: content }, { ...asked, state: "approval-requested", approval: { id: name } }];
    const place = { chars: content.length, n_parts: 2, emitted_before: 0, emitted: 0 };
    const waits = [{ name, ordinal: 1, kind: "ask", value: null, within_ms: 60_000, ...place }];
    await this.finish(job, { outcome: "waiting", content, parts, seq, waits });
  }

  async setTitle(sessionId: string, title: string): Promise<void> {
    await this.#service.from("sessions").update({ title }).eq("id", sessionId).throwOnError();
  }

  /** As the project's owner: models that users may choose. */
  async setModels(...models: { name: string; title?: string; ordinal?: number }[]): Promise<void> {
    await this.#service.from("models").delete().neq("name", "").throwOnError();
    if (models.length > 0) await this.#service.from("models").insert(models).throwOnError();
  }

  /** Deletes an object, as workers do. */
  async removeObject(path: string): Promise<void> {
    const { error } = await this.#service.storage.from("attachments").remove([path]);
    if (error) throw error;
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

export async function signUp(): Promise<{ client: SupabaseClient<Database>; userId: string }> {
  const client = connect(SUPABASE_PUBLISHABLE_KEY!);
  const email = `${crypto.randomUUID()}@example.com`;
  const { data, error } = await client.auth.signUp({ email, password: crypto.randomUUID() });
  if (error) throw error;
  return { client, userId: data.user!.id };
}

// only on this machine: the tests create users and act as the worker
const local = /^https?:\/\/(127\.0\.0\.1|localhost)[:/]/.test(SUPABASE_URL ?? "");
export const absent = !local || !SUPABASE_PUBLISHABLE_KEY || !SUPABASE_SECRET_KEY;

export const until = (check: () => void) => vi.waitFor(check, { timeout: 8_000, interval: 20 });
