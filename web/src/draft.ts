import { useLayoutEffect, useState } from "react";
import type { Message } from "supabase-baml-bridge-client";
import { storage } from "./storage.ts";

interface Sent {
  id: string;
  text: string;
}

/** A session's entry in `sessionStorage`. */
interface Kept {
  draft: string;
  /** Messages that had not arrived when the page was left. The draft starts with their texts. */
  restored: readonly Sent[];
  /** Messages that have not arrived. They are shown in the conversation. */
  unsent: readonly Sent[];
}

const BETWEEN = "\n\n";
const drafts = () => storage("sessionStorage");
const keyOf = (sessionId: string) => `typed:${sessionId}`;

/**
 * The draft of a session, and a function that sets it. It survives a change of session and a reload, as do the texts of
 * the session's `messages` that had not arrived by then.
 */
export function useDraft(sessionId: string, messages: readonly Message[]): [string, (text: string) => void] {
  const [{ draft, restored }, set] = useState(() => restore(sessionId));
  // a message that was still being sent when the page was left
  const arrived = restored.find(({ id }) => messages.some((message) => message.id === id));
  if (arrived) set({ draft: without(draft, arrived.text), restored: restored.filter((sent) => sent !== arrived) });

  const unsent = messages.filter(({ ordinal }) => ordinal === null).map(({ id, content }) => ({ id, text: content }));
  const isEmpty = draft === "" && unsent.length === 0;
  const kept = isEmpty ? null : JSON.stringify({ draft, restored, unsent } satisfies Kept);
  // a layout effect, so that nothing is stored after a sign-out has cleared the drafts
  useLayoutEffect(() => keep(sessionId, kept), [sessionId, kept]);
  return [draft, (text) => set({ draft: text, restored: text === "" ? [] : restored })];
}

/** Deletes all drafts, so that the next user of this tab cannot read them. */
export function forgetDrafts(): void {
  drafts()?.clear();
}

function restore(sessionId: string): Pick<Kept, "draft" | "restored"> {
  const kept = drafts()?.getItem(keyOf(sessionId)) ?? null;
  if (kept === null) return { draft: "", restored: [] };
  const { draft, restored, unsent } = JSON.parse(kept) as Kept;
  const texts = [...unsent.map(({ text }) => text), draft].filter((text) => text !== "");
  return { draft: texts.join(BETWEEN), restored: [...restored, ...unsent] };
}

function keep(sessionId: string, kept: string | null): void {
  try {
    if (kept === null) drafts()?.removeItem(keyOf(sessionId));
    else drafts()?.setItem(keyOf(sessionId), kept);
  } catch {
    // too large for the browser's storage: the draft lasts as long as the page
  }
}

/** Removes `text` from the start of a draft, unless the user has edited it. */
function without(draft: string, text: string): string {
  if (draft === text) return "";
  return draft.startsWith(text + BETWEEN) ? draft.slice(text.length + BETWEEN.length) : draft;
}
