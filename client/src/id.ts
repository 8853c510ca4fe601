/** Ids of rows: UUIDs, in lower case as Postgres writes them. */

/**
 * A random UUID (version 4). Unlike `crypto.randomUUID` it also works on insecure pages, and without any `crypto`
 * (React Native). Ids are no secrets, since row level security guards the rows, and an id that is taken is refused. So
 * `Math.random` is good enough there.
 */
export function newId(): string {
  const random = Uint8Array.from({ length: 32 }, () => Math.random() * 256);
  globalThis.crypto?.getRandomValues?.(random);
  let at = 0;
  // the digit 4 is the version, and 8 the variant, which leaves two of its bits free
  return "00000000-0000-4000-8000-000000000000".replace(/[08]/g, (digit) => {
    const bits = random[at++]!;
    return (digit === "8" ? 8 | (bits & 3) : bits & 15).toString(16);
  });
}

/**
 * An id as rows and events have it. Postgres also takes upper case, braces, and hyphens elsewhere or nowhere. What is no
 * UUID stays as it is.
 */
export function canonicalId(id: string): string {
  const digits = `${id}`.replace(/[{}-]/g, "").toLowerCase();
  return /^[0-9a-f]{32}$/.test(digits) ? digits.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-") : `${id}`;
}

/** Whether a canonical id is a UUID. */
export function isId(id: string): boolean {
  return /^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(id);
}

/** The SQLSTATE of a text that is not of its column's type. */
export const INVALID_ID = "22P02";
