import type { Message } from "supabase-baml-bridge-client";
import { isTruncated } from "./DataView.tsx";
import type { MessageActions } from "./messageActions.ts";
import { useProgress } from "./uploads.ts";

interface Props {
  message: Message;
  /** Why the message is not sent or answered at once; null: it is, or it has arrived. */
  waiting: string | null;
  /** What a running reply shows that it runs: where it writes, or that it thinks. Null: what it shows already does. */
  running?: "caret" | "thinking" | null;
  /** Whether a reply that waits has asked the user something. */
  asks?: boolean;
  actions: MessageActions;
}

/** What a message waits for, or how it ended, with what can be done about it. */
export function Status({ message, waiting, running = "thinking", asks = false, actions }: Props) {
  switch (message.status) {
    case "sending":
      return <Sending message={message} waiting={waiting} actions={actions} />;
    case "not_sent":
      return (
        <p className="status failed" role="alert">
          <span>Not sent: {message.error?.message}</span>
          <button onClick={() => actions.resend(message.id)}>Send again</button>
          <button onClick={() => actions.edit(message)}>Edit</button>
        </p>
      );
    case "queued":
      return waiting === null ? <Working text="Queued" /> : <p className="status">{waiting}</p>;
    case "running":
      if (running === "caret") return <span className="caret" aria-hidden="true" />;
      return running === "thinking" ? <Working text="Thinking" /> : null;
    case "waiting":
      return <p className="status">{asks ? "Waiting for your answer." : "Waiting. The reply will continue by itself."}</p>;
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

function Sending({ message, waiting, actions }: Pick<Props, "message" | "waiting" | "actions">) {
  const progress = useProgress(message);
  const reason = progress === null ? waiting : "Uploading attachments…";
  return (
    <div className="status">
      <span role="status">{reason ?? "Sending…"}</span>
      {progress !== null && <progress value={progress} aria-label="Attachments" />}
      {reason !== null && <button onClick={() => actions.withdraw(message.id)}>Do not send</button>}
    </div>
  );
}

function Working({ text }: { text: string }) {
  return (
    <p className="status working">
      <Dots />
      {text}…
    </p>
  );
}

/** Something goes on. */
export function Dots() {
  return (
    <span className="dots" aria-hidden="true">
      <i />
      <i />
      <i />
    </span>
  );
}
