import { useLayoutEffect, useState } from "react";
import type { Message } from "supabase-baml-bridge-client";
import { storage } from "./storage.ts";

interface Sent {
  id: string;
  text: string;
}

/** What is kept of a session. */
interface Kept {
  draft: string;
  /** What had been sent and not arrived when the page was left: its text begins the draft since. */
  restored: readonly Sent[];
  /** What is sent and has not arrived: it is shown in the conversation. */
  unsent: readonly Sent[];
}

const BETWEEN = "\n\n";
const drafts = () => storage("sessionStorage");
const keyOf = (sessionId: string) => `typed:${sessionId}`;

/**
 * What is typed in a session. It is there again after another session was shown, or a reload; and so is the text of
 * `messages` (the session's) that had not arrived by then.
 */
export function useDraft(sessionId: string, messages: readonly Message[]): [string, (text: string) => void] {
  const [{ draft, restored }, set] = useState(() => restore(sessionId));
  // it was on its way when the page was left
  const arrived = restored.find(({ id }) => messages.some((message) => message.id === id));
  if (arrived) set({ draft: without(draft, arrived.text), restored: restored.filter((sent) => sent !== arrived) });

  const unsent = messages.filter(({ ordinal }) => ordinal === null).map(({ id, content }) => ({ id, text: content }));
  const isEmpty = draft === "" && unsent.length === 0;
  const kept = isEmpty ? null : JSON.stringify({ draft, restored, unsent } satisfies Kept);
  // before anything else happens: who signs out leaves nothing to be kept afterwards
  useLayoutEffect(() => keep(sessionId, kept), [sessionId, kept]);
  return [draft, (text) => set({ draft: text, restored: text === "" ? [] : restored })];
}

/** Who signs in next in this tab is not to read them. */
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
    // longer than the browser keeps: the page has it as long as it is open
  }
}

/** A draft without the text that begins it, unless somebody has changed that. */
function without(draft: string, text: string): string {
  if (draft === text) return "";
  return draft.startsWith(text + BETWEEN) ? draft.slice(text.length + BETWEEN.length) : draft;
}
