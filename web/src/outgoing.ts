import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Attachment, ChatSession, Json, Question } from "supabase-baml-bridge-client";
import { messageOf } from "./action.ts";
import { addFiles, withFiles, type Pasted } from "./pasted.ts";

/** How long to wait for the response of a session's creation after its row has arrived. */
const LATE_MS = 1_000;

/** A message that waits for its session to be created, or for its files and attachments. */
export interface Outgoing {
  id: string;
  text: string;
  /** The function's arguments. */
  data: Json | undefined;
  files: readonly Pasted[];
  /** To show, while they are uploaded. */
  attachments: readonly Attachment[];
}

interface Outbox {
  messages: readonly Outgoing[];
  /** Why the last message came back. */
  error: string | null;
  add(message: Outgoing): void;
  /** Takes a message back. Returns whether it was still there. The same function on every render. */
  withdraw(id: string): boolean;
  /** Clears `error`. */
  clear(): void;
}

/**
 * Hands messages to a session, in order, once it is open and has their files. `create` creates the session if it does
 * not exist; the session's row may also arrive when the response is lost. `uploaded` waits for a message's attachments, and
 * resolves to null if it is taken back meanwhile. `takeBack` gets the messages that could not be handed over.
 */
export function useOutbox(
  session: ChatSession | null,
  exists: boolean,
  create: () => Promise<unknown>,
  uploaded: (message: Outgoing, to: ChatSession) => Promise<readonly Attachment[] | null>,
  takeBack: (message: Outgoing) => void,
): Outbox {
  const [messages, setMessages] = useState<readonly Outgoing[]>([]);
  const [error, setError] = useState<string | null>(null);
  const waiting = useRef(messages);
  const existing = useRef(exists);
  const creation = useRef<Promise<unknown> | null>(null);
  const running = useRef(false);
  const taker = useRef(takeBack);
  useLayoutEffect(() => {
    existing.current = exists;
    taker.current = takeBack;
  });

  function change(to: readonly Outgoing[]): void {
    waiting.current = to;
    setMessages(to);
  }

  function fail(reason: unknown): void {
    const back = waiting.current;
    change([]);
    for (const message of back.toReversed()) takeBack(message);
    setError(messageOf(reason));
  }

  /** Waits until the session can be written to: its row is announced a moment before others see it. */
  async function created(): Promise<void> {
    if (creation.current === null) return;
    const late = new Promise((resolve) => setTimeout(resolve, LATE_MS, false));
    const response = creation.current.then(() => true, () => false);
    if (!(await Promise.race([response, late]))) await create(); // the same session: the response was lost
    creation.current = null;
  }

  async function handOver(to: ChatSession): Promise<void> {
    running.current = true;
    try {
      await created();
      for (let next = waiting.current[0]; next !== undefined; next = waiting.current[0]) {
        const attachments = await uploaded(next, to);
        const files = attachments && (await addFiles(to.files, next.files));
        if (files && waiting.current.includes(next)) {
          void to.send(withFiles(next.text, files), next.data, next.id, { attachments });
        }
        change(waiting.current.filter((message) => message !== next));
      }
    } catch (reason) {
      fail(reason);
    } finally {
      running.current = false;
    }
  }

  useEffect(() => {
    if (session !== null && messages.length > 0 && !running.current) void handOver(session);
  }, [session, messages]);

  function add(message: Outgoing): void {
    setError(null);
    const isFirst = waiting.current.length === 0;
    change([...waiting.current, message]);
    if (!exists && isFirst) {
      creation.current = create();
      creation.current.catch((reason: unknown) => {
        if (!existing.current) fail(reason);
      });
    }
  }

  const withdraw = useCallback((id: string): boolean => {
    const message = waiting.current.find((next) => next.id === id);
    if (message === undefined) return false;
    change(waiting.current.filter((next) => next !== message));
    taker.current(message);
    return true;
  }, []);
  return { messages, error, add, withdraw, clear: () => setError(null) };
}

/** How an outgoing message is shown in the conversation. */
export function shownQuestion(sessionId: string, { id, text, data, files, attachments }: Outgoing): Question {
  const time = new Date().toISOString();
  const content = withFiles(text, files);
  return {
    id,
    session_id: sessionId,
    ordinal: null,
    role: "user",
    content,
    parts: [{ type: "text", text: content }],
    attachments,
    data: data ?? null,
    status: "sending",
    reply_to: null,
    attempt: 0,
    seq: 0,
    error: null,
    created_at: time,
    updated_at: time,
  };
}
