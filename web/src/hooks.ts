import { useSyncExternalStore } from "react";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * The id of the selected session, which is the fragment of the page's URL, or "", and a function that selects another.
 * It survives a reload. A fragment that is no id is not the page's: Auth's links put tokens and errors there.
 */
export function useSelectedId(): [string, (id: string) => void] {
  return [useSyncExternalStore(onHashChange, selectedId), select];
}

function selectedId(): string {
  const id = location.hash.slice(1).toLowerCase(); // as the database writes it
  return UUID.test(id) ? id : "";
}

function onHashChange(listener: () => void): () => void {
  addEventListener("hashchange", listener);
  return () => removeEventListener("hashchange", listener);
}

// not by `location.hash`: the browser then moves to a place in the document, and takes the focus from the message box
function select(id: string): void {
  if (selectedId() === id) return;
  history.pushState(null, "", id === "" ? location.pathname + location.search : `#${id}`);
  dispatchEvent(new Event("hashchange"));
}
