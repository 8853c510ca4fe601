import { useSyncExternalStore } from "react";

/** The fragment of the page's URL, and a function that sets it. It survives a reload. */
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
