/**
 * Merges the rows of a message with the deltas of its reply.
 *
 * Rows (read, or announced by a `message` event) and deltas arrive independently, in any order, and deltas may be lost
 * or duplicated. `(attempt, seq)` joins them: a row contains the deltas up to its `seq`, and a delta is applied only
 * if it is the next one. Nothing here does I/O. Every function returns a new value, or the same object if nothing
 * changed.
 */

import { withPart, withReasoning } from "./parts.ts";
import type { CodeFile, CodeFileRow, Delta, MessageRow } from "./types.ts";

/** The most deltas kept for one message while one is missing. */
export const MAX_PENDING = 2_000;

/** A state of a message. */
interface Version {
  readonly attempt: number;
  readonly updated_at: string;
}

/** Everything known about one message. */
export interface Entry {
  /** The message to show: the newest row plus the deltas since. Null: only deltas have arrived. */
  readonly message: MessageRow | null;
  /** Deltas that cannot be applied yet, by `seq`, all of attempt `pendingAttempt`. */
  readonly pending: ReadonlyMap<number, Delta>;
  readonly pendingAttempt: number;
  /** A newer row that was announced with fields left out, so it must be read. */
  readonly unread: Version | null;
}

const NOTHING_PENDING: ReadonlyMap<number, Delta> = new Map();

export const UNKNOWN: Entry = { message: null, pending: NOTHING_PENDING, pendingAttempt: 0, unread: null };

/** Whether the message is final unless it is retried. */
export function hasEnded(message: { status: string }): boolean {
  return message.status === "done" || message.status === "failed" || message.status === "cancelled";
}

/** Whether the row must be read to complete this message. */
export function needsRead(entry: Entry): boolean {
  return entry.pending.size > 0 || entry.unread !== null || entry.message === null;
}

/** Merges a complete row, read or announced. */
export function mergeRow(entry: Entry, row: MessageRow): Entry {
  const unread = entry.unread !== null && isOlder(row, entry.unread) ? entry.unread : null;
  const shown = entry.message;
  if (shown !== null && !replaces(row, shown)) {
    return unread === entry.unread ? entry : { ...entry, unread };
  }
  // text only grows within an attempt, so a row behind the deltas does not replace it
  const behind = shown !== null && shown.attempt === row.attempt && row.seq < shown.seq && !hasEnded(row);
  const message = behind ? { ...row, ...writtenOf(shown) } : row;
  return applyPending({ ...entry, message, unread });
}

/** Merges a delta, whether it is the next one, early, late or a duplicate. */
export function mergeDelta(entry: Entry, delta: Delta): Entry {
  const { message } = entry;
  if (delta.attempt < entry.pendingAttempt) return entry;
  if (message !== null) {
    if (delta.attempt < message.attempt) return entry;
    if (delta.attempt === message.attempt && (delta.seq <= message.seq || isOver(message))) return entry;
  }
  const kept = delta.attempt === entry.pendingAttempt ? entry.pending : NOTHING_PENDING;
  if (kept.has(delta.seq) || kept.size >= MAX_PENDING) return entry;
  const pending = new Map(kept).set(delta.seq, delta);
  return applyPending({ ...entry, pendingAttempt: delta.attempt, pending });
}

/** Records that an event announced a row with fields left out. */
export function mergeHint(entry: Entry, version: Version): Entry {
  if (entry.message !== null && !isOlder(entry.message, version)) return entry;
  if (entry.unread !== null && !isOlder(entry.unread, version)) return entry;
  return { ...entry, unread: { attempt: version.attempt, updated_at: version.updated_at } };
}

/** Merges a row of `code_files`: the higher revision wins, then the later `updated_at`. */
export function mergeFile(known: CodeFile | undefined, row: CodeFileRow, conflict = false): CodeFile {
  if (known === undefined) return { ...row, conflict };
  const newer =
    row.revision !== known.revision
      ? row.revision > known.revision
      : compareTimes(row.updated_at, known.updated_at) > 0;
  // a conflict stays visible until the file changes
  if (newer) return { ...row, conflict };
  return conflict && row.revision === known.revision && !known.conflict ? { ...known, conflict } : known;
}

/**
 * Compares two of Postgres's JSON timestamps, to the microsecond.
 *
 * `Date` has only milliseconds. Within one, the strings sort as the times do: Postgres drops the fraction's trailing
 * zeros, "+" sorts before "." and both before digits, and the offset is the same.
 */
export function compareTimes(a: string, b: string): number {
  return Date.parse(a) - Date.parse(b) || (a < b ? -1 : a > b ? 1 : 0);
}

function isOlder(a: Version, b: Version): boolean {
  return a.attempt !== b.attempt ? a.attempt < b.attempt : compareTimes(a.updated_at, b.updated_at) < 0;
}

/** Whether the message's attempt is over. It runs once, at its start, so its deltas come too late. */
function isOver(message: MessageRow): boolean {
  return message.status !== "running";
}

/** Whether `row` is newer than the message shown. */
function replaces(row: MessageRow, shown: MessageRow): boolean {
  if (row.attempt !== shown.attempt) return row.attempt > shown.attempt;
  if (row.role === "assistant") {
    const [over, wasOver] = [isOver(row), isOver(shown)];
    if (over !== wasOver) return over;
  }
  const order = compareTimes(row.updated_at, shown.updated_at);
  return order !== 0 ? order > 0 : row.status !== shown.status ? hasEnded(row) : row.seq > shown.seq;
}

/** Applies the pending deltas that are next in order, and drops those that are out of date. */
function applyPending(entry: Entry): Entry {
  const { pendingAttempt, pending } = entry;
  let { message } = entry;
  if (message === null || pending.size === 0) return entry;
  if (pendingAttempt > message.attempt && pending.has(1)) {
    // the old text stays until the first delta, or the row, of the new attempt
    const nothing = { seq: 0, content: "", parts: null, data: null, error: null };
    message = { ...message, ...nothing, attempt: pendingAttempt, status: "running" };
  }
  if (pendingAttempt > message.attempt) return { ...entry, message };
  if (pendingAttempt < message.attempt || isOver(message)) return { ...entry, message, pending: NOTHING_PENDING };
  // a delta that left something out needs the row
  for (let next = pending.get(message.seq + 1); next && !next.omitted; next = pending.get(message.seq + 1)) {
    message = apply(message, next);
  }
  const { seq } = message;
  const left = [...pending].filter(([at]) => at > seq);
  return { ...entry, message, pending: left.length > 0 ? new Map(left) : NOTHING_PENDING };
}

function apply(message: MessageRow, { seq, content, text = "", data, part, reasoning }: Delta): MessageRow {
  let next = { ...message, seq, content: content ?? message.content + text, data: data ?? message.data };
  if (part !== undefined) next = { ...next, parts: withPart(next, part) };
  if (reasoning !== undefined) next = { ...next, parts: withReasoning(next, reasoning) };
  return next;
}

/** What deltas write. */
function writtenOf({ seq, content, parts, data }: MessageRow): Partial<MessageRow> {
  return { seq, content, parts: parts ?? null, data };
}
