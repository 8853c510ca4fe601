import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Message, SessionSnapshot } from "supabase-baml-bridge-client";
import { Follower } from "./follow.ts";
import { titleOf } from "./items.ts";
import { MessageItem } from "./Message.tsx";
import type { MessageActions } from "./messageActions.ts";

interface Props {
  snapshot: SessionSnapshot;
  actions: MessageActions;
  onOlder(): void;
}

/** Messages rendered at first, and then per idle period, newest first. */
const BATCH = 12;
/** A batch ends after so many characters too, of which a long message shows no more than this at once. */
const BATCH_CHARACTERS = 4_000;
const MOST_AT_ONCE = 2_000;

/** The messages, oldest first. Scrolls with new text unless the user has scrolled up. */
export function Conversation({ snapshot, actions, onOlder }: Props) {
  const { messages, asks, ready, busy, hasOlder } = snapshot;
  const shown = useGrowing(messages);
  const { log, column, away, toEnd } = useFollow(messages, shown[0]?.id);
  const answered = new Set(messages.map(({ reply_to }) => reply_to));
  const lastReply = messages.findLast(({ role }) => role === "assistant");
  const isWaiting = messages.some(({ status }) => status === "waiting");
  const isWriting = busy && !isWaiting; // while it waits there is nothing to come that a screen reader should await
  const isHeldUp = messages.some(({ status, error }) => status === "sending" && error !== null);
  return (
    <div className="log-frame">
      <p className="visually-hidden" role="status">
        {asks.map(({ input }) => `The assistant asks: ${titleOf(input)}`).join(" ")}
      </p>
      <div ref={log} className="log" role="log" aria-label="Messages" aria-busy={isWriting} tabIndex={0}>
        <div ref={column} className="column">
          {hasOlder && shown.length === messages.length && (
            <button className="older" onClick={onOlder}>
              Load older messages
            </button>
          )}
          {ready && messages.length === 0 && <p className="muted empty">Send a message to start.</p>}
          {shown.map((message) => (
            <MessageItem
              key={message.id}
              message={message}
              answered={message.role === "user" && answered.has(message.id)}
              last={message === lastReply}
              waiting={reasonToWait(message, isHeldUp, asks.length > 0)}
              actions={actions}
            />
          ))}
        </div>
      </div>
      {away && (
        <button className="newest" onClick={toEnd}>
          Jump to the newest
        </button>
      )}
    </div>
  );
}

/**
 * Why a message is not sent or answered at once; null: it is. One at a time is sent, so those behind one that fails wait
 * too, and one at a time is answered, so they wait for what the reply before them asks.
 */
function reasonToWait({ status, error }: Message, isHeldUp: boolean, isAsked: boolean): string | null {
  if (status === "queued" && isAsked) return "Waiting for your answer above.";
  if (status !== "sending" || !isHeldUp) return null;
  if (!navigator.onLine) return "Waiting for the connection…";
  return error === null ? "Waiting for the message before it…" : `Not sent yet: ${error.message} Trying again…`;
}

/** The newest messages, and all of them once the page has been idle. New messages do not hide old ones. */
function useGrowing(messages: readonly Message[]): readonly Message[] {
  const [firstId, setFirstId] = useState<string | null>(null);
  const known = messages.findIndex(({ id }) => id === firstId);
  const first = known >= 0 ? known : batchBefore(messages, messages.length);
  const pinned = messages[first]?.id ?? null;
  const next = messages[batchBefore(messages, first)]?.id ?? null;
  useEffect(() => {
    setFirstId(pinned);
    if (next === pinned) return;
    // Safari has no requestIdleCallback
    if (typeof requestIdleCallback === "undefined") {
      const timer = setTimeout(() => setFirstId(next), 30);
      return () => clearTimeout(timer);
    }
    const handle = requestIdleCallback(() => setFirstId(next), { timeout: 500 });
    return () => cancelIdleCallback(handle);
  }, [pinned, next]);
  return messages.slice(first);
}

/** Where the batch begins that ends before `end`. */
function batchBefore(messages: readonly Message[], end: number): number {
  let characters = 0;
  let first = end;
  while (first > 0 && end - first < BATCH && characters < BATCH_CHARACTERS) {
    const { content, data, parts, role } = messages[--first]!;
    const isHeavy = role === "assistant" && (data !== null || parts.length > 1);
    characters += isHeavy ? MOST_AT_ONCE : Math.min(content.length, MOST_AT_ONCE);
  }
  return first;
}

/** Keeps the log scrolled to its end while the reader is there, and says whether they are away. */
function useFollow(messages: readonly Message[], firstId: string | undefined) {
  const log = useRef<HTMLDivElement>(null);
  const column = useRef<HTMLDivElement>(null);
  const follower = useRef<Follower>(null);
  const [away, setAway] = useState(false);

  useLayoutEffect(() => {
    follower.current = new Follower(log.current!, column.current!, setAway);
    return follower.current.start();
  }, []);

  useLayoutEffect(() => follower.current?.prepended(column.current!.querySelector("article")), [firstId]);

  // after sending, scroll to the reply
  const last = messages.at(-1);
  const sendingId = last?.status === "sending" ? last.id : null;
  useLayoutEffect(() => {
    if (sendingId !== null) follower.current?.follow();
  }, [sendingId]);

  const toEnd = (): void => {
    follower.current?.follow();
    log.current?.focus({ preventScroll: true }); // the button is gone
  };
  return { log, column, away, toEnd };
}
