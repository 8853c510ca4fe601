/**
 * The client rule: how the rows of a message and the deltas of its reply become what is shown.
 *
 * Rows (read, or announced by a `message` event) and deltas come on different ways, in any order, and deltas may be
 * lost or doubled. `(attempt, seq)` joins them: a row contains the deltas up to its `seq`, and a delta is applied
 * only if it is the next one. Nothing here does I/O; every function returns a new value, or the same if nothing
 * changed.
 */

import type { CodeFile, CodeFileRow, Delta, MessageRow } from "./types.ts";

/** How many deltas are kept for one message while a gap is being closed by reading its row. */
export const MAX_PENDING = 2_000;

/** Which state of a message an event spoke of without showing it whole. */
interface Version {
  readonly attempt: number;
  readonly updated_at: string;
}

/** All that is known of one message. */
export interface Entry {
  /** What is shown: the newest row, with the deltas applied since. Null: only deltas have been heard. */
  readonly message: MessageRow | null;
  /** Deltas that cannot be applied yet, by `seq`; all of the attempt `heard`. */
  readonly pending: ReadonlyMap<number, Delta>;
  readonly heard: number;
  /** A newer row was announced with fields left out: it must be read. */
  readonly wanted: Version | null;
}

const NOTHING_PENDING: ReadonlyMap<number, Delta> = new Map();

export const UNKNOWN: Entry = { message: null, pending: NOTHING_PENDING, heard: 0, wanted: null };

/** Whether the message will not change any more, unless it is retried. */
export function hasEnded(message: { status: string }): boolean {
  return message.status === "done" || message.status === "failed" || message.status === "cancelled";
}

/** Whether only reading the row can complete this message. */
export function needsRead(entry: Entry): boolean {
  return entry.pending.size > 0 || entry.wanted !== null || entry.message === null;
}

/** Merges a whole row, from wherever it came. */
export function mergeRow(entry: Entry, row: MessageRow): Entry {
  const wanted = entry.wanted !== null && isOlder(row, entry.wanted) ? entry.wanted : null;
  const shown = entry.message;
  if (shown !== null && !replaces(row, shown)) {
    return wanted === entry.wanted ? entry : { ...entry, wanted };
  }
  // within an attempt text only grows: a row that is behind the deltas brings all but its text
  const behind =
    shown !== null && shown.attempt === row.attempt && row.seq < shown.seq && !hasEnded(row);
  const message = behind ? { ...row, content: shown.content, data: shown.data, seq: shown.seq } : row;
  return settle({ ...entry, message, wanted });
}

/** Merges the next, an early, a late or a doubled delta. */
export function mergeDelta(entry: Entry, delta: Delta): Entry {
  const { message } = entry;
  if (delta.attempt < entry.heard) return entry;
  if (message !== null) {
    if (delta.attempt < message.attempt) return entry;
    if (delta.attempt === message.attempt && (delta.seq <= message.seq || hasEnded(message))) return entry;
  }
  const kept = delta.attempt === entry.heard ? entry.pending : NOTHING_PENDING;
  if (kept.has(delta.seq) || kept.size >= MAX_PENDING) return entry;
  const pending = new Map(kept).set(delta.seq, delta);
  return settle({ ...entry, heard: delta.attempt, pending });
}

/** Notes that a row exists which the event did not show whole. */
export function mergeHint(entry: Entry, version: Version): Entry {
  if (entry.message !== null && !isOlder(entry.message, version)) return entry;
  if (entry.wanted !== null && !isOlder(entry.wanted, version)) return entry;
  return { ...entry, wanted: { attempt: version.attempt, updated_at: version.updated_at } };
}

/** Merges a row of `code_files`: the higher revision wins, then the later change. */
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
 * Compares two timestamps as Postgres writes them in JSON, to the microsecond.
 *
 * Postgres drops trailing zeros of the fraction; "+" sorts before "." and both before digits, so the texts compare
 * as the times do when their offset is the same, which it is where `Date` sees the same millisecond.
 */
export function compareTimes(a: string, b: string): number {
  return Date.parse(a) - Date.parse(b) || (a < b ? -1 : a > b ? 1 : 0);
}

function isOlder(a: Version, b: Version): boolean {
  return a.attempt !== b.attempt ? a.attempt < b.attempt : compareTimes(a.updated_at, b.updated_at) < 0;
}

/** Whether `row` says something newer than what is shown. */
function replaces(row: MessageRow, shown: MessageRow): boolean {
  if (row.attempt !== shown.attempt) return row.attempt > shown.attempt;
  if (row.role === "assistant") {
    // a reply runs once an attempt, and at its beginning: from then on it is queued again or ended
    const [runs, ran] = [row.status === "running", shown.status === "running"];
    if (runs !== ran) return ran;
  }
  const order = compareTimes(row.updated_at, shown.updated_at);
  return order !== 0 ? order > 0 : row.status !== shown.status ? hasEnded(row) : row.seq > shown.seq;
}

/** Applies what can be applied of the pending deltas and forgets what is over. */
function settle(entry: Entry): Entry {
  const { heard, pending } = entry;
  let { message } = entry;
  if (message === null || pending.size === 0) return entry;
  if (heard > message.attempt && pending.has(1)) {
    // a new attempt begins anew, but only its first delta or its row may take the old text away
    message = { ...message, attempt: heard, seq: 0, status: "running", content: "", data: null, error: null };
  }
  if (heard > message.attempt) return { ...entry, message };
  if (heard < message.attempt || hasEnded(message)) return { ...entry, message, pending: NOTHING_PENDING };
  // what a delta was too large to show is in the row alone
  for (let next = pending.get(message.seq + 1); next && !next.omitted; next = pending.get(message.seq + 1)) {
    message = apply(message, next);
  }
  const { seq } = message;
  const left = [...pending].filter(([at]) => at > seq);
  return { ...entry, message, pending: left.length > 0 ? new Map(left) : NOTHING_PENDING };
}

function apply(message: MessageRow, delta: Delta): MessageRow {
  return {
    ...message,
    seq: delta.seq,
    content: delta.content ?? message.content + (delta.text ?? ""),
    data: delta.data ?? message.data,
  };
}
