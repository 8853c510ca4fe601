/** Validates the events of a topic. Events that do not match the contract are ignored. */

import type { CodeFileRow, Delta, MessageRow, SessionRow } from "./types.ts";

export type SessionEvent =
  | { kind: "delta"; delta: Delta }
  | { kind: "message"; row: MessageRow }
  | { kind: "file"; row: CodeFileRow; conflict: boolean }
  /** A row with fields that were too large to send. */
  | { kind: "message_hint"; id: string; attempt: number; updated_at: string }
  | { kind: "files_deleted"; ids: string[] }
  /** A file, or a list of deleted files, that was too large to send. */
  | { kind: "files_hint" };

type Payload = Record<string, unknown>;

/** Parses an event of a topic `session:<id>`. Null if it is not valid. */
export function parseSessionEvent(event: string, payload: unknown): SessionEvent | null {
  if (!isObject(payload)) return null;
  if (event === "delta") {
    const isValid =
      has(payload, "message_id", "string") && has(payload, "attempt", "number") && has(payload, "seq", "number");
    return isValid ? { kind: "delta", delta: payload as unknown as Delta } : null;
  }
  if (event === "files_deleted") {
    if (payload["omitted"] !== undefined) return { kind: "files_hint" };
    const ids: unknown = payload["ids"];
    return Array.isArray(ids) ? { kind: "files_deleted", ids: ids.filter((id) => typeof id === "string") } : null;
  }
  if (!has(payload, "id", "string") || !has(payload, "updated_at", "string")) return null;
  const { omitted, conflict, ...row } = payload;
  const whole = omitted === undefined;
  if (event === "message" && has(row, "attempt", "number")) {
    if (whole) return has(row, "content", "string") ? { kind: "message", row: row as unknown as MessageRow } : null;
    const { id, attempt, updated_at } = row as unknown as MessageRow;
    return { kind: "message_hint", id, attempt, updated_at };
  }
  if (event === "file") {
    if (!whole) return { kind: "files_hint" };
    return { kind: "file", row: row as unknown as CodeFileRow, conflict: conflict === true };
  }
  return null;
}

export type SessionListEvent =
  | { kind: "session"; row: SessionRow }
  | { kind: "deleted"; id: string }
  /** A row with fields that were too large to send. */
  | { kind: "hint" };

/** Parses an event of a topic `user:<id>`. Null if it is not valid. */
export function parseSessionListEvent(event: string, payload: unknown): SessionListEvent | null {
  if (!isObject(payload) || !has(payload, "id", "string")) return null;
  if (event === "session_deleted") return { kind: "deleted", id: payload["id"] as string };
  if (event !== "session") return null;
  if (payload["omitted"] !== undefined) return { kind: "hint" };
  return { kind: "session", row: payload as unknown as SessionRow };
}

function isObject(value: unknown): value is Payload {
  return typeof value === "object" && value !== null;
}

function has(payload: Payload, key: string, type: "string" | "number"): boolean {
  return typeof payload[key] === type;
}
