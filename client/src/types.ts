import type { SupabaseClient } from "@supabase/supabase-js";
import type { Database, Json } from "./database.types.ts";

export type { Database, Json };

/** A supabase-js client with any database types. */
// `any`: the type parameters are invariant, so a narrower type would reject clients typed for more tables
export type AnySupabaseClient = SupabaseClient<any, any, any, any, any>;

type Tables = Database["public"]["Tables"];

/** A row of `sessions`. */
export type SessionRow = Tables["sessions"]["Row"];

/** The columns you may set when you create a session. All of them have defaults. */
export interface NewSession {
  /** A new UUID. Creating the session again under the same id, after a lost response, makes no second one. */
  id?: string;
  title?: string;
  /** The BAML function that answers: one of the worker's `BRIDGE_FUNCTIONS`. */
  function?: string;
  metadata?: { [key: string]: Json };
  on_new_message?: "enqueue" | "interrupt" | "reject";
  /** The model of the questions that name none (see `readModels`). Null: the function's own. */
  model?: string | null;
}

/** The columns of a session that you may change. */
export type SessionChanges = Omit<NewSession, "id">;

/** A model that users may choose. */
export interface Model {
  name: string;
  /** What to show: the name, if it has no title. */
  title: string;
}

/** A file that a question names. Its bytes are an object of Supabase Storage, in the bucket `attachments`. */
export interface Attachment {
  /** The object's path: `<session id>/<uuid>.<extension>`. */
  path: string;
  /** The file's name, to show. */
  name: string;
  /** The media type: one of `ATTACHMENT_TYPES`. */
  type: string;
  /** In bytes. */
  size: number;
}

/** What a question may have besides its text and `data`. */
export interface SendOptions {
  /** What `attach` has returned: at most 8, and 10 MiB in all. */
  attachments?: readonly Attachment[] | undefined;
  /** The name of a model (see `readModels`). Null: the session's, or the function's own. */
  model?: string | null | undefined;
}

export interface AttachOptions {
  /** The file's name. By default the one of a `File`, or `attachment` with the extension of its type. */
  name?: string | undefined;
  /** The media types to take, such as a function's `accepts`. By default `ATTACHMENT_TYPES`. */
  accepts?: readonly string[] | undefined;
  /** Stops the upload. */
  signal?: AbortSignal | undefined;
  /** Called with the fraction that has been sent, from 0 to 1. */
  onProgress?: ((fraction: number) => void) | undefined;
}

/** `waiting`: for the user's answer, for a time, or for another reply. No worker holds it. */
export type MessageStatus = "queued" | "running" | "waiting" | "done" | "failed" | "cancelled";

/** Why a reply failed. Safe to show to the user. */
export interface ReplyError {
  code: string;
  message: string;
}

/** Whether the user has agreed. */
export interface Approval {
  id: string;
  approved?: boolean;
}

/** How far a tool's call, or a question to the user, has come. */
export type ToolState =
  | { state: "input-available"; input: Json }
  | { state: "approval-requested"; input: Json; approval: Approval }
  | { state: "approval-responded"; input: Json; approval: Approval & { approved: boolean } }
  | { state: "output-available"; input: Json; output: Json; approval?: Approval }
  | { state: "output-error"; input: Json; errorText: string; approval?: Approval };

/** A tool's call. One with `toolName` `ask` is a question to the user: `toolCallId` is its name. */
export type ToolPart = { type: "dynamic-tool"; toolName: string; toolCallId: string } & ToolState;

/** A piece of a message, as in a `UIMessage` of the AI SDK 7. */
export type Part =
  | { type: "text"; text: string }
  | { type: "reasoning"; id?: string; text: string }
  | ToolPart
  | { type: "source-url"; sourceId: string; url: string; title?: string }
  | { type: "file"; id?: string; mediaType: string; filename?: string; url: string }
  | { type: `data-${string}`; id?: string; data: Json }
  | { type: "step-start" };

type Narrowed = "role" | "status" | "error" | "parts" | "run_at" | "attachments" | "model";

/** A row of `messages`, narrowed to the values its check constraints allow. */
export interface MessageRow extends Omit<Tables["messages"]["Row"], Narrowed> {
  role: "user" | "assistant";
  status: MessageStatus;
  error: ReplyError | null;
  /** The parts that are complete. Null, or absent in rows of an older schema: there is nothing but text. */
  parts?: Part[] | null;
  run_at?: string | null;
  /** A question's attachments. Null, or absent in rows of an older schema: none. */
  attachments?: Attachment[] | null;
  /** The model that a question names. */
  model?: string | null;
}

/** A structured result while it streams: any field may still be missing or null. */
export type Streamed<T> = Json extends T
  ? T
  : T extends readonly (infer Item)[]
    ? Streamed<Item>[]
    : T extends object
      ? { [Key in keyof T]?: Streamed<T[Key]> | null }
      : T;

interface MessageBase extends Omit<MessageRow, "ordinal" | "role" | "status" | "data" | "parts" | "attachments"> {
  /** Null until the database has confirmed it. */
  ordinal: number | null;
  /** What to show, in order. The text that is being written comes last. */
  parts: readonly Part[];
  /** A question's attachments. Those of a reply are parts of type `file`. */
  attachments: readonly Attachment[];
}

/**
 * A message from the user. `data` holds further arguments of the BAML function.
 *
 * `sending` and `not_sent` exist only in this client: the database has not confirmed the row. Such a message has no
 * `ordinal`. `sending` with an `error`: there is no connection at the moment, and it is sent once there is one.
 * `not_sent`: it was rejected (`error.message` is the reason), or given up.
 */
export interface Question extends MessageBase {
  role: "user";
  status: MessageStatus | "sending" | "not_sent";
  data: Json | null;
}

/** A reply: the row plus everything streamed since it was written. `data` is the structured result. */
export type Reply<Data = Json> = MessageBase & { role: "assistant" } & (
    | { status: "done"; data: Data | null }
    | { status: Exclude<MessageStatus, "done">; data: Streamed<Data> | null }
  );

/** A message to show. `Data` is the class that the session's BAML function returns, if it returns one. */
export type Message<Data = Json> = Question | Reply<Data>;

export type CodeFileRow = Tables["code_files"]["Row"];

/** A code file. `conflict`: the user's edit was kept, and a reply's version was saved beside it. */
export interface CodeFile extends CodeFileRow {
  conflict: boolean;
}

type VersionRow = Tables["code_file_versions"]["Row"];

/** An earlier version of a code file, or (`conflict`) a reply's version that lost to the user's edit. */
export type CodeFileVersion = Omit<VersionRow, "content" | "session_id">;

/** The outcome of an edit. If it was not saved, `file` is the current file, or null if it was deleted. */
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
  /** Text to append. */
  text?: string;
  /** The whole text. */
  content?: string;
  /** The whole structured result so far. */
  data?: Json;
  /** A part to append, or to put in the place of the one with its `toolCallId` or `id`. */
  part?: Part;
  /** Reasoning to append. */
  reasoning?: string;
  /** The fields that were too large to send. */
  omitted?: string[];
}

/** `live`: events arrive. `offline`: they do not, the client keeps trying, and the snapshot may be out of date. */
export type Connection = "connecting" | "live" | "offline";

/** A question that a reply has for the user, and that has no answer yet: see `ChatSession.answer`. */
export interface Ask {
  /** The reply's id. */
  readonly messageId: string;
  readonly name: string;
  /** What is asked: usually `{title, choices?}`. */
  readonly input: Json;
}

/** The usual one is `{approved: true}`; with choices it is `{choice: "…"}`. */
export interface Answer {
  [key: string]: Json | undefined;
}

export interface SessionSnapshot<Data = Json> {
  /** Oldest first. Messages that the database has not confirmed come last. */
  readonly messages: readonly Message<Data>[];
  /** By path. */
  readonly files: readonly CodeFile[];
  readonly connection: Connection;
  /** Whether the rows have been read once. */
  readonly ready: boolean;
  /** Whether there are messages before the first one here (see `loadOlder`). */
  readonly hasOlder: boolean;
  /** Whether a message is waiting for its reply, or a reply is running or waits. */
  readonly busy: boolean;
  /** The questions that replies have for the user, oldest first. */
  readonly asks: readonly Ask[];
  /** Why the last read failed. It is retried. */
  readonly error: string | null;
}

export interface SessionListSnapshot {
  /** Most recent activity first. */
  readonly sessions: readonly SessionRow[];
  readonly connection: Connection;
  readonly ready: boolean;
  readonly error: string | null;
}

/**
 * Supabase rejected a request or could not be reached, or the client does not send it. `code` is the SQLSTATE or PGRST
 * code, if there is one; of an attachment `too_large`, `empty_file`, `unsupported_type` or Storage's code.
 */
export class RequestError extends Error {
  readonly code: string | null;
  /** Whether the request was not answered, so that the same one may succeed later. False: it was rejected. */
  readonly isRetryable: boolean;

  constructor(message: string, code: string | null = null, isRetryable = false) {
    super(message);
    this.name = "RequestError";
    this.code = code;
    this.isRetryable = isRetryable;
  }
}
