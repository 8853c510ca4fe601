import { useEffect, useLayoutEffect, useRef } from "react";
import type { Message, SessionSnapshot } from "supabase-baml-bridge-client";
import { MessageItem } from "./MessageItem.tsx";

interface Props {
  snapshot: SessionSnapshot;
  onOlder(): void;
  onRetry(id: string): void;
  onResend(id: string): void;
  onEdit(message: Message): void;
}

/** How near to its end (in pixels) the reader must be for the page to follow the text. */
const NEAR = 80;

/** The messages, oldest first; follows the newest text unless the reader has scrolled up. */
export function Conversation({ snapshot, onOlder, onRetry, onResend, onEdit }: Props) {
  const { messages, ready, busy, hasOlder } = snapshot;
  const log = useRef<HTMLDivElement>(null);
  const follow = useRef(true);

  useLayoutEffect(() => {
    const element = log.current;
    // who has just written wants to see the answer
    if (messages.at(-1)?.status === "sending") follow.current = true;
    if (element !== null && follow.current) element.scrollTop = element.scrollHeight;
  }, [messages]);

  useEffect(() => {
    const element = log.current;
    if (element === null) return;
    // a keyboard that opens or a longer draft takes room away from the end of the text
    const observer = new ResizeObserver(() => {
      if (follow.current) element.scrollTop = element.scrollHeight;
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const answered = new Set(messages.map(({ reply_to }) => reply_to));
  return (
    <div
      ref={log}
      className="log"
      role="log"
      aria-label="Messages"
      aria-busy={busy}
      tabIndex={0}
      onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => {
        follow.current = scrollHeight - scrollTop - clientHeight < NEAR;
      }}
    >
      <div className="column">
        {hasOlder && (
          <button className="older" onClick={onOlder}>
            Show older messages
          </button>
        )}
        {ready && messages.length === 0 && <p className="muted empty">Say something to begin.</p>}
        {messages.map((message) => (
          <MessageItem
            key={message.id}
            message={message}
            answered={answered.has(message.id)}
            onRetry={onRetry}
            onResend={onResend}
            onEdit={onEdit}
          />
        ))}
      </div>
    </div>
  );
}
