/** A value that is fetched on demand: one request at a time, with exponential backoff after failures. */

import { INVALID_ID } from "./id.ts";
import { Subscribable } from "./subscribable.ts";
import type { RequestError } from "./types.ts";

const MAX_BACKOFF_MS = 15_000;

/** The delay in ms after this many failures in a row: `firstMs`, doubled each time, at most 15 s. */
export function backoff(failures: number, firstMs: number): number {
  return failures && Math.min(firstMs * 2 ** (failures - 1), MAX_BACKOFF_MS);
}

export abstract class Poller<T> extends Subscribable<T> {
  /** Why the last read failed; null if it succeeded. */
  protected error: string | null = null;
  protected failures = 0;
  /** When the last read finished, on the clock of `now`. */
  protected lastRead = 0;
  protected closed = false;
  readonly #retryMs: number;
  #reading = false;
  /** What is read by an id that is no UUID will never be there. */
  #isHopeless = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `retryMs`: the delay after the first failure. */
  constructor(retryMs: number) {
    super();
    this.#retryMs = retryMs;
  }

  /** Stops reading. */
  close(): void {
    this.closed = true;
    clearTimeout(this.#timer);
  }

  /** Reads everything that is due. If it throws, the message becomes `error` and the read is retried. */
  protected abstract read(): Promise<void>;

  /** When the next read is due, on the clock of `now`. Infinity: not at all. */
  protected abstract due(): number;

  /** Sets the timer for the next read, if one is due. */
  protected schedule(): void {
    clearTimeout(this.#timer);
    if (this.closed || this.#reading || this.#isHopeless) return;
    const at = Math.max(this.due(), this.lastRead + backoff(this.failures, this.#retryMs));
    if (at < Infinity) this.#timer = setTimeout(() => void this.#readNow(), Math.max(0, at - now()));
  }

  async #readNow(): Promise<void> {
    this.#reading = true;
    try {
      await this.read();
      this.failures = 0;
      this.error = null;
    } catch (error) {
      this.failures += 1;
      this.error = messageOf(error);
      this.#isHopeless = (error as Partial<RequestError>).code === INVALID_ID;
    }
    this.#reading = false;
    this.lastRead = now();
    if (this.closed) return;
    this.changed();
    this.schedule();
  }
}

/** Milliseconds on a monotonic clock. */
export function now(): number {
  return performance.now();
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
