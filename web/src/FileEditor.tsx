import { useState } from "react";
import type { ChatSession, CodeFile } from "supabase-baml-bridge-client";
import { messageOf } from "./errors.ts";

interface Props {
  session: ChatSession;
  file: CodeFile;
  onDone(): void;
}

/** A file's text to change. If a reply changes it meanwhile, nobody's text is lost: the editor asks which one stays. */
export function FileEditor({ session, file, onDone }: Props) {
  const [text, setText] = useState(file.content);
  /** The revision that the text was made from. */
  const [revision, setRevision] = useState(file.revision);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const stale = file.revision !== revision;

  async function save(from: number): Promise<void> {
    setBusy(true);
    setProblem(null);
    try {
      const { saved } = await session.files.save(file.id, text, from);
      if (saved) onDone(); // if not, the file shown has another revision by now
    } catch (reason) {
      setProblem(messageOf(reason));
    } finally {
      setBusy(false);
    }
  }

  return (
    <form
      className="editor"
      onSubmit={(event) => {
        event.preventDefault();
        void save(revision);
      }}
    >
      {stale && (
        <div className="banner" role="alert">
          <p>This file has changed since you began: it is at revision {file.revision} now, you began at {revision}.</p>
          <p className="answers">
            <button type="button" disabled={busy} onClick={() => void save(file.revision)}>
              Keep mine
            </button>
            <button
              type="button"
              disabled={busy}
              onClick={() => {
                setText(file.content);
                setRevision(file.revision);
              }}
            >
              Take the new text
            </button>
          </p>
        </div>
      )}
      {problem && (
        <p className="error" role="alert">
          {problem}
        </p>
      )}
      <textarea
        aria-label={`Text of ${file.path}`}
        spellCheck={false}
        autoFocus
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={({ key }) => key === "Escape" && onDone()}
      />
      <p className="answers">
        <button className="primary" disabled={busy || stale || text === file.content}>
          Save
        </button>
        <button type="button" onClick={onDone}>
          Cancel
        </button>
      </p>
    </form>
  );
}
