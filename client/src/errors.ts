/**
 * What Supabase, or a gateway before it, answers instead of data, as a sentence that a user can read.
 *
 * The texts of this project's own rules are such sentences, and are kept. Postgres, PostgREST and gateways write for
 * developers: their errors keep the code, and get a text from the table below.
 */

import { RequestError } from "./types.ts";

/** The first that matches the code, or the status if there is no code. */
const SENTENCES: readonly (readonly [RegExp, string])[] = [
  [/^(PGRST30|401)/, "You are not signed in. Sign in again."],
  [/^(42501|403)/, "You may not do this."],
  [/^(PGRST116|23503)/, "This was deleted."],
  [/^23505/, "This already exists."],
  [/^(41[34]|431|54)/, "This is too large."],
  [/^429/, "Too many requests. Try again in a moment."],
  // no database, read-only, conflicts, out of resources, locked, shutting down, too slow, out of order
  [/^(08|25|40001|408|5[3578]|XX|PGRST00)/, "The server is busy. Try again in a moment."],
  [/^(2|PGRST1)/, "A value is missing, too long or invalid."],
  [/^(42|PGRST)/, "The server is not set up for this."],
];

/** Codes of this project's rules; some of them it shares with Postgres. */
const OWN = /^(PT|P0001|22023|23505|23514|42501)/;
const BY_POSTGRES = /violates|denied|owner/;
/** A page, JSON or a stack trace, which is for nobody. */
const UNREADABLE = /[\n<]|^\s*([[{]|$)|.{300}/;

/** There was no answer. */
export function unreachable(): RequestError {
  return new RequestError("Could not reach the server.", null, true);
}

/** The error of an answer: any JSON, usually `{message, code, hint}`. `status` 0: there was no answer. */
export function refusal(error: unknown, status: number): RequestError {
  if (status < 400) return unreachable(); // none, or a page of a network that wants a sign-in
  const fields = Object(error) as Record<string, unknown>;
  const text = (name: string): string => (typeof fields[name] === "string" ? fields[name] : "");
  const code = text("code");
  let message = sentence(code, text("message") || text("error"), status);
  // a limit's hint (of PT429, or of the status) is written for its user: it says when to try again
  if (/429/.test(code + status) && !UNREADABLE.test(text("hint"))) message = `${message.replace(/\.$/, "")}. ${text("hint")}`;
  return new RequestError(message, code || null, status >= 500);
}

function sentence(code: string, message: string, status: number): string {
  const isReadable = !UNREADABLE.test(message);
  if (isReadable && OWN.test(code) && !BY_POSTGRES.test(message)) return message;
  const id = /uuid: "([^"]{0,50})/.exec(message); // 22P02
  if (id) return `"${id[1]}" is not a valid id.`;
  if (/_model_fkey/.test(message)) return "This model is no longer there. Choose another one.";
  const key = code && !(code === "42501" && status === 401) ? code : `${status}`;
  const known = SENTENCES.find(([keys]) => keys.test(key))?.[1];
  // an API's text says more than a status does
  if (isReadable && (code ? !known : status < 500)) return message;
  return known ?? `The server failed to respond (status ${status}).`;
}
