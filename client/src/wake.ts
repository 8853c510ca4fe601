/** When a page may have been cut off without a word from its socket: the network changed, or the machine slept. */

const TICK_MS = 5_000;
/** A page that did not run for so long has a socket that nobody kept alive. */
const SLEPT_MS = 30_000;

export interface Wakeable {
  /** The network is there again, or the page ran after a sleep: connections from before are worth nothing. */
  onWake(): void;
  /** The browser says that there is no network. */
  onOffline(): void;
}

/** Tells of both until the returned function is called. Outside of a browser's window it tells of neither. */
export function watchForSleep({ onWake, onOffline }: Wakeable): () => void {
  if (typeof document === "undefined" || typeof addEventListener !== "function") return () => undefined;
  let ranAt = Date.now();
  // a hidden page is seldom given time: what its clock says counts when it is looked at again
  const look = (): void => {
    if (document.visibilityState !== "visible") return;
    const slept = Date.now() - ranAt > SLEPT_MS;
    ranAt = Date.now();
    if (slept) onWake();
  };
  const timer = setInterval(look, TICK_MS);
  addEventListener("online", onWake);
  addEventListener("offline", onOffline);
  document.addEventListener("visibilitychange", look);
  return () => {
    clearInterval(timer);
    removeEventListener("online", onWake);
    removeEventListener("offline", onOffline);
    document.removeEventListener("visibilitychange", look);
  };
}
