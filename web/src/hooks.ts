import { useEffect, useState, useSyncExternalStore } from "react";

interface Observable<T> {
  subscribe(listener: () => void): () => void;
  getSnapshot(): T;
}

/** The present value of an observable of the client package. */
export function useSnapshot<T>(observable: Observable<T>): T {
  return useSyncExternalStore(observable.subscribe, observable.getSnapshot);
}

/** Opens something for as long as the component is shown; null before it is open. `open` must be stable. */
export function useOpened<T extends { close(): void }>(open: () => T): T | null {
  const [opened, setOpened] = useState<T | null>(null);
  useEffect(() => {
    const value = open();
    setOpened(value);
    return () => {
      setOpened(null);
      value.close();
    };
  }, [open]);
  return opened;
}

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
