/** The list of the user's sessions, kept up to date by the topic `user:<id>`. */

import { supabaseBackend, type Backend } from "./backend.ts";
import { parseSessionListEvent } from "./events.ts";
import { canonicalId, newId } from "./id.ts";
import { compareTimes } from "./merge.ts";
import { Poller } from "./poller.ts";
import {
  RequestError,
  type AnySupabaseClient,
  type Connection,
  type NewSession,
  type SessionChanges,
  type SessionListSnapshot,
  type SessionRow,
} from "./types.ts";

const RETRY_MS = 1_000;

/** Opens the list of the signed-in user's sessions. Call `close` when you no longer show it. */
export function openSessionList(client: AnySupabaseClient, userId: string): SessionList {
  return new SessionList(userId, supabaseBackend(client));
}

export class SessionList extends Poller<SessionListSnapshot> {
  readonly #backend: Backend;
  readonly #leave: () => void;
  #sessions = new Map<string, SessionRow>();
  /** Ids are never reused, so a late response cannot bring a deleted session back. */
  #deleted = new Set<string>();
  #connection: Connection = "connecting";
  #ready = false;
  #readDue = true;

  constructor(userId: string, backend: Backend) {
    super(RETRY_MS);
    this.#backend = backend;
    this.#leave = backend.listen(`user:${canonicalId(userId)}`, {
      onEvent: (event, payload) => this.#onEvent(event, payload),
      onConnection: (connection) => {
        this.#connection = connection;
        if (connection === "live") {
          this.#readDue = true;
          this.failures = 0; // read at once, however long reads have failed
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
    // with an id, because some REST servers cannot insert an empty row
    const row = await this.#backend.insertSession({ ...values, id: canonicalId(values.id ?? newId()) });
    this.#merge(row);
    return row;
  }

  /** Changes the title of a session. Throws `RequestError`. */
  rename(id: string, title: string): Promise<void> {
    return this.update(id, { title });
  }

  /** Changes a session: its `model`, for example. Throws `RequestError`. */
  async update(id: string, values: SessionChanges): Promise<void> {
    const row = await this.#backend.updateSession(canonicalId(id), values);
    if (row !== null) return this.#merge(row);
    this.#forget(canonicalId(id));
    throw new RequestError("This session was deleted.");
  }

  /** Deletes a session and everything in it. Throws `RequestError`. */
  async remove(id: string): Promise<void> {
    await this.#backend.deleteSession(canonicalId(id));
    this.#forget(canonicalId(id));
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
      this.#readDue = true;
      this.schedule();
    }
  }

  #merge(row: SessionRow): void {
    const known = this.#sessions.get(row.id);
    if (row.parent) return; // a function has opened it, to ask another one
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
    return this.#readDue ? 0 : Infinity;
  }

  protected override async read(): Promise<void> {
    this.#readDue = false;
    try {
      const missing = new Map(this.#sessions);
      for (const row of await this.#backend.readSessions()) {
        this.#merge(row);
        missing.delete(row.id);
      }
      // a session that was known before the request, is absent from the response and has no news since was deleted
      for (const [id, row] of missing) if (this.#sessions.get(id) === row) this.#sessions.delete(id);
      this.#ready = true;
    } catch (error) {
      this.#readDue = true;
      throw error;
    }
  }
}
