// REST and Auth: @supabase/lite 0.10.0 on Postgres, patched from outside where it differs from
// PostgREST and GoTrue in ways that matter to this project. lite.py starts it and writes to stdin:
//   1. one line of JSON: {rest, auth, reader: connection URLs, publishableKey, secretKey, jwtSecret, siteUrl}
//   2. a line "reload" whenever the schema has to be read again
// It gets one line of JSON on stdout for each, and a line {mail: {to, subject, link}} for each email. The process exits
// when stdin closes, so it cannot outlive its parent. Everything Lite prints goes to stderr.

import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import { serve } from "@hono/node-server";
import { App } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";
import postgres from "postgres";

import { userAdmin } from "./admin.mjs";
import { keyAsToken, keyHolder } from "./keys.mjs";
import { mailbox } from "./mail.mjs";
import { completeTokens } from "./tokens.mjs";
import { types } from "./values.mjs";

const POOL = 10; // PostgREST's default
const CONNECT_SECONDS = 5;
const RETRY_SECONDS = 0.2;

for (const name of ["log", "info", "warn", "error", "debug"]) {
  console[name] = (...parts) => process.stderr.write(`${parts.map(oneLine).join(" ")}\n`);
}

// postgres 3.4.9 leaves unhandled rejections when a connection is lost at the wrong moment.
process.on("unhandledRejection", (error) => console.error("unhandled:", error));

function oneLine(part) {
  const text = part instanceof Error ? `${part.code ?? part.name} ${part.message}` : String(part);
  return text.replaceAll("\n", " | ").slice(0, 2000);
}

function connect(url, max) {
  const connection = createPostgresConnection({
    url,
    postgresOptions: { max, types, connect_timeout: CONNECT_SECONDS, backoff: RETRY_SECONDS, onnotice: () => {} },
  });
  // Lite would define outdated versions of auth.uid() and the like here (auth.sql has the hosted
  // ones), and would grant every role everything on every table with RLS.
  connection.config.baseSchema = "";
  connection.rlsState = "active";
  return connection;
}

// --- the schema ----------------------------------------------------------------------------------

/** Reads the schema in Lite's format, and the role and function settings that PostgREST applies. */
async function readSchema(reader) {
  const tables = await reader.introspect();
  if (tables.functions === undefined) throw new Error("the schema cannot be read"); // introspect() hides the error
  const roles = await reader.driver`
    select rolname as name, split_part(setting, '=', 1) as key, substr(setting, strpos(setting, '=') + 1) as value
    from pg_catalog.pg_roles, unnest(rolconfig) as setting
    where pg_catalog.pg_has_role('authenticator', oid, 'member') and rolname <> 'authenticator'`;
  const functions = await reader.driver`
    select proname as name, split_part(setting, '=', 1) as key, substr(setting, strpos(setting, '=') + 1) as value
    from pg_catalog.pg_proc, unnest(proconfig) as setting
    where pronamespace = 'public'::regnamespace and setting like 'statement_timeout=%'`;
  const jsonColumns = new Map();
  for (const { schema, table, name, type } of tables.columns) {
    if (schema !== "public" || !JSON_TYPES.has(type)) continue;
    jsonColumns.set(table, [...(jsonColumns.get(table) ?? []), name]);
  }
  return { tables, roles: byName(roles), functions: byName(functions), jsonColumns };
}

const JSON_TYPES = new Set(["json", "jsonb"]);

function byName(rows) {
  const found = new Map();
  for (const { name, key, value } of rows) found.set(name, { ...found.get(name), [key]: value });
  return found;
}

class Schema {
  #reader;
  #read;

  constructor(reader) {
    this.#reader = reader;
  }

  /** Returns the schema; concurrent callers share one read. */
  get() {
    const read = (this.#read ??= readSchema(this.#reader));
    read.catch(() => this.#read === read && this.forget());
    return read;
  }

  forget() {
    this.#read = undefined;
  }
}

/** Calls `changed` on each notification that the schema has changed, and after each (re)connection. */
async function listen(url, changed) {
  for (;;) {
    let lost;
    const end = new Promise((resolve) => (lost = resolve));
    const client = postgres(url, {
      max: 1,
      idle_timeout: null,
      max_lifetime: null,
      connect_timeout: CONNECT_SECONDS,
      fetch_types: false,
      onnotice: () => {},
      onnotify: (_, payload) => ["", "reload schema"].includes(payload) && changed(),
      onclose: lost,
    });
    try {
      await client`listen pgrst`;
      changed();
      await end;
    } catch (error) {
      console.error(error);
    }
    await client.end({ timeout: 0 }).catch((error) => console.error(error));
    await sleep(RETRY_SECONDS * 1000);
  }
}

// --- errors --------------------------------------------------------------------------------------

// The status that PostgREST 14 gives an SQLSTATE: the longest matching prefix wins, the default is 400.
const STATUS = {
  "08": 503, "09": 500, "0L": 403, "0P": 403, 21000: 500, 23503: 409, 23505: 409, 25: 500, 25006: 405, 28: 403,
  "2D": 500, 38: 500, 39: 500, "3B": 500, 40: 500, 42883: 404, "42P01": 404, "42P17": 500, 53: 503, 53400: 500,
  54: 500, 55: 500, 57: 500, "57P01": 503, 58: 500, F0: 500, HV: 500, P0: 500, P0001: 400, XX: 500,
};
// Lite handles these as PostgREST does; 42501 depends on the caller, 42703 and 42P01 on the query.
const LEFT_TO_LITE = /^(42501|42703|42883|42P01|PGRST|PT...)$/;

/** Returns an error in the form that Lite passes to the client unchanged. */
function responseError(status, { code, message, detail = null, hint = null }) {
  return Object.assign(new Error(JSON.stringify({ code, message, details: detail, hint })), {
    code: "PGRST",
    detail: JSON.stringify({ status, headers: {} }),
  });
}

function asPostgrest(error) {
  const code = error?.code;
  if (typeof code !== "string" || LEFT_TO_LITE.test(code)) return error;
  if (/^(CONNECT|CONNECTION_|E[A-Z]+$)/.test(code)) {
    return responseError(503, { code: "PGRST001", message: "Database client error. Retrying the connection." });
  }
  if (!/^[0-9A-Z]{5}$/.test(code)) return error;
  return responseError(STATUS[code] ?? STATUS[code.slice(0, 2)] ?? 400, error);
}

// --- REST ----------------------------------------------------------------------------------------

function encode(values, name, times) {
  if (!["string", "boolean"].includes(typeof values[name])) return;
  for (let i = 0; i < times; i++) values[name] = JSON.stringify(values[name]);
}

/**
 * Sets columns that `columns` lists and a row lacks to null, unless the request prefers defaults. Lite always uses the
 * default but returns null for it, except where `columns` has no length (a Set).
 */
function fillMissing({ values, $meta: meta }) {
  if (!values || !meta?.columns) return;
  for (const row of [values].flat()) {
    for (const column of meta.missing === "default" ? [] : meta.columns) row[column] ??= null;
  }
  meta.columns = new Set(meta.columns);
}

/** Rolls back a transaction whose response is an error, as PostgREST does. */
class Refused extends Error {
  constructor(response) {
    super("refused");
    this.response = response;
  }
}

const SET_ALL = "select set_config(key, value, true) from json_each_text($1::text::json)";

/** Returns a statement in Kysely's compiled form. */
const raw = (text, ...parameters) => ({
  query: { kind: "RawNode", sqlFragments: [text], parameters: [] },
  queryId: { queryId: text },
  sql: text,
  parameters,
});

/** Rewrites what Lite asks Kysely to compile and Postgres would refuse or understand differently. */
const rewritten = {
  transformQuery: ({ node }) => rewrite(node),
  transformResult: async ({ result }) => result,
};

function rewrite(node) {
  if (Array.isArray(node)) return node.map(rewrite);
  if (!node?.kind || node.kind.startsWith("Value") || node.kind.startsWith("Primitive")) return node;
  const copy = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, rewrite(value)]));
  if (copy.kind === "RawNode" && copy.sqlFragments[1] === " := ") quoteArgument(copy);
  if (copy.kind === "InsertQueryNode" && copy.columns?.length === 0) insertDefaults(copy);
  return copy;
}

/** Quotes a function's argument name, which Lite does not: keywords and capitals would fail. */
function quoteArgument(node) {
  const [{ sqlFragments, ...name }, ...rest] = node.parameters;
  node.parameters = [{ ...name, sqlFragments: [`"${sqlFragments[0]}"`] }, ...rest];
}

/** Inserts rows without columns as PostgREST does: each has the defaults, and a conflict changes nothing. */
function insertDefaults(node) {
  delete node.columns;
  node.values = raw(`select from generate_series(1, ${node.values.values.length})`).query;
  if (node.onConflict) node.onConflict = { ...node.onConflict, updates: undefined, doNothing: true };
}

function restConnection(url, schema) {
  const connection = connect(url, POOL);
  connection.kysely = connection.kysely.withPlugin(rewritten);
  let pool = { driver: connection.driver, kysely: connection.kysely, requests: 0 };
  // Ending a pool while a request waits for a connection would leave that request hanging.
  const endIfIdle = (old) => {
    if (old !== pool && old.requests === 0) old.driver.end().catch((error) => console.error(error));
  };
  connection.introspect = async () => (await schema.get()).tables;
  connection.normalizeDbError = asPostgrest;
  // Lite parses a JSON string in a request body as JSON text (twice for a column) and treats a boolean
  // as an SQL boolean. To undo that, both are encoded once more in arguments and twice more in rows.
  const asPostgres = connection.onPostgrestAST.bind(connection);
  connection.onPostgrestAST = async (request, context) => {
    const { tables, jsonColumns } = await schema.get();
    if (request.type === "update" && request.values?.length === 0) request.values = {};
    fillMissing(request);
    const rows = [request.values ?? []].flat();
    for (const column of jsonColumns.get(request.from) ?? []) rows.forEach((row) => encode(row, column, 2));
    if (request.type === "rpc" && request.httpMethod === "POST" && !Array.isArray(request.args)) {
      for (const { schema: home, name, arg_names, arg_types } of tables.functions) {
        if (home !== "public" || name !== request.function) continue;
        arg_names.forEach((argument, i) => JSON_TYPES.has(arg_types[i]) && encode(request.args ?? {}, argument, 1));
        break;
      }
    }
    return asPostgres(request, context);
  };
  // Lite sets role and claims in up to ten statements and no timeout. PostgREST uses one statement,
  // and adds the role's settings and the called function's statement_timeout.
  connection.withContext = async (context, work, options) => {
    const { roles, functions } = await schema.get();
    const role = context?.auth?.role ?? "anon";
    const rpc = options?.rpc;
    const settings = {
      ...roles.get(role),
      ...(rpc && functions.get(rpc.path.slice("/rpc/".length))),
      role,
      "request.jwt.claims": JSON.stringify({ ...context?.auth?.jwt, role }),
      ...(rpc && {
        "request.method": rpc.method,
        "request.path": rpc.path,
        "request.headers": JSON.stringify(rpc.requestHeaders ?? {}),
        "response.status": "",
        "response.headers": "",
        transaction_read_only: rpc.readOnly ? "on" : "off",
      }),
    };
    const mine = pool;
    mine.requests += 1;
    try {
      return await mine.kysely.transaction().execute(async (transaction) => {
        await transaction.executeQuery(raw(SET_ALL, JSON.stringify(settings)));
        const response = await work(transaction);
        if (response.status >= 400) throw new Refused(response);
        return response;
      });
    } catch (error) {
      if (error instanceof Refused) return error.response;
      throw error;
    } finally {
      mine.requests -= 1;
      endIfIdle(mine);
    }
  };
  /** Replaces the pool: prepared statements of the old one may not match the changed schema. */
  connection.renew = () => {
    const old = pool;
    const { driver, kysely: plain } = connect(url, POOL);
    const kysely = plain.withPlugin(rewritten);
    pool = { driver, kysely, requests: 0 };
    Object.assign(connection, { driver, kysely });
    endIfIdle(old);
  };
  return connection;
}

// --- text that Postgres cannot store ---------------------------------------------------------------

const ESCAPED = /\\u(0000|d[89a-f])/i; // the escapes of NUL and of surrogates
const INVALID = { code: "PGRST102", message: "Empty or invalid json", details: null, hint: null };
const NUL = {
  code: "22P05",
  message: "unsupported Unicode escape sequence",
  details: "\\u0000 cannot be converted to text.",
  hint: null,
};

/**
 * Returns the error for a JSON body with text that Postgres cannot store, or null. PostgREST reads a body as strict
 * JSON and then lets Postgres read it; Lite reads it as JavaScript, and would store U+FFFD.
 */
function unstorable(body) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch {
    return INVALID;
  }
  if (!ESCAPED.test(text)) return null;
  const texts = [];
  try {
    JSON.parse(text, (name, value) => void texts.push(name, value));
  } catch {
    return null; // Lite's answer to invalid JSON is PostgREST's
  }
  const strings = texts.filter((part) => typeof part === "string");
  if (!strings.every((part) => part.isWellFormed())) return INVALID;
  return strings.some((part) => part.includes("\0")) ? NUL : null;
}

const refuseUnstorable = async (context, next) => {
  if (!["POST", "PATCH", "PUT"].includes(context.req.method)) return next();
  const error = unstorable(await context.req.raw.clone().arrayBuffer());
  return error === null ? next() : context.json(error, 400);
};

// --- the server ----------------------------------------------------------------------------------

// PostgREST accepts any valid token without looking up its user, so the REST app must not either.
const acceptAnyUser = { repo: { findUserById: async () => true, findSessionById: async () => true } };
const skipUserLookup = async (context, next) => {
  context.set("authService", acceptAnyUser);
  await next();
};

async function start(config) {
  const reader = connect(config.reader, 2);
  const schema = new Schema(reader);
  const rest = restConnection(config.rest, schema);
  const resolver = keyHolder(config);
  const asToken = keyAsToken(config);
  const common = { db: { migrations: { enabled: false } }, storage: { enabled: false }, studio: { enabled: false } };
  const server = { admin: false, disableStudio: true, disableFallback: true, apiKeys: { resolver } };

  const restApp = new App({
    ...common,
    connection: rest,
    auth: { enabled: false, jwt_secret: config.jwtSecret },
    // The hosted service loads safeupdate for REST.
    api: { enabled: true, schemas: ["public"], max_rows: 1000, pg_safe_update: true },
    options: { server: { ...server, middlewares: [skipUserLookup, refuseUnstorable] } },
  });
  const auth = connect(config.auth, 4);
  const { jwtSecret, siteUrl } = config;
  const sql = auth.driver;
  const mails = mailbox((mail) => respond({ mail }));
  const authMiddlewares = [
    userAdmin({ jwtSecret, sql }),
    completeTokens({ jwtSecret, siteUrl, sql }),
    mails.middleware,
  ];
  const authApp = new App({
    ...common,
    connection: auth,
    auth: {
      enabled: true,
      jwt_secret: config.jwtSecret,
      jwt_expiry: 3600,
      enable_signup: true,
      site_url: config.siteUrl,
      additional_redirect_urls: ["http://localhost:*/**"], // loopback addresses are allowed already
      publishable_key: config.publishableKey,
      secret_key: config.secretKey,
      email: { enable_signup: true, enable_confirmations: false },
    },
    api: { enabled: false },
    options: { server: { ...server, middlewares: authMiddlewares }, drivers: { email: mails.driver } },
  });
  await authApp.init();
  await authApp.ensureSystemSchema();
  const [{ users }] = await reader.driver`select to_regclass('auth.users') is not null as users`;
  if (!users) throw new Error("the tables of auth could not be created"); // Lite hides the reason

  const changed = () => {
    schema.forget();
    rest.renew();
  };
  listen(config.reader, changed);

  const fetch = async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname.startsWith("/auth/v1")) return authApp.fetch(await asToken(request));
    try {
      await schema.get();
    } catch (error) {
      console.error(error);
      const message = "Could not query the database for the schema cache. Retrying.";
      return Response.json({ code: "PGRST002", details: null, hint: null, message }, { status: 503 });
    }
    return restApp.fetch(request);
  };
  const port = await new Promise((resolve, reject) => {
    const listening = serve({ fetch, port: 0, hostname: "127.0.0.1" }, (address) => resolve(address.port));
    // The gateway closes idle connections; if both sides did, one could close a connection that the
    // other is about to use.
    listening.keepAliveTimeout = 0;
    listening.on("error", reject);
  });
  return { port, changed, schema };
}

const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit(0));
const respond = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
let running;
let queue = Promise.resolve(); // one line at a time
lines.on("line", (line) => {
  queue = queue.then(async () => {
    try {
      if (!running) {
        running = await start(JSON.parse(line));
        respond({ port: running.port });
      } else {
        running.changed();
        await running.schema.get();
        respond({ reloaded: true });
      }
    } catch (error) {
      console.error(error?.stack ?? error);
      respond({ error: oneLine(error) });
    }
  });
});
