import type { SupabaseClient } from "@supabase/supabase-js";
import type { Database, Json } from "./database.types.ts";

export type { Database, Json };

/** Any client of supabase-js, whatever database types it was made with. */
// `any`: the type parameters are invariant, so no narrower type takes a client typed for more tables
export type AnySupabaseClient = SupabaseClient<any, any, any, any, any>;

type Tables = Database["public"]["Tables"];

/** A row of `sessions`. */
export type SessionRow = Tables["sessions"]["Row"];

/** What a user may set when a session is created; all of it has a default. */
export interface NewSession {
  title?: string;
  /** The BAML function that answers; one of the worker's `BRIDGE_FUNCTIONS`. */
  function?: string;
  metadata?: { [key: string]: Json };
  on_new_message?: "enqueue" | "interrupt" | "reject";
}

export type MessageStatus = "queued" | "running" | "done" | "failed" | "cancelled";

/** Why a reply failed; safe to show. */
export interface ReplyError {
  code: string;
  message: string;
}

/** A row of `messages`, with the values its check constraints allow. */
export interface MessageRow extends Omit<Tables["messages"]["Row"], "role" | "status" | "error"> {
  role: "user" | "assistant";
  status: MessageStatus;
  error: ReplyError | null;
}

/** What a structured result may look like while it streams: any field may be missing or null so far. */
export type Streamed<T> = Json extends T
  ? T
  : T extends readonly (infer Item)[]
    ? Streamed<Item>[]
    : T extends object
      ? { [Key in keyof T]?: Streamed<T[Key]> | null }
      : T;

interface MessageBase extends Omit<MessageRow, "ordinal" | "role" | "status" | "data"> {
  /** Null until the database has confirmed it. */
  ordinal: number | null;
}

/**
 * What the user wrote. `data` holds further arguments of the BAML function.
 *
 * `sending` and `not_sent` are states of this client alone: the database has not (yet) confirmed the row. Such
 * a message has no `ordinal`, and `error.message` says why it was not sent.
 */
export interface Question extends MessageBase {
  role: "user";
  status: MessageStatus | "sending" | "not_sent";
  data: Json | null;
}

/** A reply: the row, with what has streamed since the row was written. `data` is the structured result. */
export type Reply<Data = Json> = MessageBase & { role: "assistant" } & (
    | { status: "done"; data: Data | null }
    | { status: Exclude<MessageStatus, "done">; data: Streamed<Data> | null }
  );

/** A message as the page shows it. `Data` is the result of the session's BAML function, if that is a class. */
export type Message<Data = Json> = Question | Reply<Data>;

export type CodeFileRow = Tables["code_files"]["Row"];

/** A code file; `conflict` says that a reply's version was put aside because the user had edited the file. */
export interface CodeFile extends CodeFileRow {
  conflict: boolean;
}

type VersionRow = Tables["code_file_versions"]["Row"];

/** An earlier content of a code file, or (`conflict`) a reply's content that gave way to the user's edit. */
export type CodeFileVersion = Omit<VersionRow, "content" | "session_id">;

/** What became of an edit: saved, or not, because the file (null: gone) had changed since the user began. */
export type SaveOutcome =
  | { readonly saved: true; readonly file: CodeFileRow }
  | { readonly saved: false; readonly file: CodeFileRow | null };

/** The payload of a `delta` event: the next piece of a running reply. */
export interface Delta {
  message_id: string;
  reply_to: string;
  attempt: number;
  /** Counts from 1 within an attempt. */
  seq: number;
  /** To be added to the text. */
  text?: string;
  /** All of the text. */
  content?: string;
  /** All of the structured result so far. */
  data?: Json;
  /** Which of these was too large to be sent. */
  omitted?: string[];
}

/** `live`: events arrive. `offline`: they do not, and the client keeps trying; what is shown may be old. */
export type Connection = "connecting" | "live" | "offline";

export interface SessionSnapshot<Data = Json> {
  /** Oldest first; what is not sent yet comes last. */
  readonly messages: readonly Message<Data>[];
  /** By path. */
  readonly files: readonly CodeFile[];
  readonly connection: Connection;
  /** Whether the rows have been read once. */
  readonly ready: boolean;
  /** Whether the session has messages before the first one shown (see `loadOlder`). */
  readonly hasOlder: boolean;
  /** Whether a message waits for its reply, or a reply runs. */
  readonly busy: boolean;
  /** Why the last reading of the rows did not succeed; it is tried again. */
  readonly error: string | null;
}

export interface SessionListSnapshot {
  /** Newest activity first. */
  readonly sessions: readonly SessionRow[];
  readonly connection: Connection;
  readonly ready: boolean;
  readonly error: string | null;
}

/** Supabase refused a request or could not be reached. `code` is the SQLSTATE or PGRST code, if it told one. */
export class RequestError extends Error {
  readonly code: string | null;

  constructor(message: string, code: string | null = null) {
    super(message);
    this.name = "RequestError";
    this.code = code;
  }
}
