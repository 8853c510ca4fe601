import { memo } from "react";
import type { Message } from "supabase-baml-bridge-client";
import type { Answer } from "./asks.ts";
import { CopyButton } from "./Copy.tsx";
import { ReplyBody } from "./Reply.tsx";
import { Status } from "./Status.tsx";
import { Plain } from "./Text.tsx";

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
  /** Answers what a reply asks. Resolves to what the database said of the answer. */
  answer(id: string, ask: string, answer: Answer): Promise<string>;
}

interface Props {
  message: Message;
  /** For a question: whether its reply is shown. */
  answered: boolean;
  /** Whether this is the last reply. */
  last: boolean;
  /** Why the message is not sent or answered at once; null: it is, or it has arrived. */
  waiting: string | null;
  /** Must stay the same object, or every message renders again. */
  actions: MessageActions;
}

/** A question or a reply with its status. */
export const MessageItem = memo(function MessageItem(props: Props) {
  const { message, answered, waiting, actions } = props;
  const mine = message.role === "user";
  return (
    <article
      className={`message ${message.role}`}
      data-testid={`message-${message.role}`}
      data-status={message.status}
      aria-label={mine ? "You" : "Reply"}
    >
      {mine && message.content !== "" && (
        <div className="bubble">
          <Plain text={message.content} />
        </div>
      )}
      {/* a question has the status of its reply, which shows it */}
      {mine && !answered && <Status message={message} waiting={waiting} actions={actions} />}
      {message.role === "assistant" && <ReplyBody message={message} actions={actions} />}
      <Tools {...props} />
    </article>
  );
});

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
