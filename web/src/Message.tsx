import { memo } from "react";
import { hasEnded, type Json, type Message } from "supabase-baml-bridge-client";
import { CopyButton } from "./Copy.tsx";
import { DataView, restOf } from "./DataView.tsx";
import { Text } from "./Text.tsx";

/** What can be done with a message. */
export interface MessageActions {
  /** A new attempt of a reply. */
  retry(id: string): void;
  /** A message that was not sent, once more. */
  resend(id: string): void;
  /** A question in other words. */
  edit(message: Message): void;
}

interface Props {
  message: Message;
  /** Of a question: whether its reply is shown. */
  answered: boolean;
  /** Whether it is the last of its role. */
  last: boolean;
  /** The same for as long as the session is shown. */
  actions: MessageActions;
}

/** A question or a reply with its state. */
export const MessageItem = memo(function MessageItem(props: Props) {
  const { message } = props;
  const mine = message.role === "user";
  const data = shownData(message);
  return (
    <article
      className={`message ${message.role}`}
      data-testid={`message-${message.role}`}
      data-status={message.status}
      aria-label={mine ? "You" : "Reply"}
    >
      {message.content !== "" && (
        <div className="bubble">
          {mine ? <div className="prose plain">{message.content}</div> : <Text text={message.content} />}
        </div>
      )}
      {data !== null && <DataView data={data} streaming={!hasEnded(message)} />}
      <Status {...props} />
      <Tools {...props} />
    </article>
  );
});

/** What of a reply's structured result stands below its text. */
function shownData(message: Message): Json | null {
  return message.role === "user" ? null : restOf(message.data);
}

function Status({ message, answered, actions }: Props) {
  // a question mirrors its reply: the state is shown once, at the reply if there is one
  if (message.role === "user" && answered) return null;
  switch (message.status) {
    case "sending":
      return <p className="status">Sending…</p>;
    case "not_sent":
      return (
        <p className="status failed" role="alert">
          <span>Not sent: {message.error?.message}</span>
          <button onClick={() => actions.resend(message.id)}>Send again</button>
          <button onClick={() => actions.edit(message)}>Edit</button>
        </p>
      );
    case "queued":
      return <Working text="Queued" />;
    case "running":
      if (message.content === "" && shownData(message) === null) return <Working text="Thinking" />;
      return <span className="caret" aria-hidden="true" />;
    case "failed":
      return (
        <p className="status failed" role="alert">
          <span>{message.error?.message ?? "The reply failed."}</span>
          <button onClick={() => actions.retry(message.id)}>Retry</button>
        </p>
      );
    case "cancelled":
      return (
        <p className="status">
          <span>Stopped.</span>
          <button onClick={() => actions.retry(message.id)}>Retry</button>
        </p>
      );
    case "done":
      return null;
  }
}

/** What a message offers once nothing moves in it any more. */
function Tools({ message, last, actions }: Props) {
  if (message.ordinal === null) return null;
  if (message.role === "user") {
    return (
      <p className="tools">
        <button className="quiet small" onClick={() => actions.edit(message)}>
          Edit<span className="visually-hidden"> and ask again</span>
        </button>
      </p>
    );
  }
  if (message.status !== "done") return null;
  return (
    <p className="tools">
      {message.content !== "" && <CopyButton text={message.content} what="the reply" />}
      {last && (
        <button className="quiet small" onClick={() => actions.retry(message.id)}>
          Write anew
        </button>
      )}
    </p>
  );
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
