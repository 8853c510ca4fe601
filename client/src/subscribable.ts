/** A value that changes over time. `subscribe` and `getSnapshot` fit React's `useSyncExternalStore`. */
export abstract class Subscribable<T> {
  readonly #listeners = new Set<() => void>();
  #snapshot: T | undefined;

  /** Calls `listener` after each change. Returns a function that unsubscribes it. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** The current value: the same object until something changes. */
  readonly getSnapshot = (): T => (this.#snapshot ??= this.render());

  /**
   * Resolves to the first snapshot that satisfies `predicate`, which may be the current one. Rejects with the reason
   * of the first aborted signal, or with what `predicate` throws.
   */
  waitFor(predicate: (snapshot: T) => boolean, ...signals: (AbortSignal | undefined)[]): Promise<T> {
    return new Promise((resolve, reject) => {
      const check = (): void => {
        try {
          const aborted = signals.find((signal) => signal?.aborted);
          if (aborted) throw aborted.reason ?? new Error("Aborted.");
          const snapshot = this.getSnapshot();
          if (!predicate(snapshot)) return;
          resolve(snapshot);
        } catch (error) {
          reject(error);
        }
        unsubscribe();
        for (const signal of signals) signal?.removeEventListener("abort", check);
      };
      const unsubscribe = this.subscribe(check);
      for (const signal of signals) signal?.addEventListener("abort", check);
      check();
    });
  }

  protected abstract render(): T;

  protected changed(): void {
    this.#snapshot = undefined;
    for (const listener of [...this.#listeners]) listener();
  }
}
