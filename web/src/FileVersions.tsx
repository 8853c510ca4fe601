import { useEffect, useRef, useState } from "react";
import type { ChatSession, CodeFile, CodeFileVersion } from "supabase-baml-bridge-client";
import { useAction } from "./action.ts";
import { Code } from "./Code.tsx";
import { CopyButton } from "./Copy.tsx";
import { shownPath } from "./paths.ts";

/** The earlier versions of a file, to read, copy and restore. */
export function FileVersions({ session, file }: { session: ChatSession; file: CodeFile }) {
  const [versions, setVersions] = useState<CodeFileVersion[] | null>(null);
  const [chosen, setChosen] = useState<{ id: number; content: string } | null>(null);
  const wanted = useRef<number>(null);
  const { run, error } = useAction();
  const { run: read, error: readError } = useAction();
  const problem = error ?? readError;

  useEffect(() => {
    let isStale = false;
    void read(async () => {
      const newest = await session.files.readVersions(file.id);
      if (!isStale) setVersions(newest);
    });
    return () => {
      isStale = true;
    };
  }, [read, session, file.id, file.revision]);

  const choose = (id: number) =>
    run(async () => {
      wanted.current = id;
      const content = await session.files.readVersion(id);
      if (wanted.current === id) setChosen({ id, content }); // otherwise another one was chosen since
    });
  const restore = (content: string) =>
    run(async () => {
      const { saved } = await session.files.save(file.id, content, file.revision);
      if (!saved) throw new Error("This file has just changed. Review it and try again.");
      setChosen(null);
    });

  return (
    <div className="versions">
      {problem && (
        <p className="error" role="alert">
          {problem}
        </p>
      )}
      {versions?.length === 0 && <p className="muted hint">No earlier versions.</p>}
      <ul aria-label={`Versions of ${shownPath(file)}`}>
        {versions?.map((version) => (
          <li key={version.id}>
            <button
              className={version.id === chosen?.id ? "file selected" : "file"}
              aria-current={version.id === chosen?.id ? "true" : undefined}
              onClick={() => void choose(version.id)}
            >
              {version.conflict ? `based on revision ${version.revision}` : `revision ${version.revision}`}
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
              Restore
            </button>
          </div>
          <pre
            className="file-content"
            data-testid="version-content"
            role="group"
            aria-label="Content of this version"
            tabIndex={0}
          >
            <Code code={chosen.content} language={file.language ?? ""} />
          </pre>
        </>
      )}
    </div>
  );
}
