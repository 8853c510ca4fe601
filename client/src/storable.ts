/** Text that the database can store. */

/** With the flag `u`, a pair of surrogates is one character, so this matches only those without a partner. */
const LONE_SURROGATE = /[\ud800-\udfff]/gu;

/**
 * The same value with every text in it fit for Postgres, the names of fields too: NUL is removed, and a surrogate
 * without its partner (half an emoji) becomes U+FFFD. Anything else stays as it is. Throws what `JSON.stringify` does.
 *
 * `String.prototype.toWellFormed` does half of it, but React Native and older browsers have none.
 */
export function storable<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_name, part: unknown) => {
    if (typeof part === "string") return fit(part);
    if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).map(([name, inner]) => [fit(name), inner]));
  }) as T;
}

function fit(text: string): string {
  return text.replaceAll("\0", "").replace(LONE_SURROGATE, "\ufffd");
}
