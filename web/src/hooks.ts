import { useSyncExternalStore } from "react";

/** The part of the page's address after "#", kept when the page is loaded again. */
export function useHash(): [string, (hash: string) => void] {
  return [useSyncExternalStore(onHashChange, () => location.hash.slice(1)), setHash];
}

function onHashChange(listener: () => void): () => void {
  addEventListener("hashchange", listener);
  return () => removeEventListener("hashchange", listener);
}

function setHash(hash: string): void {
  location.hash = hash;
}
