/**
 * Two signals that a socket may be dead although nothing closed it: the network is back, and the application runs again
 * after a sleep. A browser's page reports both. Elsewhere the application passes them in, as to the managers of TanStack
 * Query: React Native has `NetInfo` and `AppState`.
 */

const TICK_MS = 5_000;
/** After this long without running, nothing has kept the page's socket alive. */
const SLEPT_MS = 30_000;

/** Starts calling `report`. Returns a function that stops it. */
export type SetUp = (report: (value?: boolean) => void) => (() => void) | undefined | void;

class EventManager {
  readonly #listeners = new Set<(value: boolean) => void>();
  #setUp: SetUp;
  #stop: (() => void) | undefined | void;

  constructor(setUp: SetUp) {
    this.#setUp = setUp;
  }

  /** Calls `listener` with each report. Returns a function that unsubscribes it. */
  subscribe(listener: (value: boolean) => void): () => void {
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) this.setEventListener(this.#setUp);
    return () => {
      if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#stop = this.#stop?.();
    };
  }

  /** Replaces the source of the reports. `setUp` is called while anything listens. */
  setEventListener(setUp: SetUp): void {
    this.#setUp = setUp;
    if (this.#listeners.size === 0) return;
    this.#stop?.();
    this.#stop = setUp((value = true) => {
      for (const listener of [...this.#listeners]) listener(value);
    });
  }
}

/** Reports whether there is a network. */
export const onlineManager = new EventManager((report) => {
  if (typeof addEventListener !== "function") return;
  const onChange = ({ type }: Event): void => report(type === "online");
  addEventListener("online", onChange);
  addEventListener("offline", onChange);
  return () => {
    removeEventListener("online", onChange);
    removeEventListener("offline", onChange);
  };
});

/** Reports true when the application runs again after a sleep, or comes to the front. */
export const focusManager = new EventManager((report) => {
  if (!globalThis.document?.addEventListener) return;
  let ranAt = Date.now();
  // browsers throttle timers of hidden pages: only a visible page measures how long it slept
  const check = (): void => {
    if (document.visibilityState !== "visible") return;
    const slept = Date.now() - ranAt > SLEPT_MS;
    ranAt = Date.now();
    if (slept) report(true);
  };
  const timer = setInterval(check, TICK_MS);
  document.addEventListener("visibilitychange", check);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", check);
  };
});
