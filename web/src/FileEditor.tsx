import { useState } from "react";
import type { ChatSession, CodeFile } from "supabase-baml-bridge-client";
import { messageOf } from "./errors.ts";
import { isComposing } from "./keys.ts";
import { shownPath } from "./paths.ts";

interface Props {
  session: ChatSession;
  file: CodeFile;
  /** Whether the file has been deleted meanwhile. */
  isGone: boolean;
  onDone(): void;
  /** Called with the id of the file that takes the place of a deleted one. */
  onAdded(id: string): void;
}

/**
 * A file's text to change. If a reply changes it meanwhile, or somebody deletes it, nobody's text is lost: the editor
 * asks what shall be.
 */
export function FileEditor({ session, file, isGone, onDone, onAdded }: Props) {
  const [text, setText] = useState(file.content);
  /** The revision that the text was made from. */
  const [revision, setRevision] = useState(file.revision);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const stale = isGone || file.revision !== revision;

  async function attempt(action: () => Promise<void>): Promise<void> {
    setBusy(true);
    setProblem(null);
    try {
      await action();
    } catch (reason) {
      setProblem(messageOf(reason));
    } finally {
      setBusy(false);
    }
  }
  const save = (from: number) =>
    attempt(async () => {
      const { saved } = await session.files.save(file.id, text, from);
      if (saved) onDone(); // if not, the file shown has another revision by now, or is gone
    });
  const add = () =>
    attempt(async () => {
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
      {isGone && (
        <div className="banner" role="alert">
          <p>This file has been deleted. Your text is still here.</p>
          <p className="answers">
            <button type="button" disabled={busy} onClick={() => void add()}>
              Save as a new file
            </button>
          </p>
        </div>
      )}
      {stale && !isGone && (
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
        aria-label={`Text of ${shownPath(file)}`}
        spellCheck={false}
        autoFocus
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={({ key, nativeEvent }) => {
          // not what has been typed, by a slip of a finger
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
