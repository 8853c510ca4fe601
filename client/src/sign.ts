/** URLs that a browser can load, of objects that only their user may read. */

import { backoff } from "./poller.ts";
import { sign } from "./storage.ts";
import type { AnySupabaseClient } from "./types.ts";

/** The most paths in one request. */
const MAX_PATHS = 100;
/** How often a URL that is shown is asked for: it is the same until it is about to expire. */
const RENEW_MS = 300_000;
/** The pause after the first failure. */
const FIRST_PAUSE_MS = 1_000;

interface Signed {
  /** Null: there is no such object. */
  url: Promise<string | null>;
  /** Until when it is given out, as `Date.now` counts. */
  until: number;
}

interface Batch {
  paths: string[];
  urls: Promise<Map<string, string>>;
}

/** What a client has signed for a number of seconds, by path. */
class Signer {
  readonly #client: AnySupabaseClient;
  readonly #seconds: number;
  readonly #signed = new Map<string, Signed>();
  /** The paths of this tick, and the URLs that they will have. */
  #batch: Batch | null = null;

  constructor(client: AnySupabaseClient, seconds: number) {
    this.#client = client;
    this.#seconds = seconds;
  }

  get(path: string): Promise<string | null> {
    const known = this.#signed.get(path);
    if (known && known.until > Date.now()) return known.url;
    const entry: Signed = { url: this.#add(path), until: Infinity };
    this.#signed.set(path, entry);
    const forget = (): void => void this.#signed.delete(path);
    // nine tenths: who gets it last has the rest to load it
    const until = Date.now() + this.#seconds * 900;
    entry.url.then((url) => (url === null ? forget() : (entry.until = until)), forget);
    return entry.url;
  }

  async #add(path: string): Promise<string | null> {
    const batch = (this.#batch ??= this.#start());
    batch.paths.push(path);
    return (await batch.urls).get(path) ?? null;
  }

  #start(): Batch {
    for (const [path, { until }] of this.#signed) if (until <= Date.now()) this.#signed.delete(path);
    const paths: string[] = [];
    return { paths, urls: Promise.resolve().then(() => this.#send(paths)) };
  }

  async #send(paths: string[]): Promise<Map<string, string>> {
    this.#batch = null;
    const starts = paths.map((_, at) => at).filter((at) => at % MAX_PATHS === 0);
    const parts = starts.map((at) => sign(this.#client, paths.slice(at, at + MAX_PATHS), this.#seconds));
    return new Map((await Promise.all(parts)).flatMap((part) => [...part]));
  }
}

const signers = new WeakMap<AnySupabaseClient, Map<number, Signer>>();

/**
 * Returns a signed URL for each path, valid for at most `seconds` and at least a tenth of that. Those of deleted objects
 * are left out. The calls of one tick are one request, and URLs are kept until shortly before they expire. Throws
 * `RequestError`.
 */
export async function signAttachments(
  client: AnySupabaseClient,
  paths: readonly string[],
  seconds = 3_600,
): Promise<Map<string, string>> {
  const own = signers.get(client) ?? new Map<number, Signer>();
  signers.set(client, own);
  const signer = own.get(seconds) ?? new Signer(client, seconds);
  own.set(seconds, signer);
  const signed = await Promise.all(paths.map(async (path) => [path, await signer.get(path)] as const));
  return new Map(signed.filter((pair): pair is [string, string] => pair[1] !== null));
}

/**
 * Calls `show` with a URL for a path, and again with a new one before it expires; with null if the object was deleted.
 * Returns a function that ends this.
 */
export function keepSigned(client: AnySupabaseClient, path: string, show: (url: string | null) => void): () => void {
  let shown: string | null | undefined;
  let failures = 0;
  let hasEnded = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const load = async (): Promise<void> => {
    let url = shown;
    try {
      url = (await signAttachments(client, [path])).get(path) ?? null;
      failures = 0;
    } catch {
      failures += 1;
    }
    if (hasEnded) return;
    if (url !== undefined && url !== shown) show((shown = url));
    if (url !== null) timer = setTimeout(() => void load(), backoff(failures, FIRST_PAUSE_MS) || RENEW_MS);
  };
  void load();
  return () => {
    hasEnded = true;
    clearTimeout(timer);
  };
}
