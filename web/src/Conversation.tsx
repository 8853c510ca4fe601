import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Message, SessionSnapshot } from "supabase-baml-bridge-client";
import { MessageItem, type MessageActions } from "./Message.tsx";

interface Props {
  snapshot: SessionSnapshot;
  actions: MessageActions;
  onOlder(): void;
}

/** How near to its end (in pixels) the reader must be for the page to follow the text. */
const NEAR = 80;
/** How many messages are rendered at once; the older ones follow when the page has time, as many at a time. */
const AT_ONCE = 12;

/** The messages, oldest first; follows the newest text unless the reader has scrolled up. */
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
            Show older messages
          </button>
        )}
        {ready && messages.length === 0 && <p className="muted empty">Say something to begin.</p>}
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

/** The newest messages, and when the page has time all of them. What is shown stays shown when others are added. */
function useGrowing(messages: readonly Message[]): readonly Message[] {
  const [firstId, setFirstId] = useState<string | null>(null);
  const known = messages.findIndex(({ id }) => id === firstId);
  const first = known >= 0 ? known : Math.max(0, messages.length - AT_ONCE);
  const pinned = messages[first]?.id ?? null;
  const next = messages[Math.max(0, first - AT_ONCE)]?.id ?? null;
  useEffect(() => {
    setFirstId(pinned);
    if (next === pinned) return;
    // a timer where there is no idle callback (Safari)
    if (typeof requestIdleCallback === "undefined") {
      const timer = setTimeout(() => setFirstId(next), 30);
      return () => clearTimeout(timer);
    }
    const handle = requestIdleCallback(() => setFirstId(next), { timeout: 500 });
    return () => cancelIdleCallback(handle);
  }, [pinned, next]);
  return messages.slice(first);
}

/** Keeps the end of the text in sight for as long as the reader is there. */
function useFollow(messages: readonly Message[]) {
  const log = useRef<HTMLDivElement>(null);
  const column = useRef<HTMLDivElement>(null);
  const follow = useRef(true);

  useLayoutEffect(() => {
    // who has just written wants to see the answer
    if (messages.at(-1)?.status === "sending") follow.current = true;
  }, [messages]);

  useEffect(() => {
    const [view, text] = [log.current, column.current];
    if (view === null || text === null) return;
    // the text grows, is drawn for the first time, or a keyboard takes room away from it
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
