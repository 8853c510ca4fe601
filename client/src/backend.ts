/** The requests a session makes, over supabase-js: each has a timeout and throws `RequestError`. */

import type { SupabaseClient } from "@supabase/supabase-js";
import { listen, type TopicListener } from "./topic.ts";
import {
  RequestError,
  type AnySupabaseClient,
  type CodeFileRow,
  type CodeFileVersion,
  type Database,
  type Json,
  type MessageRow,
} from "./types.ts";

export const REQUEST_TIMEOUT_MS = 15_000;

const UNIQUE_VIOLATION = "23505";

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

/** How many versions of a file are listed. */
const MAX_VERSIONS = 100;

/** What a session needs of the outside; a test may stand in for it. */
export interface Backend {
  /** The newest messages below `before` (null: of all), newest first. */
  readPage(sessionId: string, before: number | null, limit: number): Promise<MessageRow[]>;
  /** The messages with these ids, the replies to them, and all above the ordinal `after`. */
  readMessages(sessionId: string, ids: readonly string[], after: number): Promise<MessageRow[]>;
  readFiles(sessionId: string): Promise<CodeFileRow[]>;
  readFile(id: string): Promise<CodeFileRow | null>;
  insertFile(file: NewFile): Promise<CodeFileRow>;
  /** Null if the file is gone or has another revision by now: nothing was written then. */
  updateFile(id: string, revision: number, content: string): Promise<CodeFileRow | null>;
  deleteFile(id: string): Promise<void>;
  /** The newest versions of a file, newest first. */
  readVersions(fileId: string): Promise<CodeFileVersion[]>;
  readVersion(id: number): Promise<string>;
  /** Succeeds too if the same message had arrived before. */
  insertMessage(message: NewMessage): Promise<MessageRow>;
  cancelMessage(id: string): Promise<void>;
  retryMessage(id: string): Promise<void>;
  listen(topic: string, listener: TopicListener): () => void;
}

interface Outcome<T> {
  data: T | null;
  error: { message: string; code?: string } | null;
  status: number;
}

/** The data of a response, or its error thrown. */
export function unwrap<T>({ data, error, status }: Outcome<T>): T {
  if (error !== null) {
    // without a status there was no response, and the text is the runtime's own
    if (status === 0) throw new RequestError("The server could not be reached.");
    // what stands between may answer with a page of its own
    if (status >= 500 && !error.code) throw new RequestError(`The server could not answer (status ${status}).`);
    throw new RequestError(error.message, error.code || null);
  }
  return data as T;
}

export function timeout(): AbortSignal {
  return AbortSignal.timeout(REQUEST_TIMEOUT_MS);
}

export function supabaseBackend(client: AnySupabaseClient): Backend {
  const db = client as SupabaseClient<Database>;
  const messages = (sessionId: string) => db.from("messages").select().eq("session_id", sessionId);
  return {
    async readPage(sessionId, before, limit) {
      let query = messages(sessionId).order("ordinal", { ascending: false }).limit(limit);
      if (before !== null) query = query.lt("ordinal", before);
      return unwrap(await query.abortSignal(timeout())) as MessageRow[];
    },

    async readMessages(sessionId, ids, after) {
      const list = ids.join(",");
      const filter = `ordinal.gt.${after}` + (list && `,id.in.(${list}),reply_to.in.(${list})`);
      const query = messages(sessionId).or(filter).order("ordinal").abortSignal(timeout());
      return unwrap(await query) as MessageRow[];
    },

    async readFiles(sessionId) {
      const query = db.from("code_files").select().eq("session_id", sessionId).order("path");
      return unwrap(await query.abortSignal(timeout()));
    },

    async readFile(id) {
      return unwrap(await db.from("code_files").select().eq("id", id).abortSignal(timeout()).maybeSingle());
    },

    async insertFile(file) {
      return unwrap(await db.from("code_files").insert(file).select().abortSignal(timeout()).single());
    },

    async updateFile(id, revision, content) {
      const query = db.from("code_files").update({ content }).eq("id", id).eq("revision", revision).select();
      return unwrap(await query.abortSignal(timeout()).maybeSingle());
    },

    async deleteFile(id) {
      unwrap(await db.from("code_files").delete().eq("id", id).abortSignal(timeout()));
    },

    async readVersions(fileId) {
      const columns = "id, file_id, path, language, revision, conflict, message_id, created_at";
      const query = db.from("code_file_versions").select(columns).eq("file_id", fileId);
      return unwrap(await query.order("id", { ascending: false }).limit(MAX_VERSIONS).abortSignal(timeout()));
    },

    async readVersion(id) {
      const query = db.from("code_file_versions").select("content").eq("id", id).abortSignal(timeout());
      return unwrap<{ content: string }>(await query.single()).content;
    },

    async insertMessage(message) {
      type Insert = Database["public"]["Tables"]["messages"]["Insert"];
      // the cast: `ordinal` has no default that a type generator sees, a trigger gives it
      const insert = db.from("messages").insert(message as Insert);
      const outcome = await insert.select().abortSignal(timeout()).single();
      if (outcome.error?.code === UNIQUE_VIOLATION) {
        const query = messages(message.session_id).eq("id", message.id).abortSignal(timeout());
        const arrived = unwrap(await query.maybeSingle());
        if (arrived !== null) return arrived as MessageRow;
      }
      return unwrap(outcome) as MessageRow;
    },

    async cancelMessage(id) {
      unwrap(await db.rpc("cancel_message", { message_id: id }).abortSignal(timeout()));
    },

    async retryMessage(id) {
      unwrap(await db.rpc("retry_message", { message_id: id }).abortSignal(timeout()));
    },

    listen: (topic, listener) => listen(client, topic, listener),
  };
}
