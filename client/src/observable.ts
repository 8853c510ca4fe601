/** A value that changes and tells so: fits React's `useSyncExternalStore`. */
export abstract class Observable<T> {
  readonly #listeners = new Set<() => void>();
  #snapshot: T | undefined;

  /** Calls `listener` after each change, until the returned function is called. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** The present value: the same object until something changes. */
  readonly getSnapshot = (): T => (this.#snapshot ??= this.render());

  protected abstract render(): T;

  protected changed(): void {
    this.#snapshot = undefined;
    for (const listener of [...this.#listeners]) listener();
  }
}
