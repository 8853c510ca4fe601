import { memo } from "react";
import { hasEnded, type Json, type Message } from "supabase-baml-bridge-client";
import { CopyButton } from "./Copy.tsx";
import { DataView, isTruncated, restOf } from "./DataView.tsx";
import { Plain, Text } from "./Text.tsx";

/** The actions of messages. */
export interface MessageActions {
  /** Starts a new attempt of a reply. */
  retry(id: string): void;
  /** Sends an unsent message again. */
  resend(id: string): void;
  /** Stops sending a message that waits. */
  withdraw(id: string): void;
  /** Edits a question. */
  edit(message: Message): void;
}

interface Props {
  message: Message;
  /** For a question: whether its reply is shown. */
  answered: boolean;
  /** Whether this is the last reply. */
  last: boolean;
  /** Why the message is not sent at once; null: it is, or it has arrived. */
  waiting: string | null;
  /** Must stay the same object, or every message renders again. */
  actions: MessageActions;
}

/** A question or a reply with its status. */
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
          {mine ? <Plain text={message.content} /> : <Text text={message.content} />}
        </div>
      )}
      {data !== null && <DataView data={data} streaming={!hasEnded(message)} />}
      <Status {...props} />
      <Tools {...props} />
    </article>
  );
});

/** The part of a reply's structured result that is shown below its text. */
function shownData(message: Message): Json | null {
  return message.role === "user" ? null : restOf(message.data);
}

function Status({ message, answered, waiting, actions }: Props) {
  // a question has the status of its reply, which shows it
  if (message.role === "user" && answered) return null;
  switch (message.status) {
    case "sending":
      return (
        <div className="status">
          <span role="status">{waiting ?? "Sending…"}</span>
          {waiting !== null && <button onClick={() => actions.withdraw(message.id)}>Do not send</button>}
        </div>
      );
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
      return isTruncated(message.data) ? <p className="status">Cut off: the reply reached its limit.</p> : null;
  }
}

/** The buttons of a message. */
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
      {message.content !== "" && <CopyButton text={message.content} what="reply" />}
      {last && (
        <button className="quiet small" onClick={() => actions.retry(message.id)}>
          Regenerate
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
