/** A fake PostgREST in memory, below supabase-js: what a client sends and reads goes through all of its code. */

import { createClient } from "@supabase/supabase-js";
import type { AnySupabaseClient, MessageRow } from "../src/types.ts";
import { canonicalId } from "../src/id.ts";
import { timeAt } from "./world.ts";

export type Row = Record<string, unknown>;

export const uuid = (n: number): string => `a${String(n).padStart(7, "0")}-0000-4000-8000-00000000abcd`;
export const SESSION = uuid(9_000_001);
export const USER = uuid(9_000_002);

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const UUID_COLUMNS = /^(id|session_id|reply_to|file_id|message_id)$/;

class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Rest {
  readonly tables = new Map<string, Row[]>([["sessions", []], ["messages", []], ["code_files", []], ["code_file_versions", []]]);
  /** The method and path of each request, oldest first. */
  requests: string[] = [];
  bodies: string[] = [];
  /** PostgREST's setting `max-rows`. */
  maxRows = Infinity;
  /** Answers the next requests instead of the tables, one each. An `Error` is a lost connection. */
  answers: (Response | Error)[] = [];

  rows(table: string): Row[] {
    return this.tables.get(table)!;
  }

  /** A client of this server, whose sockets never open. */
  client(): AnySupabaseClient {
    return createClient("http://localhost", "key", {
      global: { fetch: (input, init) => this.fetch(String(input), init) },
      accessToken: () => Promise.resolve("token"),
      realtime: { transport: class { close(): void {} } as never },
    });
  }

  async fetch(address: string, init: RequestInit = {}): Promise<Response> {
    const { pathname, searchParams } = new URL(address);
    const method = init.method ?? "GET";
    const path = pathname.replace("/rest/v1/", "");
    this.requests.push(`${method} ${path}`);
    if (typeof init.body === "string") this.bodies.push(init.body);
    const answer = this.answers.shift();
    if (answer instanceof Error) throw answer;
    if (answer !== undefined) return answer;
    try {
      const body = typeof init.body === "string" ? (JSON.parse(init.body) as Row) : {};
      const result = path.startsWith("rpc/") ? this.#call(body) : this.#run(method, path, searchParams, body);
      if (!Array.isArray(result)) return Response.json(result);
      if (!new Headers(init.headers).get("accept")?.includes("pgrst.object")) return Response.json(result);
      if (result.length !== 1) throw new Refused(406, "PGRST116", "Cannot coerce the result to a single JSON object");
      return Response.json(result[0]);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return Response.json({ code: error.code, message: error.message, hint: null }, { status: error.status });
    }
  }

  /** `cancel_message` and `retry_message`. */
  #call({ message_id }: Row): string {
    const id = parse("id", String(message_id));
    if (!this.rows("messages").some((row) => row["id"] === id)) {
      throw new Refused(404, "PT404", `Message ${id} does not exist or is not yours`);
    }
    return "done";
  }

  #run(method: string, table: string, params: URLSearchParams, body: Row): Row[] {
    if (method === "POST") return [this.#insert(table, body)];
    matches({}, params); // also refuses a filter if there are no rows
    const found = this.rows(table).filter((row) => matches(row, params));
    if (method === "GET") return this.#page(found, params);
    if (method === "DELETE") this.tables.set(table, this.rows(table).filter((row) => !found.includes(row)));
    else for (const row of found) Object.assign(row, body);
    return copy(found);
  }

  #insert(table: string, values: Row): Row {
    const parsed = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, parse(name, value)]));
    const rows = this.rows(table);
    const at = rows.length + 1;
    if (rows.some(({ id }) => id === parsed["id"])) {
      throw new Refused(409, "23505", `duplicate key value violates unique constraint "${table}_pkey"`);
    }
    const row: Row = { ...DEFAULTS[table]!(at), ...parsed };
    rows.push(row);
    return copy(row);
  }

  #page(found: Row[], params: URLSearchParams): Row[] {
    const [column, direction] = (params.get("order") ?? "id").split(".") as [string, string?];
    const sign = direction === "desc" ? -1 : 1;
    const sorted = found.sort((a, b) => (a[column]! < b[column]! ? -sign : sign));
    return copy(sorted.slice(0, Math.min(Number(params.get("limit") ?? Infinity), this.maxRows)));
  }
}

const DEFAULTS: Record<string, (at: number) => Row> = {
  sessions: (at) => ({ title: "", function: "Chat", created_at: timeAt(at), updated_at: timeAt(at) }),
  messages: (at) => message(at) as unknown as Row,
  code_files: (at) => ({ id: uuid(at), revision: 1, message_id: null, created_at: timeAt(at), updated_at: timeAt(at) }),
  code_file_versions: (at) => ({ id: at }),
};

/** The question number `at` of the session, answered. */
export function message(at: number, values: Partial<MessageRow> = {}): MessageRow {
  const times = { created_at: timeAt(at), updated_at: timeAt(at) };
  const rest = { reply_to: null, attempt: 0, seq: 0, error: null, data: null, ...times } as const;
  return { id: uuid(at), session_id: SESSION, ordinal: 2 * at, role: "user", content: `${at}`, status: "done", ...rest, ...values };
}

/** `structuredClone` for rows, which some of the runtimes that are tested do not have. */
function copy<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}

/** A value as Postgres reads it. */
function parse(column: string, value: unknown): unknown {
  if (!UUID_COLUMNS.test(column) || value === null || typeof value === "number") return value;
  const id = canonicalId(String(value));
  if (!UUID.test(id)) throw new Refused(400, "22P02", `invalid input syntax for type uuid: "${String(value)}"`);
  return id;
}

function matches(row: Row, params: URLSearchParams): boolean {
  return [...params].every(([column, value]) => {
    if (column === "or") return splitList(value.slice(1, -1)).some((part) => holds(row, part));
    return ["select", "order", "limit", "columns"].includes(column) || holds(row, `${column}.${value}`);
  });
}

/** A filter such as `ordinal.gt.4` or `id.in.(a,b)`. */
function holds(row: Row, filter: string): boolean {
  const [, column, operator, value] = /^(\w+)\.(eq|gt|lt|in)\.(.*)$/s.exec(filter) as unknown as [string, string, string, string];
  const own = row[column] as string | number;
  if (operator === "in") return splitList(value.slice(1, -1)).some((one) => parse(column, one) === own);
  const other = typeof own === "number" ? Number(value) : (parse(column, value) as string);
  return operator === "eq" ? own === other : operator === "gt" ? own > other : own < other;
}

/** Splits at commas outside of parentheses. */
function splitList(list: string): string[] {
  return list.match(/[^,(]+(\([^)]*\))?/g) ?? [];
}
