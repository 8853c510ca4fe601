/** The list of the user's sessions, kept up to date by the topic `user:<id>`. */

import type { SupabaseClient } from "@supabase/supabase-js";
import { timeout, unwrap } from "./backend.ts";
import { parseSessionListEvent } from "./events.ts";
import { newId } from "./id.ts";
import { compareTimes } from "./merge.ts";
import { Reading } from "./reading.ts";
import { listen } from "./topic.ts";
import {
  RequestError,
  type AnySupabaseClient,
  type Connection,
  type Database,
  type NewSession,
  type SessionListSnapshot,
  type SessionRow,
} from "./types.ts";

/** PostgREST gives no more in one answer. */
const MAX_SESSIONS = 1_000;
const AGAIN_MS = 1_000;

/** Opens the list of the sessions of the user who is signed in. */
export function openSessionList(client: AnySupabaseClient, userId: string): SessionList {
  return new SessionList(client, userId);
}

export class SessionList extends Reading<SessionListSnapshot> {
  readonly #db: SupabaseClient<Database>;
  readonly #leave: () => void;
  #sessions = new Map<string, SessionRow>();
  /** Ids are never used again, so an answer that was under way cannot bring a deleted session back. */
  #deleted = new Set<string>();
  #connection: Connection = "connecting";
  #ready = false;
  #wanted = true;

  constructor(client: AnySupabaseClient, userId: string) {
    super(AGAIN_MS);
    this.#db = client as SupabaseClient<Database>;
    this.#leave = listen(client, `user:${userId}`, {
      onEvent: (event, payload) => this.#onEvent(event, payload),
      onConnection: (connection) => {
        this.#connection = connection;
        if (connection === "live") {
          this.#wanted = true;
          this.failures = 0; // who comes back after hours does not wait
        }
        this.changed();
        this.schedule();
      },
    });
    this.schedule();
  }

  override close(): void {
    super.close();
    this.#leave();
  }

  /** Creates a session. Throws `RequestError`. */
  async create(values: NewSession = {}): Promise<SessionRow> {
    // never an empty row: not every REST server can insert one
    const query = this.#db.from("sessions").insert({ id: newId(), ...values }).select().abortSignal(timeout());
    const row: SessionRow = unwrap(await query.single());
    this.#merge(row);
    return row;
  }

  /** Gives a session another title. Throws `RequestError`. */
  async rename(id: string, title: string): Promise<void> {
    const query = this.#db.from("sessions").update({ title }).eq("id", id).select().abortSignal(timeout());
    const row: SessionRow | null = unwrap(await query.maybeSingle());
    if (row !== null) return this.#merge(row);
    this.#forget(id);
    throw new RequestError("This session has been deleted.");
  }

  /** Deletes a session with all in it. Throws `RequestError`. */
  async remove(id: string): Promise<void> {
    unwrap(await this.#db.from("sessions").delete().eq("id", id).abortSignal(timeout()));
    this.#forget(id);
  }

  protected override render(): SessionListSnapshot {
    const sessions = [...this.#sessions.values()].sort((a, b) => compareTimes(b.updated_at, a.updated_at));
    return { sessions, connection: this.#connection, ready: this.#ready, error: this.error };
  }

  #onEvent(name: string, payload: unknown): void {
    const event = parseSessionListEvent(name, payload);
    if (event?.kind === "session") this.#merge(event.row);
    if (event?.kind === "deleted") this.#forget(event.id);
    if (event?.kind === "hint") {
      this.#wanted = true;
      this.schedule();
    }
  }

  #merge(row: SessionRow): void {
    const known = this.#sessions.get(row.id);
    if (this.#deleted.has(row.id) || (known && compareTimes(row.updated_at, known.updated_at) < 0)) return;
    this.#sessions.set(row.id, row);
    this.changed();
  }

  #forget(id: string): void {
    this.#deleted.add(id);
    this.#sessions.delete(id);
    this.changed();
  }

  protected override due(): number {
    return this.#wanted ? 0 : Infinity;
  }

  protected override async read(): Promise<void> {
    this.#wanted = false;
    try {
      const query = this.#db.from("sessions").select().order("updated_at", { ascending: false });
      const before = new Set(this.#sessions.keys());
      const rows = unwrap(await query.limit(MAX_SESSIONS).abortSignal(timeout()));
      for (const row of rows) {
        this.#merge(row);
        before.delete(row.id);
      }
      // what was known before the question and is not in a complete answer is gone
      if (rows.length < MAX_SESSIONS) for (const id of before) this.#sessions.delete(id);
      this.#ready = true;
    } catch (error) {
      this.#wanted = true;
      throw error;
    }
  }
}
