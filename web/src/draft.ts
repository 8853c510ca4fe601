import { useLayoutEffect, useRef, useState } from "react";
import type { Message } from "supabase-baml-bridge-client";
import type { Outgoing } from "./outgoing.ts";
import type { Pasted } from "./pasted.ts";
import { storage } from "./storage.ts";
import { forgetUploads } from "./uploads.ts";

type Sent = Pick<Outgoing, "id" | "text">;

/** A session's entry in `sessionStorage`. */
interface Kept {
  draft: string;
  /** Messages that had not arrived when the page was left. The draft starts with their texts. */
  restored: readonly Sent[];
  /** Messages that have not arrived. They are shown in the conversation. */
  unsent: readonly Sent[];
  /** The id under which a new session may have been created. */
  sessionId?: string;
}

export interface Draft {
  text: string;
  pasted: readonly Pasted[];
  set(text: string): void;
  setPasted(pasted: readonly Pasted[]): void;
  /** Puts a message that could not be sent back in front of the draft. */
  takeBack(message: Outgoing): void;
  /** The id of a restored message with this text: it may have been sent under it. */
  idOf(text: string): string | undefined;
}

/** Of the draft for a session that does not exist. */
const NEW = "new";
const BETWEEN = "\n\n";
const drafts = () => storage("sessionStorage");
const keyOf = (name: string) => `typed:${name}`;
const pastedKeyOf = (name: string) => `pasted:${name}`;

/**
 * The draft of a session, with the long texts that were pasted into it. It survives a change of session and a reload, as
 * do the texts of the session's `messages` that had not arrived by then, and those that are `outgoing`. Before its session
 * exists, it is the draft for a new one.
 */
export function useDraft(
  sessionId: string,
  exists: boolean,
  messages: readonly Message[],
  outgoing: readonly Outgoing[],
): Draft {
  const name = exists ? sessionId : NEW;
  const [{ draft, restored }, set] = useState(() => restore(name));
  const [pasted, setPasted] = useState(() => restorePasted(name));
  // a message that was still being sent when the page was left
  const arrived = restored.find(({ id }) => messages.some((message) => message.id === id));
  if (arrived) {
    set({ draft: without(draft, arrived.text), restored: restored.filter((sent) => sent !== arrived) });
    setPasted(pasted.filter(({ messageId }) => messageId !== arrived.id));
  }

  const unsent: Sent[] = [
    ...messages.filter(({ ordinal }) => ordinal === null).map(({ id, content }) => ({ id, text: content })),
    ...outgoing.map(({ id, text }) => ({ id, text })),
  ];
  const isSending = restored.length > 0 || unsent.length > 0;
  const entry: Kept = { draft, restored, unsent, ...(!exists && isSending && { sessionId }) };
  const kept = draft === "" && !isSending ? null : JSON.stringify(entry);
  // layout effects, so that nothing is stored after a sign-out has cleared the drafts
  const before = useRef(name);
  useLayoutEffect(() => {
    if (before.current !== name) forget(before.current);
    before.current = name;
  }, [name]);
  useLayoutEffect(() => keep(keyOf(name), kept), [name, kept]);
  useLayoutEffect(() => {
    const all = [...outgoing.flatMap(({ id, files }) => files.map((file) => ({ ...file, messageId: id }))), ...pasted];
    keep(pastedKeyOf(name), all.length === 0 ? null : JSON.stringify(all));
  }, [name, pasted, outgoing]);
  return {
    text: draft,
    pasted,
    set: (text) => set({ draft: text, restored: text === "" ? [] : restored }),
    setPasted,
    takeBack({ id, text, files }) {
      set((now) => ({ draft: joined([text, now.draft]), restored: [{ id, text }, ...now.restored] }));
      setPasted((now) => [...files, ...now]);
    },
    idOf: (text) => restored.find((sent) => sent.text === text)?.id,
  };
}

/** The id under which the new session of this tab may have been created, before a reload or a lost response. */
export function keptSessionId(): string | null {
  const kept = drafts()?.getItem(keyOf(NEW)) ?? null;
  return kept === null ? null : ((JSON.parse(kept) as Kept).sessionId ?? null);
}

/** Deletes all drafts with their attachments, so that the next user of this tab cannot read them. */
export function forgetDrafts(): void {
  forgetUploads();
  drafts()?.clear();
}

function restore(name: string): Pick<Kept, "draft" | "restored"> {
  const kept = drafts()?.getItem(keyOf(name)) ?? null;
  if (kept === null) return { draft: "", restored: [] };
  const { draft, restored, unsent } = JSON.parse(kept) as Kept;
  return { draft: joined([...unsent.map(({ text }) => text), draft]), restored: [...restored, ...unsent] };
}

function restorePasted(name: string): readonly Pasted[] {
  const kept = drafts()?.getItem(pastedKeyOf(name)) ?? null;
  return kept === null ? [] : (JSON.parse(kept) as Pasted[]);
}

function keep(key: string, kept: string | null): void {
  try {
    if (kept === null) drafts()?.removeItem(key);
    else drafts()?.setItem(key, kept);
  } catch {
    // too large for the browser's storage: the draft lasts as long as the page
  }
}

function forget(name: string): void {
  drafts()?.removeItem(keyOf(name));
  drafts()?.removeItem(pastedKeyOf(name));
}

function joined(texts: readonly string[]): string {
  return texts.filter((text) => text !== "").join(BETWEEN);
}

/** Removes `text` from a draft, unless the user has edited it. */
function without(draft: string, text: string): string {
  const all = BETWEEN + draft + BETWEEN;
  const at = text === "" ? -1 : all.indexOf(BETWEEN + text + BETWEEN);
  if (at < 0) return draft;
  const rest = all.slice(0, at) + all.slice(at + BETWEEN.length + text.length);
  return rest.slice(BETWEEN.length, -BETWEEN.length);
}
