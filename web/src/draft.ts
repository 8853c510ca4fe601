import { useState } from "react";
import { storage } from "./storage.ts";

const drafts = () => storage("sessionStorage");

/** What is typed in a session and not sent yet: it is there again after another session was shown, or a reload. */
export function useDraft(sessionId: string): [string, (text: string) => void] {
  const key = `draft:${sessionId}`;
  const [draft, setDraft] = useState(() => drafts()?.getItem(key) ?? "");
  const change = (text: string): void => {
    setDraft(text);
    if (text === "") drafts()?.removeItem(key);
    else drafts()?.setItem(key, text);
  };
  return [draft, change];
}

/** Who signs in next in this tab is not to read them. */
export function forgetDrafts(): void {
  drafts()?.clear();
}
