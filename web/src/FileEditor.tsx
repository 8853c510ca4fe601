import { useState } from "react";
import type { ChatSession, CodeFile } from "supabase-baml-bridge-client";
import { useAction } from "./action.ts";
import { isComposing } from "./keys.ts";
import { shownPath } from "./paths.ts";

interface Props {
  session: ChatSession;
  file: CodeFile;
  /** Whether the file has been deleted since the edit started. */
  isDeleted: boolean;
  onDone(): void;
  /** Called with the id of a new file that replaces a deleted one. */
  onAdded(id: string): void;
}

/** Edits a file. If the file changes or is deleted meanwhile, the user chooses which text to keep. */
export function FileEditor({ session, file, isDeleted, onDone, onAdded }: Props) {
  const [text, setText] = useState(file.content);
  /** The revision that the edit is based on. */
  const [revision, setRevision] = useState(file.revision);
  const { run, busy, error } = useAction();
  const stale = isDeleted || file.revision !== revision;

  const save = (from: number) =>
    run(async () => {
      const { saved } = await session.files.save(file.id, text, from);
      if (saved) onDone(); // otherwise `file` has changed, and the editor asks
    });
  const add = () =>
    run(async () => {
      const { id } = await session.files.add(file.path, text, file.language);
      onDone();
      onAdded(id);
    });

  return (
    <form
      className="editor"
      onSubmit={(event) => {
        event.preventDefault();
        void save(revision);
      }}
    >
      {isDeleted && (
        <div className="banner" role="alert">
          <p>This file was deleted. Your edit is still here.</p>
          <p className="answers">
            <button type="button" disabled={busy} onClick={() => void add()}>
              Save as new file
            </button>
          </p>
        </div>
      )}
      {stale && !isDeleted && (
        <div className="banner" role="alert">
          <p>
            This file changed while you were editing. Your edit is based on revision {revision}, and the file is now at
            revision {file.revision}.
          </p>
          <p className="answers">
            <button type="button" disabled={busy} onClick={() => void save(file.revision)}>
              Keep my version
            </button>
            <button
              type="button"
              disabled={busy}
              onClick={() => {
                setText(file.content);
                setRevision(file.revision);
              }}
            >
              Use the new version
            </button>
          </p>
        </div>
      )}
      {error && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      <textarea
        aria-label={`Edit ${shownPath(file)}`}
        spellCheck={false}
        autoFocus
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={({ key, nativeEvent }) => {
          // never discards an edit by accident
          if (key === "Escape" && text === file.content && !isComposing(nativeEvent)) onDone();
        }}
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
