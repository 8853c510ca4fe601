/** Two signals that a socket may be dead although nothing closed it. Outside a browser window neither ever fires. */

const TICK_MS = 5_000;
/** After this long without running, nothing has kept the page's socket alive. */
const SLEPT_MS = 30_000;

const inWindow = (): boolean => typeof document !== "undefined" && typeof addEventListener === "function";

export const onlineManager = {
  /** Calls `listener` when the browser gains or loses its network. Returns a function that unsubscribes it. */
  subscribe(listener: (online: boolean) => void): () => void {
    if (!inWindow()) return () => undefined;
    const onOnline = (): void => listener(true);
    const onOffline = (): void => listener(false);
    addEventListener("online", onOnline);
    addEventListener("offline", onOffline);
    return () => {
      removeEventListener("online", onOnline);
      removeEventListener("offline", onOffline);
    };
  },
};

export const focusManager = {
  /** Calls `listener` when a visible page runs again after a sleep. Returns a function that unsubscribes it. */
  subscribe(listener: () => void): () => void {
    if (!inWindow()) return () => undefined;
    let ranAt = Date.now();
    // browsers throttle timers of hidden pages: only a visible page measures how long it slept
    const check = (): void => {
      if (document.visibilityState !== "visible") return;
      const slept = Date.now() - ranAt > SLEPT_MS;
      ranAt = Date.now();
      if (slept) listener();
    };
    const timer = setInterval(check, TICK_MS);
    document.addEventListener("visibilitychange", check);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", check);
    };
  },
};
