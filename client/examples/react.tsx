import { createRoot } from "react-dom/client";
import { useSession } from "supabase-baml-bridge-client/react";
import { currentSession, supabase } from "./sign-in.ts";

/** The class that the BAML function returns. BAML can generate this type: see "Typed results". */
interface CodeReply {
  reply: string;
  files: { path: string; content: string }[];
}

function Chat({ id }: { id: string }) {
  const { session, messages, files, busy, connection } = useSession<CodeReply>(supabase, id);

  return (
    <>
      <h1>React</h1>
      {connection === "offline" && <p role="status">Connection lost. Reconnecting…</p>}
      <div role="log" aria-label="Messages">
        {messages.map((message) => (
          <div key={message.id} data-role={message.role} data-status={message.status}>
            <p>{message.content}</p>
            {message.role === "assistant" && message.status === "done" && message.data && (
              <small>{message.data.files.length} files</small>
            )}
            {message.status === "failed" && (
              <button onClick={() => void session?.retry(message.id)}>{message.error?.message} Retry</button>
            )}
            {message.status === "not_sent" && (
              <button onClick={() => void session?.resend(message.id)}>Not sent. Send again</button>
            )}
          </div>
        ))}
      </div>
      <form
        action={(data) => {
          void session?.send(String(data.get("text")));
        }}
      >
        <input name="text" aria-label="Message" autoComplete="off" /> <button>Send</button>
      </form>
      {busy && (
        <button onClick={() => void session?.cancel(messages.findLast(({ role }) => role === "user")!.id)}>Stop</button>
      )}
      {files.map((file) => (
        <details key={file.id} open>
          <summary>{file.path}</summary>
          <pre>{file.content}</pre>
        </details>
      ))}
    </>
  );
}

const id = await currentSession({ title: "React", function: "Code" });
createRoot(document.getElementById("root")!).render(<Chat id={id} />);
