/**
 * One session, kept whole: its messages with their streaming replies, and its code files.
 *
 * It listens to the session's topic and reads the rows whenever events may be missing: after each subscription,
 * while a delta is missing, and when a reply runs in silence.
 */

import { supabaseBackend, type Backend } from "./backend.ts";
import { parseSessionEvent } from "./events.ts";
import { CodeFiles } from "./files.ts";
import { newId } from "./id.ts";
import { UNKNOWN, hasEnded, mergeDelta, mergeHint, mergeRow, needsRead, type Entry } from "./merge.ts";
import { Reading, now, textOf } from "./reading.ts";
import type {
  AnySupabaseClient,
  Connection,
  Json,
  Message,
  MessageRow,
  Question,
  SessionSnapshot,
} from "./types.ts";

export interface SessionOptions {
  /** How many messages are read at once, newest first; 1,000 at most. */
  pageSize?: number;
  /** How long to wait between two readings while a gap is open: the worker's checkpoint interval. */
  gapMs?: number;
  /** How long a running reply may be silent until its row is read. */
  silenceMs?: number;
}

const DEFAULTS = { pageSize: 200, gapMs: 1_000, silenceMs: 5_000 };
/** PostgREST gives no more in one answer. */
const MAX_ROWS = 1_000;
/** How long a question in other words waits for the end of the reply to the old one. */
const STOP_MS = 3_000;
/** How many ids a request names: its address must stay short. */
const MAX_IDS = 50;

/** Opens a session; `close` it when it is no longer shown. */
export function openSession<Data = Json>(
  client: AnySupabaseClient,
  id: string,
  options: SessionOptions = {},
): ChatSession<Data> {
  return new ChatSession<Data>(id, supabaseBackend(client), options);
}

/** A session. `Data` is the result of its BAML function, if that is a class: BAML's generator writes the type. */
export class ChatSession<Data = Json> extends Reading<SessionSnapshot<Data>> {
  readonly id: string;
  /** To add, edit and delete code files, and to look back in them. */
  readonly files: CodeFiles;
  readonly #backend: Backend;
  readonly #options: Required<SessionOptions>;
  readonly #leave: () => void;

  #entries = new Map<string, Entry>();
  /** What this client wrote and the database has not confirmed, oldest first. */
  #unsent = new Map<string, Question>();
  #connection: Connection = "connecting";
  /** The lowest ordinal up from which every row is known; null until rows were read. */
  #floor: number | null = null;
  #hasOlder = false;
  /** The highest ordinal that was read: events may have jumped over rows above it. */
  #readUpTo = -1;

  #pageWanted = true;
  #filesWanted = false;
  /** An event told of something that can be read now. */
  #readNow = false;
  #lastHeard = now();
  #lastSend: Promise<unknown> = Promise.resolve();

  constructor(id: string, backend: Backend, options: SessionOptions = {}) {
    const { pageSize, ...waits } = { ...DEFAULTS, ...options };
    super(waits.gapMs);
    this.id = id;
    this.#backend = backend;
    this.files = new CodeFiles(id, backend, () => this.changed());
    this.#options = { pageSize: Math.min(pageSize, MAX_ROWS), ...waits };
    this.#leave = backend.listen(`session:${id}`, {
      onEvent: (event, payload) => this.#onEvent(event, payload),
      onConnection: (connection) => this.#onConnection(connection),
    });
    this.schedule();
  }

  /** Stops listening and reading. A message that is being sent is still sent. */
  override close(): void {
    super.close();
    this.#leave();
  }

  /**
   * Sends a message; it is shown at once. `data` holds further arguments of the BAML function.
   *
   * Resolves to whether the database has it: if not, it stays with status `not_sent` and the reason in its
   * `error`, until `resend` or `discard`. Messages are sent one after another. `id` is a UUID, never used before.
   */
  send(text: string, data?: Json, id: string = newId()): Promise<boolean> {
    const time = new Date().toISOString();
    const message: Question = {
      id,
      session_id: this.id,
      ordinal: null,
      role: "user",
      content: text,
      data: data ?? null,
      status: "sending",
      reply_to: null,
      attempt: 0,
      seq: 0,
      error: null,
      created_at: time,
      updated_at: time,
    };
    return this.#insert(message);
  }

  /** Sends a message again that was not sent: with the same id, so it cannot arrive twice. */
  resend(id: string): Promise<boolean> {
    const message = this.#unsent.get(id);
    return message?.status === "not_sent"
      ? this.#insert({ ...message, status: "sending", error: null })
      : Promise.resolve(false);
  }

  /**
   * Asks a question again in other words, with the same `data`: a new question; the old one stays in the
   * conversation. Its reply is stopped if it is still to come. Resolves as `send` does.
   */
  async edit(id: string, text: string): Promise<boolean> {
    await this.#sent(id);
    const unsent = this.#unsent.get(id);
    if (unsent !== undefined) {
      this.discard(id);
      return this.send(text, unsent.data ?? undefined);
    }
    const question = this.#entries.get(id)?.message;
    if (question && isLive(question)) this.#lastSend = Promise.all([this.#lastSend, this.#stop(id)]);
    return this.send(text, question?.data ?? undefined);
  }

  /** Forgets a message that was not sent. */
  discard(id: string): void {
    if (this.#unsent.get(id)?.status === "not_sent" && this.#unsent.delete(id)) this.changed();
  }

  /** Stops a reply; `id` is the question's or the reply's. What has been written so far stays. Throws `RequestError`. */
  async cancel(id: string): Promise<void> {
    await this.#sent(id);
    if (this.#unsent.has(id)) return; // there is nothing to stop
    await this.#backend.cancelMessage(id);
    await this.#showEffect(id);
  }

  /** Asks for a new attempt of a reply that ended. Throws `RequestError`. */
  async retry(id: string): Promise<void> {
    await this.#backend.retryMessage(id);
    await this.#showEffect(id);
  }

  /** Reads the page of messages before the first one shown. Throws `RequestError`. */
  async loadOlder(): Promise<void> {
    if (!this.#hasOlder || this.#floor === null) return;
    const before = this.#floor;
    const rows = await this.#backend.readPage(this.id, before, this.#options.pageSize);
    if (this.closed || this.#floor !== before) return;
    this.#mergeRows(rows);
    this.#hasOlder = rows.length >= this.#options.pageSize;
    this.#floor = Math.min(before, ...rows.map((row) => row.ordinal));
    this.changed();
  }

  protected override render(): SessionSnapshot<Data> {
    const floor = this.#floor ?? 0;
    const rows: MessageRow[] = [];
    for (const { message } of this.#entries.values()) {
      if (message !== null && message.ordinal >= floor) rows.push(message);
    }
    rows.sort((a, b) => a.ordinal - b.ordinal);
    const busy = rows.some(isLive) || [...this.#unsent.values()].some(({ status }) => status === "sending");
    // the cast: that `data` is the function's result is the caller's promise
    const messages = rows as readonly unknown[] as readonly Message<Data>[];
    return {
      messages: [...messages, ...this.#unsent.values()],
      files: this.files.list(),
      connection: this.#connection,
      ready: this.#floor !== null,
      hasOlder: this.#hasOlder,
      busy,
      error: this.error,
    };
  }

  /** Waits until it is known whether a message that is being sent was sent. */
  async #sent(id: string): Promise<void> {
    if (this.#unsent.get(id)?.status === "sending") await this.#lastSend;
  }

  /** Stops the reply to a question and waits for its end: a session may refuse another question before that. */
  async #stop(id: string): Promise<void> {
    try {
      await this.cancel(id);
    } catch {
      return; // it keeps nobody from asking: the new question waits for the old reply then
    }
    await new Promise<void>((resolve) => {
      const look = (): void => {
        const question = this.#entries.get(id)?.message;
        if (question && isLive(question) && !this.closed) return;
        clearTimeout(timer);
        leave();
        resolve();
      };
      const leave = this.subscribe(look);
      const timer = setTimeout(() => {
        leave();
        resolve();
      }, STOP_MS);
      look();
    });
  }

  #insert(message: Question): Promise<boolean> {
    this.#unsent.set(message.id, message);
    this.changed();
    // one after another: the order of the questions is the order of their arrival
    const sent = this.#lastSend.then(() => this.#insertNow(message));
    this.#lastSend = sent;
    return sent;
  }

  async #insertNow({ id, content, data }: Question): Promise<boolean> {
    const values = { id, session_id: this.id, content };
    try {
      const row = await this.#backend.insertMessage(data === null ? values : { ...values, data });
      this.#mergeRows([row]);
      this.#lastHeard = now();
    } catch (error) {
      const unsent = this.#unsent.get(id);
      // an event may have shown meanwhile that it arrived after all
      if (unsent === undefined) return true;
      this.#unsent.set(id, { ...unsent, status: "not_sent", error: { code: "not_sent", message: textOf(error) } });
      this.changed();
      return false;
    }
    this.changed();
    this.schedule();
    return true;
  }

  /** Reads what a call has changed, now or when it can be read again: the call itself has succeeded. */
  async #showEffect(id: string): Promise<void> {
    try {
      this.#mergeRead(await this.#backend.readMessages(this.id, this.#thread(id), this.#readUpTo));
    } catch {
      this.#pageWanted = true;
    }
    if (this.closed) return;
    this.changed();
    this.schedule();
  }

  /** A question's id, whether `id` is the question's or its reply's, together with `id`. */
  #thread(id: string): string[] {
    const question = this.#entries.get(id)?.message?.reply_to;
    return question ? [question, id] : [id];
  }

  #onConnection(connection: Connection): void {
    this.#connection = connection;
    if (connection === "live") {
      this.#pageWanted = true;
      this.failures = 0; // who comes back after hours does not wait
    }
    this.changed();
    this.schedule();
  }

  #onEvent(name: string, payload: unknown): void {
    const event = parseSessionEvent(name, payload);
    if (event === null) return;
    this.#lastHeard = now();
    switch (event.kind) {
      case "delta":
        this.#readNow ||= !this.#entries.has(event.delta.message_id);
        this.#update(event.delta.message_id, (entry) => mergeDelta(entry, event.delta));
        break;
      case "message":
        this.#mergeRows([event.row]);
        break;
      case "message_hint":
        this.#update(event.id, (entry) => mergeHint(entry, event));
        this.#readNow = true;
        break;
      case "file":
        this.files.merge(event.row, event.conflict);
        break;
      case "files_deleted":
        this.files.forget(event.ids);
        break;
      case "files_hint":
        this.#filesWanted = this.#readNow = true;
        break;
    }
    this.changed();
    this.schedule();
  }

  #update(id: string, merge: (entry: Entry) => Entry): void {
    this.#entries.set(id, merge(this.#entries.get(id) ?? UNKNOWN));
  }

  #mergeRows(rows: readonly MessageRow[]): void {
    for (const row of rows) {
      this.#update(row.id, (entry) => mergeRow(entry, row));
      this.#unsent.delete(row.id);
    }
  }

  /** The ids whose rows must be read because an event was missed or did not tell all. */
  #incomplete(): string[] {
    return [...this.#entries].filter(([, entry]) => needsRead(entry)).map(([id]) => id);
  }

  /** The ids of messages that are still to change, oldest first: the oldest are at work. */
  #live(): string[] {
    const live: MessageRow[] = [];
    for (const { message } of this.#entries.values()) if (message !== null && isLive(message)) live.push(message);
    return live.sort((a, b) => a.ordinal - b.ordinal).map(({ id }) => id);
  }

  protected override due(): number {
    const { gapMs, silenceMs } = this.#options;
    if (this.#pageWanted || this.#readNow) return 0;
    // after a failure too, though events may have brought everything: what `error` says is not to stay
    const wanted = this.#filesWanted || this.failures > 0 || this.#incomplete().length > 0;
    const gap = wanted ? this.lastRead + gapMs : Infinity;
    const silence = this.#live().length > 0 ? Math.max(this.#lastHeard, this.lastRead) + silenceMs : Infinity;
    return Math.min(gap, silence);
  }

  protected override async read(): Promise<void> {
    const page = this.#pageWanted;
    const files = page || this.#filesWanted;
    this.#pageWanted = this.#filesWanted = this.#readNow = false;
    try {
      await Promise.all([page ? this.#readPage() : this.#readRows(), files && this.files.read()]);
    } catch (error) {
      this.#pageWanted ||= page;
      this.#filesWanted ||= files;
      throw error;
    }
  }

  async #readPage(): Promise<void> {
    const { pageSize } = this.#options;
    const rows = await this.#backend.readPage(this.id, null, pageSize);
    const lowest = Math.min(...rows.map((row) => row.ordinal));
    const full = rows.length >= pageSize;
    // after a long absence rows may lie between what is known and this page: begin with the page then
    if (this.#floor === null || (full && lowest > this.#readUpTo)) {
      this.#floor = full ? lowest : 0;
      this.#hasOlder = full;
    }
    this.#mergeRead(rows);
  }

  async #readRows(): Promise<void> {
    const incomplete = this.#incomplete().slice(0, MAX_IDS);
    const ids = [...new Set([...incomplete, ...this.#live()])].slice(0, MAX_IDS);
    const heard = this.#lastHeard;
    const isSilent = now() - heard >= this.#options.silenceMs;
    const rows = await this.#backend.readMessages(this.id, ids, this.#readUpTo);
    this.#mergeRead(rows);
    const read = new Set(rows.map(({ id }) => id));
    for (const id of ids) {
      if (read.has(id)) continue;
      // no such row: nothing will ever complete it. One that was shown may have been announced before it can be
      // read, but not for so long: it was deleted with its session
      if (this.#entries.get(id)?.message === null || (isSilent && heard === this.#lastHeard)) this.#entries.delete(id);
    }
  }

  /** Merges rows of a reading that left out none above `#readUpTo`. */
  #mergeRead(rows: readonly MessageRow[]): void {
    this.#mergeRows(rows);
    this.#readUpTo = Math.max(this.#readUpTo, ...rows.map((row) => row.ordinal));
  }
}

function isLive(message: { status: string }): boolean {
  return !hasEnded(message);
}
