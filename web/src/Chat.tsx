import { useCallback, useState } from "react";
import { hasEnded, openSession, type ChatSession, type SessionRow } from "supabase-baml-bridge-client";
import { Composer } from "./Composer.tsx";
import { Conversation } from "./Conversation.tsx";
import { Files } from "./Files.tsx";
import { useOpened, useSnapshot } from "./hooks.ts";
import type { Client } from "./supabase.ts";

interface Props {
  client: Client;
  session: SessionRow;
  menuOpen: boolean;
  onMenu(): void;
}

/** One session: its conversation, the box to write in, and its code files. */
export function Chat({ client, ...rest }: Props) {
  const { session } = rest;
  const open = useCallback(() => openSession(client, session.id), [client, session.id]);
  const chat = useOpened(open);
  return chat && <OpenChat chat={chat} {...rest} />;
}

function OpenChat({ chat, session, menuOpen, onMenu }: Omit<Props, "client"> & { chat: ChatSession }) {
  const snapshot = useSnapshot(chat);
  const [draft, setDraft] = useState("");
  const [problem, setProblem] = useState<string | null>(null);
  const [filesOpen, setFilesOpen] = useState(false);
  const { messages, files } = snapshot;

  function attempt(action: Promise<void>): void {
    setProblem(null);
    action.catch((reason: unknown) => setProblem(reason instanceof Error ? reason.message : String(reason)));
  }

  // what "Stop" stops: the reply that runs, or else the oldest question that waits
  const waiting = messages.filter((message) => message.ordinal !== null && !hasEnded(message));
  const stoppable = waiting.find(({ role }) => role === "assistant") ?? waiting[0];

  return (
    <div className={files.length > 0 ? "chat with-files" : "chat"}>
      <header className="chat-header">
        <button className="menu" aria-expanded={menuOpen} onClick={onMenu}>
          Sessions
        </button>
        <h1>{session.title || "New session"}</h1>
        <span className="badge">{session.function}</span>
        {files.length > 0 && (
          <button className="files-toggle" aria-expanded={filesOpen} onClick={() => setFilesOpen(!filesOpen)}>
            {filesOpen ? "Conversation" : `Files (${files.length})`}
          </button>
        )}
      </header>
      <div className={filesOpen ? "panes show-files" : "panes"}>
        <section className="talk" aria-label="Conversation">
          {snapshot.connection === "offline" && (
            <p className="banner" role="status">
              No live connection: trying again. Nothing is lost.
            </p>
          )}
          <Conversation
            snapshot={snapshot}
            onOlder={() => attempt(chat.loadOlder())}
            onRetry={(id) => attempt(chat.retry(id))}
            onResend={(id) => void chat.resend(id)}
            onEdit={(message) => {
              chat.discard(message.id);
              setDraft(draft ? `${message.content}\n${draft}` : message.content);
            }}
          />
          {(problem ?? snapshot.error) && (
            <p className="error" role="alert">
              {problem ?? snapshot.error}
            </p>
          )}
          <Composer
            draft={draft}
            onDraft={setDraft}
            onSend={(text) => void chat.send(text)}
            onStop={stoppable ? () => attempt(chat.cancel(stoppable.id)) : null}
          />
        </section>
        {files.length > 0 && <Files files={files} />}
      </div>
    </div>
  );
}
