/** A value that is read when there is a reason to: one reading at a time, and ever less often while they fail. */

import { Observable } from "./observable.ts";

const LONGEST_MS = 15_000;

/** How long to wait after so many failures in a row: after each twice as long as before, at most 15 s. */
export function backoff(failures: number, firstMs: number): number {
  return failures && Math.min(firstMs * 2 ** (failures - 1), LONGEST_MS);
}

export abstract class Reading<T> extends Observable<T> {
  /** Why the last reading did not succeed. */
  protected error: string | null = null;
  protected failures = 0;
  /** When the last reading ended, by `now`. */
  protected lastRead = 0;
  protected closed = false;
  readonly #againMs: number;
  #reading = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `againMs`: how long to wait after the first failure. */
  constructor(againMs: number) {
    super();
    this.#againMs = againMs;
  }

  /** Stops reading. */
  close(): void {
    this.closed = true;
    clearTimeout(this.#timer);
  }

  /** Reads all that is wanted. What it throws is the `error`, and it is called again. */
  protected abstract read(): Promise<void>;

  /** When the next reading is due, by `now`; infinite: there is no reason for one. */
  protected abstract due(): number;

  /** Sets the timer for the next reading, if there is a reason for one. */
  protected schedule(): void {
    clearTimeout(this.#timer);
    if (this.closed || this.#reading) return;
    const at = Math.max(this.due(), this.lastRead + backoff(this.failures, this.#againMs));
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
      this.error = textOf(error);
    }
    this.#reading = false;
    this.lastRead = now();
    if (this.closed) return;
    this.changed();
    this.schedule();
  }
}

/** Milliseconds by a clock that nobody sets back. */
export function now(): number {
  return performance.now();
}

export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
