import { useChat } from "@ai-sdk/react";
import type { UIMessage } from "ai";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { newId } from "supabase-baml-bridge-client";
import { readUIMessages, SupabaseChatTransport } from "supabase-baml-bridge-client/ai";
import { currentSession, supabase } from "./sign-in.ts";

const transport = new SupabaseChatTransport(supabase);

function Chat({ id, initial }: { id: string; initial: UIMessage[] }) {
  const [text, setText] = useState("");
  const { messages, status, error, sendMessage, regenerate, stop } = useChat({
    id, // the session's
    transport,
    messages: initial,
    generateId: newId, // row ids are UUIDs
    resume: true, // continue a running reply after a page load
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

const id = await currentSession({ title: "useChat" });
const initial = await readUIMessages(supabase, id);
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Chat id={id} initial={initial} />
  </StrictMode>,
);
