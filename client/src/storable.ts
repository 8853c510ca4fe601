/** What a user has written, as the database can store it. */

import { RequestError } from "./types.ts";

/** With the flag `u`, a pair of surrogates is one character, so this matches only those without a partner. */
const LONE_SURROGATE = /[\ud800-\udfff]/gu;
/** Far more than the database stores (32), and less than any parser's stack takes. */
const MAX_DEPTH = 100;
/** What JSON has no form for: it writes most of them as `{}`, as if they were empty. */
const NO_JSON = /BigInt|Map|Set|Promise|Buffer|Blob|File/;

/**
 * The same value as JSON, with every text in it fit for Postgres, the names of fields too: NUL is removed, and a
 * surrogate without its partner (half an emoji) becomes U+FFFD. Otherwise it is what `JSON.stringify` makes of it:
 * fields that are undefined or functions are left out, NaN is null, a date is a text. Throws `RequestError` for what
 * JSON cannot hold: a cycle, a BigInt, a Map or Set, more than 100 levels.
 *
 * `String.prototype.toWellFormed` does half of it, but React Native and older browsers have none.
 */
export function storable<T>(value: T): T {
  return fit(value, "", 0) as T;
}

/** Returns undefined for what JSON leaves out. `name`: the field's. `depth`: the number of objects around the value. */
function fit(given: unknown, name: string, depth: number): unknown {
  const convert = (given as { toJSON?: unknown } | null | undefined)?.toJSON;
  const value: unknown = typeof convert === "function" ? convert.call(given, name) : given;
  if (typeof value === "string") return fitText(value);
  if (typeof value === "number") return Number.isFinite(value) ? value : null;
  const kind = Object.prototype.toString.call(value).slice(8, -1);
  if (NO_JSON.test(kind)) throw refusal(name, `is a ${kind}`);
  if (value === null || typeof value === "boolean") return value;
  if (typeof value !== "object") return undefined;
  if (depth >= MAX_DEPTH) throw refusal(name, "is nested too deeply");
  if (Array.isArray(value)) return Array.from(value, (item: unknown) => fit(item, name, depth + 1) ?? null);
  const fields = Object.entries(value).map(([key, field]) => [fitText(key), fit(field, key, depth + 1)] as const);
  return Object.fromEntries(fields.filter(([, field]) => field !== undefined));
}

function fitText(text: string): string {
  return text.replace(/\0/g, "").replace(LONE_SURROGATE, "\ufffd");
}

function refusal(name: string, why: string): RequestError {
  return new RequestError(`"${fitText(name)}" cannot be sent: it ${why}.`);
}
