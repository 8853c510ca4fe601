import { useChat } from "@ai-sdk/react";
import { lastAssistantMessageIsCompleteWithApprovalResponses, type DynamicToolUIPart, type UIMessage } from "ai";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { newId } from "supabase-baml-bridge-client";
import { readUIMessages, SupabaseChatTransport } from "supabase-baml-bridge-client/ai";
import { currentSession, supabase } from "./sign-in.ts";

const transport = new SupabaseChatTransport(supabase);

function Chat({ id, initial }: { id: string; initial: UIMessage[] }) {
  const [text, setText] = useState("");
  const { messages, status, error, sendMessage, regenerate, stop, addToolApprovalResponse } = useChat({
    id, // the session's
    transport,
    messages: initial,
    generateId: newId, // row ids are UUIDs
    resume: true, // continue a running reply after a page load
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses, // go on once all is answered
  });
  const busy = status === "submitted" || status === "streaming";

  return (
    <>
      <h1>useChat</h1>
      <div role="log" aria-label="Messages" data-status={status}>
        {messages.map((message) => (
          <div key={message.id} data-role={message.role}>
            {message.parts.map((part, index) => {
              if (part.type === "text") return <p key={index}>{part.text}</p>;
              if (part.type === "dynamic-tool") {
                return (
                  <Tool
                    key={part.toolCallId}
                    part={part}
                    onAnswer={(approvalId, approved) => void addToolApprovalResponse({ id: approvalId, approved })}
                  />
                );
              }
              if (part.type === "data-result") return <pre key={index}>{JSON.stringify(part.data, null, 2)}</pre>;
              return null;
            })}
          </div>
        ))}
      </div>
      {error && <p role="alert">{error.message}</p>}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void sendMessage({ text });
          setText("");
        }}
      >
        <input aria-label="Message" value={text} onChange={({ target }) => setText(target.value)} />{" "}
        <button disabled={busy}>Send</button>
      </form>
      {busy ? (
        <button onClick={() => void stop()}>Stop</button>
      ) : (
        messages.length > 0 && <button onClick={() => void regenerate()}>Regenerate</button>
      )}
    </>
  );
}

interface ToolProps {
  part: DynamicToolUIPart;
  onAnswer: (approvalId: string, approved: boolean) => void;
}

/** A tool's name and state, what it gave, and the buttons of one that asks for approval. */
function Tool({ part, onAnswer }: ToolProps) {
  const approvalId = part.state === "approval-requested" ? part.approval.id : null;
  return (
    <fieldset data-tool={part.toolCallId} data-state={part.state}>
      <legend>{part.toolName}</legend>
      <code>{JSON.stringify(part.input)}</code>
      {part.state === "output-available" && <pre>{JSON.stringify(part.output)}</pre>}
      {part.state === "output-error" && <p>{part.errorText}</p>}
      {approvalId !== null && (
        <>
          <button onClick={() => onAnswer(approvalId, true)}>Approve</button>{" "}
          <button onClick={() => onAnswer(approvalId, false)}>Reject</button>
        </>
      )}
    </fieldset>
  );
}

const called = new URLSearchParams(location.search).get("function") ?? "Chat";
const id = await currentSession({ title: "useChat", function: called });
const initial = await readUIMessages(supabase, id);
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Chat id={id} initial={initial} />
  </StrictMode>,
);
