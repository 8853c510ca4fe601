// Converts between Postgres and JSON values where the driver's conversion differs from PostgREST's. Used by lite.mjs.

// Lite returns timestamps in Postgres' notation; PostgREST returns ISO 8601.
const iso = (text) => text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00");
// Lite encodes some JSON values itself; the driver would encode those a second time.
const json = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const same = (value) => value;
/** The driver would return a string. `NaN` and the infinities stay strings: JSON has no such numbers. */
const numeric = (text) => (Number.isFinite(Number(text)) ? Number(text) : text);

/** Parses a Postgres array literal; the driver would turn null into the string "NULL". */
function items(text) {
  const stack = [[]];
  for (const [, opens, closes, quoted, bare] of text.matchAll(/(\{)|(\})|"((?:[^"\\]|\\.)*)"|([^,{}"]+)/gs)) {
    if (opens) stack.push([]);
    else if (closes) stack.at(-2).push(stack.pop());
    else if (quoted !== undefined) stack.at(-1).push(quoted.replace(/\\(.)/gs, "$1"));
    else stack.at(-1).push(bare === "NULL" ? null : bare);
  }
  return stack[0][0];
}

const quote = (value) => (value === null ? "NULL" : `"${String(value).replace(/["\\]/g, "\\$&")}"`);
const list = (value) =>
  Array.isArray(value) ? `{${value.map((item) => (Array.isArray(item) ? list(item) : quote(item)))}}` : value;

/** Type handlers for the driver, by OID. */
export const types = {
  timestamp: { to: 1114, from: [1114], serialize: same, parse: iso },
  timestamptz: { to: 1184, from: [1184], serialize: same, parse: iso },
  json: { to: 114, from: [114], serialize: json, parse: JSON.parse },
  jsonb: { to: 3802, from: [3802], serialize: json, parse: JSON.parse },
  numeric: { to: 1700, from: [1700], serialize: String, parse: numeric },
  bytea: { to: 17, from: [17], serialize: same, parse: same },
  texts: { to: 1009, from: [1009], serialize: list, parse: items },
  varchars: { to: 1015, from: [1015], serialize: list, parse: items },
  uuids: { to: 2951, from: [2951], serialize: list, parse: items },
};
