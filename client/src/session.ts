/**
 * One session: its messages with their streaming replies, and its code files.
 *
 * It listens to the session's topic, and reads the rows whenever it may have missed events: after each subscription,
 * while a delta is missing, and when an unfinished reply has been silent for a while.
 */

import { fitName } from "./attachments.ts";
import { FIRST_ORDINAL, supabaseBackend, type Backend, type NewMessage } from "./backend.ts";
import { parseSessionEvent } from "./events.ts";
import { CodeFiles } from "./files.ts";
import { canonicalId, newId } from "./id.ts";
import { UNKNOWN, hasEnded, mergeDelta, mergeHint, mergeRow, needsRead, type Entry } from "./merge.ts";
import { Outbox } from "./outbox.ts";
import { MAX_ROWS } from "./pages.ts";
import { isAsk, partsOf } from "./parts.ts";
import { Poller, now } from "./poller.ts";
import { withTimeout } from "./timeout.ts";
import { Uploads } from "./uploads.ts";
import type {
  Answer,
  AnySupabaseClient,
  Ask,
  AttachOptions,
  Attachment,
  Connection,
  Json,
  Message,
  MessageRow,
  Question,
  SendOptions,
  SessionSnapshot,
} from "./types.ts";

export interface SessionOptions {
  /** Messages per page: 200 by default, 1,000 at most. */
  pageSize?: number;
  /** The interval between reads while a delta is missing: 1,000 by default, the worker's checkpoint interval. */
  gapMs?: number;
  /** How long a running reply may be silent before its row is read: 5,000 by default. */
  silenceMs?: number;
}

/** How long an edited question waits for the old reply to stop. */
const STOP_MS = 3_000;
/** The longest pause between reads while a reply waits. */
const MAX_SILENCE_MS = 300_000;
/** The most ids in one request, which keeps its URL short. */
const MAX_IDS = 50;

/** Opens a session. Call `close` when you no longer show it. */
export function openSession<Data = Json>(
  client: AnySupabaseClient,
  id: string,
  options: SessionOptions = {},
): ChatSession<Data> {
  return new ChatSession<Data>(id, supabaseBackend(client), options);
}

/** A session. If its BAML function returns a class, `Data` is the type that BAML generates for it. */
export class ChatSession<Data = Json> extends Poller<SessionSnapshot<Data>> {
  readonly id: string;
  /** Adds, edits and deletes code files, and reads their earlier versions. */
  readonly files: CodeFiles;
  readonly #backend: Backend;
  readonly #uploads: Uploads;
  readonly #options: Required<SessionOptions>;
  readonly #leave: () => void;

  #entries = new Map<string, Entry>();
  readonly #outbox = new Outbox((message) => this.#insert(message), () => this.changed());
  #connection: Connection = "connecting";
  /** Every row at or above this ordinal is known. Null until rows have been read. */
  #floor: number | null = null;
  #hasOlder = false;
  /** The highest ordinal that was read. Events may have skipped rows above it. */
  #readUpTo = -1;

  #pageDue = true;
  #filesDue = false;
  /** An event announced a row that can be read at once. */
  #rowsDue = false;
  #lastEvent = now();

  constructor(id: string, backend: Backend, options: SessionOptions = {}) {
    const { pageSize = 200, gapMs = 1_000, silenceMs = 5_000 } = options;
    super(gapMs);
    this.id = canonicalId(id);
    this.#backend = backend;
    this.#uploads = new Uploads(this.id, backend);
    this.files = new CodeFiles(this.id, backend, () => this.changed());
    this.#options = { pageSize: Math.min(Math.max(1, pageSize || 0), MAX_ROWS), gapMs, silenceMs };
    this.#leave = backend.listen(`session:${this.id}`, {
      onEvent: (event, payload) => this.#onEvent(event, payload),
      onConnection: (connection) => this.#onConnection(connection),
    });
    this.schedule();
  }

  /** Stops listening and reading. What is being sent is still sent; what waits for a connection is given up. */
  override close(): void {
    super.close();
    this.#outbox.close();
    this.#leave();
  }

  /**
   * Uploads a file, for a message to name: see `send`. The session must exist. Another call with the same file, after a
   * failure, goes on with the same upload.
   *
   * Throws `RequestError`: before anything is sent if the file is `too_large`, an `empty_file` or of an
   * `unsupported_type`. If `signal` is aborted, it throws the signal's reason.
   */
  attach(file: Blob, options: AttachOptions = {}): Promise<Attachment> {
    return this.#uploads.add(file, options);
  }

  /**
   * Sends a message and shows it at once. `data` holds further arguments of the BAML function; `id` is a new UUID. With
   * attachments, `text` may be empty.
   *
   * Resolves to true once the database has the message. While it cannot be reached the message stays `sending`, with
   * the reason in its `error`, and is sent again until it arrives. Resolves to false if it is rejected or given up: it
   * then stays with status `not_sent`, until you call `resend` or `discard`. Messages are sent one at a time, in order.
   */
  send(text: string, data?: Json, id: string = newId(), options: SendOptions = {}): Promise<boolean> {
    return this.#send(text, data, options, canonicalId(id));
  }

  /** Sends a `not_sent` message again, under the same id, so it cannot arrive twice. Resolves as `send` does. */
  resend(id: string): Promise<boolean> {
    const message = this.#outbox.get(canonicalId(id));
    return message?.status === "not_sent"
      ? this.#outbox.send({ ...message, status: "sending", error: null })
      : Promise.resolve(false);
  }

  /**
   * Asks an earlier question again with a new text and the same `data`, attachments and model, or those in `options`.
   * This adds a question and keeps the old one, whose reply is stopped if it has not ended; one that was not sent is
   * replaced. Resolves as `send` does.
   */
  async edit(id: string, text: string, options: SendOptions = {}): Promise<boolean> {
    const old = canonicalId(id);
    const unsent = this.#outbox.get(old);
    if (unsent !== undefined && !(await this.#outbox.giveUp(old))) {
      this.discard(old);
      return this.#send(text, unsent.data, { ...optionsOf(unsent), ...options });
    }
    const asked = this.#entries.get(old)?.message;
    return this.#send(text, asked?.data, { ...optionsOf(asked), ...options }, newId(), this.#stop(old));
  }

  /** Removes a message that is `not_sent` or `sending`. If a request is on its way, it is removed only if that fails. */
  discard(id: string): void {
    this.#outbox.discard(canonicalId(id));
  }

  /**
   * Stops a reply and keeps its text so far. `id` is the question's or the reply's. A question that waits for a
   * connection becomes `not_sent`. Throws `RequestError`.
   */
  async cancel(id: string): Promise<void> {
    const own = canonicalId(id);
    if (!(await this.#outbox.giveUp(own))) return; // not sent, so nothing to stop
    await this.#backend.cancelMessage(own);
    await this.#showEffect(own);
  }

  /** Starts a new attempt of a reply that has ended. `id` is the question's or the reply's. Throws `RequestError`. */
  async retry(id: string): Promise<void> {
    await this.#backend.retryMessage(canonicalId(id));
    await this.#showEffect(canonicalId(id));
  }

  /**
   * Answers a question of a reply (see the snapshot's `asks`). `answer` is a JSON object: `{approved: true}`, or
   * `{choice}` if there are choices. Resolves to `taken`; `answered` (somebody was first); `late`; or the status that
   * the reply has ended with. Throws `RequestError`.
   */
  async answer(messageId: string, ask: string, answer: Answer): Promise<string> {
    const outcome = await this.#backend.answerMessage(canonicalId(messageId), ask, answer);
    await this.#showEffect(canonicalId(messageId));
    return outcome;
  }

  /** Reads the page before the oldest message shown. Throws `RequestError`. */
  async loadOlder(): Promise<void> {
    if (!this.#hasOlder || this.#floor === null) return;
    const before = this.#floor;
    const rows = await this.#backend.readPage(this.id, before, this.#options.pageSize);
    if (this.closed || this.#floor !== before) return;
    this.#mergeRows(rows);
    this.#floor = rows[rows.length - 1]?.ordinal ?? 0;
    this.#hasOlder = this.#floor > FIRST_ORDINAL;
    this.changed();
  }

  protected override render(): SessionSnapshot<Data> {
    const floor = this.#floor ?? 0;
    const rows = this.#rows((row) => row.ordinal >= floor);
    const unsent = this.#outbox.list();
    const busy = rows.some(isLive) || unsent.some(({ status }) => status === "sending");
    // the cast: the caller asserts what `data` is
    const messages = rows.map(shown) as readonly unknown[] as readonly Message<Data>[];
    return {
      messages: [...messages, ...unsent],
      files: this.files.list(),
      connection: this.#connection,
      ready: this.#floor !== null,
      hasOlder: this.#hasOlder,
      busy,
      asks: rows.flatMap(asksOf),
      error: this.error,
    };
  }

  #send(
    text: string,
    data: Json | undefined,
    { attachments = [], model = null }: SendOptions,
    id = newId(),
    after?: Promise<unknown>,
  ): Promise<boolean> {
    if (this.#entries.get(id)?.message) return Promise.resolve(true); // it has already arrived
    const time = new Date().toISOString();
    const message: Question = {
      id,
      session_id: this.id,
      ordinal: null,
      role: "user",
      content: text,
      parts: partsOf({ content: text }),
      attachments,
      model,
      data: data ?? null,
      status: "sending",
      reply_to: null,
      attempt: 0,
      seq: 0,
      error: null,
      created_at: time,
      updated_at: time,
    };
    return this.#outbox.send(message, after);
  }

  /** Stops the reply to a question, if it has not ended, and waits for that: a session may refuse new questions before. */
  async #stop(id: string): Promise<void> {
    const hasStopped = (): boolean => !this.#live().includes(id);
    try {
      if (hasStopped()) return;
      await this.cancel(id);
      await withTimeout(STOP_MS, (signal) => this.waitFor(hasStopped, signal));
    } catch {
      // the new question is sent anyway, and waits for the old reply
    }
  }

  async #insert({ id, content, data, attachments, model }: Question): Promise<void> {
    const message: NewMessage = { id, session_id: this.id, content, data: data ?? undefined };
    // not in other messages, which older schemas take as well
    if (attachments.length > 0) message.attachments = attachments.map(named);
    if (model) message.model = model;
    this.#mergeRows([await this.#backend.insertMessage(message)]);
    this.#lastEvent = now();
    this.schedule();
  }

  /** Reads the rows that a call has changed. If that fails they are read later: the call itself has succeeded. */
  async #showEffect(id: string): Promise<void> {
    try {
      this.#mergeRead(await this.#backend.readMessages(this.id, this.#thread(id), this.#readUpTo));
    } catch {
      this.#pageDue = true;
    }
    if (this.closed) return;
    this.changed();
    this.schedule();
  }

  /** `id`, and if that is a reply's, the question's id too. */
  #thread(id: string): string[] {
    const question = this.#entries.get(id)?.message?.reply_to;
    return question ? [question, id] : [id];
  }

  #onConnection(connection: Connection): void {
    this.#connection = connection;
    if (connection === "live") {
      this.#pageDue = true;
      this.failures = 0; // read at once, however long reads have failed
      this.#outbox.wake();
    }
    this.changed();
    this.schedule();
  }

  #onEvent(name: string, payload: unknown): void {
    const event = parseSessionEvent(name, payload);
    if (event === null) return;
    this.#lastEvent = now();
    switch (event.kind) {
      case "delta":
        this.#rowsDue ||= !this.#entries.has(event.delta.message_id);
        this.#update(event.delta.message_id, (entry) => mergeDelta(entry, event.delta));
        break;
      case "message":
        this.#mergeRows([event.row]);
        break;
      case "message_hint":
        this.#update(event.id, (entry) => mergeHint(entry, event));
        this.#rowsDue = true;
        break;
      case "file":
        this.files.merge(event.row, event.conflict);
        break;
      case "files_deleted":
        this.files.forget(event.ids);
        break;
      case "files_hint":
        this.#filesDue = this.#rowsDue = true;
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
      this.#outbox.confirm(row.id);
    }
  }

  /** The ids of messages whose rows must be read, because an event was missed or left something out. */
  #incomplete(): string[] {
    return [...this.#entries].filter(([, entry]) => needsRead(entry)).map(([id]) => id);
  }

  /** The ids of messages that have not ended, oldest first: the oldest are the ones being answered. */
  #live(): string[] {
    return this.#rows(isLive).map(({ id }) => id);
  }

  /** Those of the known rows that satisfy `predicate`, oldest first. */
  #rows(predicate: (row: MessageRow) => boolean): MessageRow[] {
    const rows = [...this.#entries.values()].map(({ message }) => message).filter((row) => row !== null);
    return rows.filter(predicate).sort((a, b) => a.ordinal - b.ordinal);
  }

  protected override due(): number {
    const { gapMs } = this.#options;
    if (this.#pageDue || this.#rowsDue) return 0;
    // after a failure as well, to clear `error`, even if events have brought everything since
    const hasGap = this.#filesDue || this.failures > 0 || this.#incomplete().length > 0;
    const gap = hasGap ? this.lastRead + gapMs : Infinity;
    return Math.min(gap, this.#silenceEnds());
  }

  /** When the rows of unfinished messages are read although nothing has announced a change. */
  #silenceEnds(): number {
    const [first] = this.#rows(isLive);
    if (first === undefined) return Infinity;
    const since = Math.max(this.#lastEvent, this.lastRead);
    const { silenceMs } = this.#options;
    if (first.status !== "waiting") return since + silenceMs;
    // that may take days: each silence is as long as all before it
    return since + Math.min(Math.max(silenceMs, since - this.#lastEvent), MAX_SILENCE_MS);
  }

  protected override async read(): Promise<void> {
    const page = this.#pageDue;
    const files = page || this.#filesDue;
    this.#pageDue = this.#filesDue = this.#rowsDue = false;
    try {
      await Promise.all([page ? this.#readPage() : this.#readRows(), files && this.files.read()]);
    } catch (error) {
      this.#pageDue ||= page;
      this.#filesDue ||= files;
      throw error;
    }
  }

  async #readPage(): Promise<void> {
    const rows = await this.#backend.readPage(this.id, null, this.#options.pageSize);
    const lowest = rows[rows.length - 1]?.ordinal ?? 0;
    const hasOlder = lowest > FIRST_ORDINAL;
    // after a long absence there may be unknown rows before this page: show only the page then
    if (this.#floor === null || (hasOlder && lowest > this.#readUpTo)) {
      this.#floor = lowest;
      this.#hasOlder = hasOlder;
    }
    this.#mergeRead(rows);
  }

  async #readRows(): Promise<void> {
    const incomplete = this.#incomplete().slice(0, MAX_IDS);
    const ids = [...new Set([...incomplete, ...this.#live()])].slice(0, MAX_IDS);
    const lastEvent = this.#lastEvent;
    const isSilent = now() - lastEvent >= this.#options.silenceMs;
    const rows = await this.#backend.readMessages(this.id, ids, this.#readUpTo);
    this.#mergeRead(rows);
    const read = new Set(rows.map(({ id }) => id));
    for (const id of ids) {
      if (read.has(id)) continue;
      // there is no such row. One that is shown may have been announced before it could be read, but after this long a
      // silence it was deleted with its session
      const isShown = this.#entries.get(id)?.message !== null;
      if (!isShown || (isSilent && lastEvent === this.#lastEvent)) this.#entries.delete(id);
    }
  }

  /** Merges the rows of a read that included every row above `#readUpTo`. */
  #mergeRead(rows: readonly MessageRow[]): void {
    this.#mergeRows(rows);
    this.#readUpTo = Math.max(this.#readUpTo, ...rows.map((row) => row.ordinal));
  }
}

function isLive(message: { status: string }): boolean {
  return !hasEnded(message);
}

const shownRows = new WeakMap<MessageRow, object>();

/** A row as a message to show: the same object for the same row. */
function shown(row: MessageRow): object {
  const known = shownRows.get(row) ?? { ...row, parts: partsOf(row), attachments: row.attachments ?? [] };
  shownRows.set(row, known);
  return known;
}

/** An attachment as a message names it. */
function named({ path, name }: Attachment): { path: string; name: string } {
  return { path, name: fitName(name, path) };
}

/** What a question is asked again with. */
function optionsOf(message: Pick<MessageRow | Question, "attachments" | "model"> | null | undefined): SendOptions {
  return { attachments: message?.attachments ?? [], model: message?.model };
}

function asksOf(row: MessageRow): Ask[] {
  // one that is shown already cannot be answered before the reply waits
  if (row.status !== "waiting") return [];
  return (row.parts ?? []).filter(isAsk).map(({ toolCallId: name, input }) => ({ messageId: row.id, name, input }));
}
