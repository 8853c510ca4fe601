import { memo } from "react";
import type { Message } from "supabase-baml-bridge-client";
import { Attachments } from "./Attachments.tsx";
import { CopyButton } from "./Copy.tsx";
import type { MessageActions } from "./messageActions.ts";
import { ReplyBody } from "./Reply.tsx";
import { Status } from "./Status.tsx";
import { Plain } from "./Text.tsx";

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
      {mine && message.attachments.length > 0 && (
        <Attachments sessionId={message.session_id} attachments={message.attachments} />
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
