import { memo } from "react";
import type { Message } from "supabase-baml-bridge-client";
import { Text } from "./Text.tsx";

interface Props {
  message: Message;
  /** Of a question: whether its reply is shown. */
  answered: boolean;
  onRetry(id: string): void;
  onResend(id: string): void;
  onEdit(message: Message): void;
}

/** A question or a reply with its state. */
export const MessageItem = memo(
  function MessageItem(props: Props) {
    const { message } = props;
    const mine = message.role === "user";
    // deltas may be all there is to see of a structured reply
    const snapshot = !mine && message.content === "" && message.data !== null;
    return (
      <article
        className={`message ${message.role}`}
        data-testid={`message-${message.role}`}
        data-status={message.status}
        aria-label={mine ? "You" : "Reply"}
      >
        {message.content !== "" && (
          <div className="bubble">
            {mine ? <div className="prose">{message.content}</div> : <Text text={message.content} />}
          </div>
        )}
        {snapshot && <pre className="data">{JSON.stringify(message.data, null, 2)}</pre>}
        <Status {...props} />
      </article>
    );
  },
  (before, after) => before.message === after.message && before.answered === after.answered,
);

function Status({ message, answered, onRetry, onResend, onEdit }: Props) {
  // a question mirrors its reply: the state is shown once, at the reply if there is one
  if (message.role === "user" && answered) return null;
  switch (message.status) {
    case "sending":
      return <p className="status">Sending…</p>;
    case "not_sent":
      return (
        <p className="status failed" role="alert">
          <span>Not sent: {message.error?.message}</span>
          <button onClick={() => onResend(message.id)}>Send again</button>
          <button onClick={() => onEdit(message)}>Edit</button>
        </p>
      );
    case "queued":
      return <Working text="Queued" />;
    case "running":
      return message.content === "" ? <Working text="Thinking" /> : <span className="caret" aria-hidden="true" />;
    case "failed":
      return (
        <p className="status failed" role="alert">
          <span>{message.error?.message ?? "The reply failed."}</span>
          <button onClick={() => onRetry(message.id)}>Retry</button>
        </p>
      );
    case "cancelled":
      return (
        <p className="status">
          <span>Stopped.</span>
          <button onClick={() => onRetry(message.id)}>Retry</button>
        </p>
      );
    case "done":
      return null;
  }
}

function Working({ text }: { text: string }) {
  return (
    <p className="status working">
      <span className="dots" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {text}…
    </p>
  );
}
