/**
 * The requests of sessions and session lists, over supabase-js. Each has a timeout and throws `RequestError`. What a user
 * has written is made `storable` here, whichever way it comes.
 */

import type { SupabaseClient } from "@supabase/supabase-js";
import { storable } from "./storable.ts";
import { withTimeout } from "./timeout.ts";
import { listen, type TopicListener } from "./topic.ts";
import {
  RequestError,
  type AnySupabaseClient,
  type CodeFileRow,
  type CodeFileVersion,
  type Database,
  type Json,
  type MessageRow,
  type NewSession,
  type SessionRow,
} from "./types.ts";

const REQUEST_TIMEOUT_MS = 15_000;
const MAX_VERSIONS = 100;
const UNIQUE_VIOLATION = "23505";
const LIMIT = "PT429";

/** PostgREST returns at most this many rows per request. */
export const MAX_ROWS = 1_000;

export interface NewMessage {
  id: string;
  session_id: string;
  content: string;
  data?: Json;
}

export interface NewFile {
  session_id: string;
  path: string;
  content: string;
  language: string | null;
}

/** Everything a session or session list needs from Supabase. Tests substitute their own. */
export interface Backend {
  /** The newest 1,000 sessions, most recent activity first. */
  readSessions(): Promise<SessionRow[]>;
  insertSession(values: NewSession & { id: string }): Promise<SessionRow>;
  /** Null if there is no such session. */
  renameSession(id: string, title: string): Promise<SessionRow | null>;
  deleteSession(id: string): Promise<void>;
  /** The newest messages below ordinal `before` (null: of the whole session), newest first. */
  readPage(sessionId: string, before: number | null, limit: number): Promise<MessageRow[]>;
  /** The messages with these ids, their replies, and every message above ordinal `after`. */
  readMessages(sessionId: string, ids: readonly string[], after: number): Promise<MessageRow[]>;
  /** Also succeeds if the same message has already arrived. */
  insertMessage(message: NewMessage): Promise<MessageRow>;
  cancelMessage(id: string): Promise<void>;
  retryMessage(id: string): Promise<void>;
  readFiles(sessionId: string): Promise<CodeFileRow[]>;
  readFile(id: string): Promise<CodeFileRow | null>;
  insertFile(file: NewFile): Promise<CodeFileRow>;
  /** Null, and nothing written, if the file was deleted or is at another revision. */
  updateFile(id: string, revision: number, content: string): Promise<CodeFileRow | null>;
  deleteFile(id: string): Promise<void>;
  /** The newest 100 versions of a file, newest first. */
  readVersions(fileId: string): Promise<CodeFileVersion[]>;
  readVersion(id: number): Promise<string>;
  listen(topic: string, listener: TopicListener): () => void;
}

interface Outcome<T> {
  data: T | null;
  error: { message: string; code?: string; hint?: string | null } | null;
  status: number;
}

/** Returns the data of a response. Throws its error as `RequestError`. */
export function unwrap<T>({ data, error, status }: Outcome<T>): T {
  if (error !== null) {
    // no status means no response: the message is the runtime's own
    if (status === 0) throw unreachable();
    const isRetryable = status >= 500;
    // a gateway answers with an HTML page
    if (isRetryable && !error.code) throw new RequestError(`The server failed to respond (status ${status}).`, null, true);
    // a limit's hint is written for its user: it says when to try again
    const message = error.code === LIMIT && error.hint ? `${error.message}. ${error.hint}` : error.message;
    throw new RequestError(message, error.code || null, isRetryable);
  }
  return data as T;
}

async function request<T>(run: (signal: AbortSignal) => PromiseLike<Outcome<T>>): Promise<T> {
  let outcome: Outcome<T>;
  try {
    outcome = await withTimeout(REQUEST_TIMEOUT_MS, run);
  } catch {
    throw unreachable();
  }
  return unwrap(outcome);
}

function unreachable(): RequestError {
  return new RequestError("Could not reach the server.", null, true);
}

export function supabaseBackend(client: AnySupabaseClient): Backend {
  const db = client as SupabaseClient<Database>;
  const messages = (sessionId: string) => db.from("messages").select().eq("session_id", sessionId);
  return {
    readSessions() {
      const query = db.from("sessions").select().order("updated_at", { ascending: false }).limit(MAX_ROWS);
      return request((signal) => query.abortSignal(signal));
    },

    insertSession(values) {
      return request((signal) => db.from("sessions").insert(storable(values)).select().abortSignal(signal).single());
    },

    renameSession(id, title) {
      const query = db.from("sessions").update(storable({ title })).eq("id", id).select();
      return request((signal) => query.abortSignal(signal).maybeSingle());
    },

    async deleteSession(id) {
      await request((signal) => db.from("sessions").delete().eq("id", id).abortSignal(signal));
    },

    async readPage(sessionId, before, limit) {
      let query = messages(sessionId).order("ordinal", { ascending: false }).limit(limit);
      if (before !== null) query = query.lt("ordinal", before);
      return (await request((signal) => query.abortSignal(signal))) as MessageRow[];
    },

    async readMessages(sessionId, ids, after) {
      const list = ids.join(",");
      const filter = `ordinal.gt.${after}` + (list && `,id.in.(${list}),reply_to.in.(${list})`);
      const query = messages(sessionId).or(filter).order("ordinal");
      return (await request((signal) => query.abortSignal(signal))) as MessageRow[];
    },

    async insertMessage(message) {
      type Insert = Database["public"]["Tables"]["messages"]["Insert"];
      // the cast: a trigger sets `ordinal`, so type generators see no default
      const insert = db.from("messages").insert(storable(message) as Insert).select();
      try {
        return (await request((signal) => insert.abortSignal(signal).single())) as MessageRow;
      } catch (error) {
        if (!(error instanceof RequestError && error.code === UNIQUE_VIOLATION)) throw error;
        const query = messages(message.session_id).eq("id", message.id);
        const arrived = await request((signal) => query.abortSignal(signal).maybeSingle());
        if (arrived === null) throw error;
        return arrived as MessageRow;
      }
    },

    async cancelMessage(id) {
      await request((signal) => db.rpc("cancel_message", { message_id: id }).abortSignal(signal));
    },

    async retryMessage(id) {
      await request((signal) => db.rpc("retry_message", { message_id: id }).abortSignal(signal));
    },

    readFiles(sessionId) {
      const query = db.from("code_files").select().eq("session_id", sessionId).order("path");
      return request((signal) => query.abortSignal(signal));
    },

    readFile(id) {
      return request((signal) => db.from("code_files").select().eq("id", id).abortSignal(signal).maybeSingle());
    },

    insertFile(file) {
      return request((signal) => db.from("code_files").insert(storable(file)).select().abortSignal(signal).single());
    },

    updateFile(id, revision, content) {
      const query = db.from("code_files").update(storable({ content })).eq("id", id).eq("revision", revision).select();
      return request((signal) => query.abortSignal(signal).maybeSingle());
    },

    async deleteFile(id) {
      await request((signal) => db.from("code_files").delete().eq("id", id).abortSignal(signal));
    },

    readVersions(fileId) {
      const columns = "id, file_id, path, language, revision, conflict, message_id, created_at";
      const query = db.from("code_file_versions").select(columns).eq("file_id", fileId);
      return request((signal) => query.order("id", { ascending: false }).limit(MAX_VERSIONS).abortSignal(signal));
    },

    async readVersion(id) {
      const query = db.from("code_file_versions").select("content").eq("id", id);
      return (await request<{ content: string }>((signal) => query.abortSignal(signal).single())).content;
    },

    listen: (topic, listener) => listen(client, topic, listener),
  };
}
