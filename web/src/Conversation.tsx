import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Message, SessionSnapshot } from "supabase-baml-bridge-client";
import { MessageItem, type MessageActions } from "./Message.tsx";

interface Props {
  snapshot: SessionSnapshot;
  actions: MessageActions;
  onOlder(): void;
}

/** How close to the end, in pixels, the log must be scrolled to follow new text. */
const NEAR = 80;
/** Messages rendered at first, and then per idle period, newest first. */
const BATCH = 12;
/** A batch ends after so many characters too, of which a long message shows no more than this at once. */
const BATCH_CHARACTERS = 4_000;
const MOST_AT_ONCE = 2_000;

/** The messages, oldest first. Scrolls with new text unless the user has scrolled up. */
export function Conversation({ snapshot, actions, onOlder }: Props) {
  const { messages, ready, busy, hasOlder } = snapshot;
  const shown = useGrowing(messages);
  const { log, column, onScroll } = useFollow(messages);
  const answered = new Set(messages.map(({ reply_to }) => reply_to));
  const lastReply = messages.findLast(({ role }) => role === "assistant");
  return (
    <div
      ref={log}
      className="log"
      role="log"
      aria-label="Messages"
      aria-busy={busy}
      tabIndex={0}
      onScroll={onScroll}
    >
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
            actions={actions}
          />
        ))}
      </div>
    </div>
  );
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
    const { content, data, role } = messages[--first]!;
    const isHeavy = role === "assistant" && data !== null;
    characters += isHeavy ? MOST_AT_ONCE : Math.min(content.length, MOST_AT_ONCE);
  }
  return first;
}

/** Keeps the log scrolled to its end while the user is there. */
function useFollow(messages: readonly Message[]) {
  const log = useRef<HTMLDivElement>(null);
  const column = useRef<HTMLDivElement>(null);
  const follow = useRef(true);

  useLayoutEffect(() => {
    // after sending, scroll to the reply
    if (messages.at(-1)?.status === "sending") follow.current = true;
  }, [messages]);

  useEffect(() => {
    const [view, text] = [log.current, column.current];
    if (view === null || text === null) return;
    // the text grows or is laid out for the first time, or an on-screen keyboard shrinks the log
    const observer = new ResizeObserver(() => {
      if (follow.current) view.scrollTop = view.scrollHeight;
    });
    observer.observe(view);
    observer.observe(text);
    return () => observer.disconnect();
  }, []);

  const onScroll = (): void => {
    const view = log.current;
    if (view !== null) follow.current = view.scrollHeight - view.scrollTop - view.clientHeight < NEAR;
  };
  return { log, column, onScroll };
}
