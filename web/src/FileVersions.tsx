import { useEffect, useRef, useState } from "react";
import type { ChatSession, CodeFile, CodeFileVersion } from "supabase-baml-bridge-client";
import { Code } from "./Code.tsx";
import { CopyButton } from "./Copy.tsx";
import { messageOf } from "./errors.ts";
import { shownPath } from "./paths.ts";

/** The earlier versions of a file, one of them to read, copy or bring back. */
export function FileVersions({ session, file }: { session: ChatSession; file: CodeFile }) {
  const [versions, setVersions] = useState<CodeFileVersion[] | null>(null);
  const [chosen, setChosen] = useState<{ id: number; content: string } | null>(null);
  const wanted = useRef<number>(null);
  const [problem, setProblem] = useState<string | null>(null);

  useEffect(() => {
    let shown = true;
    session.files.readVersions(file.id).then(
      (read) => {
        if (!shown) return;
        setVersions(read);
        setProblem(null);
      },
      (reason: unknown) => shown && setProblem(messageOf(reason)),
    );
    return () => {
      shown = false;
    };
  }, [session, file.id, file.revision]);

  async function attempt(action: () => Promise<void>): Promise<void> {
    setProblem(null);
    try {
      await action();
    } catch (reason) {
      setProblem(messageOf(reason));
    }
  }
  const choose = (id: number) =>
    attempt(async () => {
      wanted.current = id;
      const content = await session.files.readVersion(id);
      if (wanted.current === id) setChosen({ id, content }); // if not, another one was chosen meanwhile
    });
  const restore = (content: string) =>
    attempt(async () => {
      const { saved } = await session.files.save(file.id, content, file.revision);
      if (saved) setChosen(null);
      else setProblem("The file has just changed: look at it, and try again.");
    });

  return (
    <div className="versions">
      {problem && (
        <p className="error" role="alert">
          {problem}
        </p>
      )}
      {versions?.length === 0 && <p className="muted hint">There are no earlier versions.</p>}
      <ul aria-label={`Versions of ${shownPath(file)}`}>
        {versions?.map((version) => (
          <li key={version.id}>
            <button
              className={version.id === chosen?.id ? "file selected" : "file"}
              aria-current={version.id === chosen?.id ? "true" : undefined}
              onClick={() => void choose(version.id)}
            >
              {version.conflict ? `from revision ${version.revision}` : `revision ${version.revision}`}
              <time dateTime={version.created_at}>{new Date(version.created_at).toLocaleString()}</time>
              {version.conflict && <span className="badge conflict">conflict</span>}
            </button>
          </li>
        ))}
      </ul>
      {chosen && (
        <>
          <div className="file-tools">
            <CopyButton text={chosen.content} what="this version" />
            <button
              className="quiet small"
              disabled={chosen.content === file.content}
              onClick={() => void restore(chosen.content)}
            >
              Bring back
            </button>
          </div>
          <pre
            className="file-content"
            data-testid="version-content"
            role="group"
            aria-label="Content of the version"
            tabIndex={0}
          >
            <Code code={chosen.content} language={file.language ?? ""} />
          </pre>
        </>
      )}
    </div>
  );
}
