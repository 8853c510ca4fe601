import { useMemo, useState } from "react";
import { hasEnded, type ChatSession, type SessionRow, type SessionSnapshot } from "supabase-baml-bridge-client";
import { useSession } from "supabase-baml-bridge-client/react";
import { useAction } from "./action.ts";
import { ResultShape, useResultShape } from "./catalogue.ts";
import { Composer } from "./Composer.tsx";
import { Conversation } from "./Conversation.tsx";
import { Files, useKeptFile } from "./Files.tsx";
import { useDraft } from "./draft.ts";
import type { MessageActions } from "./Message.tsx";
import type { Client } from "./supabase.ts";

interface Props {
  client: Client;
  row: SessionRow;
  menuOpen: boolean;
  onMenu(): void;
}

/** A session: its conversation, the message box and its code files. */
export function Chat({ client, ...rest }: Props) {
  const { session, ...snapshot } = useSession(client, rest.row.id);
  const shape = useResultShape(client, rest.row.function);
  return (
    session && (
      <ResultShape value={shape}>
        <OpenChat session={session} snapshot={snapshot} {...rest} />
      </ResultShape>
    )
  );
}

interface OpenProps extends Omit<Props, "client"> {
  session: ChatSession;
  snapshot: SessionSnapshot;
}

function OpenChat({ session, snapshot, row, menuOpen, onMenu }: OpenProps) {
  const { messages, connection, error } = snapshot;
  const [draft, setDraft] = useDraft(row.id, messages);
  /** The question being edited, with its new text. The draft is kept meanwhile. */
  const [edit, setEdit] = useState<{ id: string; text: string } | null>(null);
  const { run, error: problem } = useAction();
  const [filesOpen, setFilesOpen] = useState(false);
  const { shown: files, deletedId, keep, release } = useKeptFile(snapshot.files);
  const showsFiles = filesOpen && files.length > 0;

  const actions: MessageActions = useMemo(
    () => ({
      retry: (id) => void run(() => session.retry(id)),
      resend: (id) => void session.resend(id),
      edit: ({ id, content }) => setEdit({ id, text: content }),
    }),
    [session, run],
  );

  function send(text: string): void {
    if (edit === null) setDraft("");
    else setEdit(null);
    void (edit === null ? session.send(text) : session.edit(edit.id, text));
  }

  // "Stop" cancels the running reply, or else the oldest waiting question
  const waiting = messages.filter((message) => message.ordinal !== null && !hasEnded(message));
  const stoppable = waiting.find(({ role }) => role === "assistant") ?? waiting[0];

  return (
    <div className={files.length > 0 ? "chat with-files" : "chat"}>
      <header className="chat-header">
        <button className="menu" aria-expanded={menuOpen} onClick={onMenu}>
          Sessions
        </button>
        <h1>{row.title || "New session"}</h1>
        <span className="badge">{row.function}</span>
        {files.length > 0 && (
          <button className="files-toggle" aria-expanded={showsFiles} onClick={() => setFilesOpen(!showsFiles)}>
            {showsFiles ? "Conversation" : `Files (${files.length})`}
          </button>
        )}
      </header>
      <div className={showsFiles ? "panes show-files" : "panes"}>
        <section className="talk" aria-label="Conversation">
          {connection === "offline" && (
            <p className="banner" role="status">
              Connection lost. Reconnecting…
            </p>
          )}
          <Conversation snapshot={snapshot} actions={actions} onOlder={() => void run(() => session.loadOlder())} />
          {(problem ?? error) && (
            <p className="error" role="alert">
              {problem ?? error}
            </p>
          )}
          <Composer
            draft={edit?.text ?? draft}
            editing={edit !== null}
            onDraft={(text) => (edit === null ? setDraft(text) : setEdit({ ...edit, text }))}
            onSend={send}
            onCancelEdit={() => setEdit(null)}
            onStop={stoppable ? () => void run(() => session.cancel(stoppable.id)) : null}
          />
        </section>
        {files.length > 0 && (
          <Files session={session} files={files} deletedId={deletedId} onEdit={keep} onEdited={release} />
        )}
      </div>
    </div>
  );
}
