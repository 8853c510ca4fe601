/**
 * The requests of sessions and session lists, over supabase-js. Each has a timeout and throws `RequestError`. What a user
 * has written is made `storable` here, whichever way it comes, and lists are read to their end.
 */

import type { SupabaseClient } from "@supabase/supabase-js";
import { refusal, unreachable } from "./errors.ts";
import { isId } from "./id.ts";
import { readAll, type Rows, type Wanted } from "./pages.ts";
import { storable } from "./storable.ts";
import { upload } from "./storage.ts";
import { withTimeout } from "./timeout.ts";
import { listen, type TopicListener } from "./topic.ts";
import type {
  Answer,
  AnySupabaseClient,
  AttachOptions,
  CodeFileRow,
  CodeFileVersion,
  Database,
  Json,
  MessageRow,
  NewSession,
  RequestError,
  SessionChanges,
  SessionRow,
} from "./types.ts";

const REQUEST_TIMEOUT_MS = 15_000;
const MAX_VERSIONS = 100;

/** The ordinal of a session's first question. Questions are even, and a reply is its question's + 1. */
export const FIRST_ORDINAL = 2;

export interface NewMessage {
  id: string;
  session_id: string;
  content: string;
  data?: Json | undefined;
  /** `[{path, name}]` */
  attachments?: Json;
  model?: string | null;
}

export interface NewFile {
  session_id: string;
  path: string;
  content: string;
  language: string | null;
}

/** Everything a session or session list needs from Supabase. Tests substitute their own. */
export interface Backend {
  /** All sessions, in any order. */
  readSessions(): Promise<SessionRow[]>;
  /** Also succeeds if the same session has already arrived. */
  insertSession(values: NewSession & { id: string }): Promise<SessionRow>;
  /** Null if there is no such session. */
  updateSession(id: string, values: SessionChanges): Promise<SessionRow | null>;
  deleteSession(id: string): Promise<void>;
  /** The newest messages below ordinal `before` (null: of the whole session), newest first. None: there are no more. */
  readPage(sessionId: string, before: number | null, limit: number): Promise<MessageRow[]>;
  /** The messages with these ids, their replies, and every message above ordinal `after`. */
  readMessages(sessionId: string, ids: readonly string[], after: number): Promise<MessageRow[]>;
  /** Also succeeds if the same message has already arrived. */
  insertMessage(message: NewMessage): Promise<MessageRow>;
  cancelMessage(id: string): Promise<void>;
  retryMessage(id: string): Promise<void>;
  /** `taken`, `answered` (somebody was first), `late`, or the status that the reply has ended with. */
  answerMessage(id: string, ask: string, answer: Answer): Promise<string>;
  readFiles(sessionId: string): Promise<CodeFileRow[]>;
  readFile(id: string): Promise<CodeFileRow | null>;
  insertFile(file: NewFile): Promise<CodeFileRow>;
  /** Null, and nothing written, if the file was deleted or is at another revision. */
  updateFile(id: string, revision: number, content: string): Promise<CodeFileRow | null>;
  deleteFile(id: string): Promise<void>;
  /** The newest 100 versions of a file, newest first. */
  readVersions(fileId: string): Promise<CodeFileVersion[]>;
  readVersion(id: number): Promise<string>;
  /** Stores a file under a type, in the bucket `attachments`. Also succeeds if it has already arrived. */
  upload(path: string, file: Blob, type: string, options: AttachOptions): Promise<void>;
  listen(topic: string, listener: TopicListener): () => void;
}

/** The answer to a request, as postgrest-js has it. */
interface Outcome {
  data: unknown;
  error: unknown;
  /** 0: there was no answer. */
  status: number;
}

const TIMED_OUT: Outcome = { data: null, error: {}, status: 0 };

/** Returns the data of an answer. Throws its error as `RequestError`. */
export function unwrap<T>({ data, error, status }: Outcome): T {
  // a body `null` is no error for postgrest-js, whatever its status
  if (error !== null || status >= 400) throw refusal(error, status);
  return data as T;
}

/** What a query answers with: its rows, one row, one or null, or nothing that matters. */
type Kind = "rows" | "single" | "maybeSingle" | "any";
type Response = PromiseLike<Outcome>;
interface Query {
  abortSignal(signal: AbortSignal): Response & { single(): Response; maybeSingle(): Response };
}

/** Sends a query and returns what it answers with. Throws `RequestError`. */
export async function request<T>(query: Query, kind: Kind = "any"): Promise<T> {
  const outcome = await withTimeout(REQUEST_TIMEOUT_MS, (signal) => {
    const sent = query.abortSignal(signal);
    return kind === "single" || kind === "maybeSingle" ? sent[kind]() : sent;
  }).catch(() => TIMED_OUT);
  const data = unwrap<T>(outcome);
  // something else has answered, such as the page of a network that wants a sign-in
  const isRow = Object(data) === data;
  if (!{ rows: Array.isArray(data), single: isRow, maybeSingle: isRow || data === null, any: true }[kind]) throw unreachable();
  return data;
}

/** Inserts a row. If that is refused, the row may have arrived before: an answer was lost. */
async function insert<Row>(inserted: () => Query, found: () => Query): Promise<Row> {
  try {
    return await request<Row>(inserted(), "single");
  } catch (error) {
    // not only a duplicate key: it may have been the last that a limit allows
    if (!(error as Partial<RequestError>).code) throw error;
    const arrived = await request<Row | null>(found(), "maybeSingle");
    if (arrived === null) throw error;
    return arrived;
  }
}

export function supabaseBackend(client: AnySupabaseClient): Backend {
  const db = client as SupabaseClient<Database>;
  const read = <Row>(select: () => Rows<Query>, wanted?: Wanted) =>
    readAll<Query, Row>(client, (query) => request(query, "rows"), select, wanted);
  const messages = (sessionId: string) => db.from("messages").select().eq("session_id", sessionId);
  return {
    // by id, which no change of a session moves to another page
    readSessions: () => read(() => db.from("sessions").select()),

    insertSession: (values) =>
      insert(
        () => db.from("sessions").insert(storable(values)).select(),
        () => db.from("sessions").select().eq("id", values.id),
      ),

    updateSession: async (id, values) =>
      request(db.from("sessions").update(storable(values)).eq("id", id).select(), "maybeSingle"),

    deleteSession: (id) => request(db.from("sessions").delete().eq("id", id)),

    readPage(sessionId, before, most) {
      const wanted = { by: "ordinal", descending: true, after: before, last: FIRST_ORDINAL, most };
      return read(() => messages(sessionId), wanted);
    },

    readMessages(sessionId, ids, after) {
      const list = ids.join(",");
      const filter = `ordinal.gt.${after}` + (list && `,id.in.(${list}),reply_to.in.(${list})`);
      return read(() => messages(sessionId).or(filter), { by: "ordinal" });
    },

    insertMessage: (message) =>
      insert(
        () => {
          type Insert = Database["public"]["Tables"]["messages"]["Insert"];
          // the cast: a trigger sets `ordinal`, so type generators see no default
          return db.from("messages").insert(storable(message) as Insert).select();
        },
        () => messages(message.session_id).eq("id", message.id),
      ),

    cancelMessage: (id) => request(db.rpc("cancel_message", { message_id: storable(id) })),

    retryMessage: (id) => request(db.rpc("retry_message", { message_id: storable(id) })),

    answerMessage: (id, ask, answer) =>
      request(db.rpc("answer_message", storable({ message_id: id, ask, answer }))),

    readFiles: (sessionId) => read(() => db.from("code_files").select().eq("session_id", sessionId)),

    readFile: (id) => request(db.from("code_files").select().eq("id", id), "maybeSingle"),

    insertFile: async (file) => request(db.from("code_files").insert(storable(file)).select(), "single"),

    updateFile: async (id, revision, content) => {
      const query = db.from("code_files").update(storable({ content })).eq("id", id).eq("revision", revision);
      return request(query.select(), "maybeSingle");
    },

    deleteFile: (id) => request(db.from("code_files").delete().eq("id", id)),

    readVersions(fileId) {
      const columns = "id, file_id, path, language, revision, conflict, message_id, created_at";
      const query = () => db.from("code_file_versions").select(columns).eq("file_id", fileId);
      return read(query, { descending: true, most: MAX_VERSIONS });
    },

    async readVersion(id) {
      const query = db.from("code_file_versions").select("content").eq("id", id);
      return (await request<{ content: string }>(query, "single")).content;
    },

    upload: (path, file, type, options) => upload(client, path, file, type, options),

    listen(topic, listener) {
      if (isId(topic.slice(topic.indexOf(":") + 1))) return listen(client, topic, listener);
      // nobody may join such a topic, and a join that is refused would be tried for ever
      setTimeout(() => listener.onConnection("offline"));
      return () => undefined;
    },
  };
}
