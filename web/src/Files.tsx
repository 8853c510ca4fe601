import { useState } from "react";
import type { CodeFile } from "supabase-baml-bridge-client";
import { CopyButton } from "./Text.tsx";

/** The code files of a session: their list, and the content of the selected one. */
export function Files({ files }: { files: readonly CodeFile[] }) {
  const [selectedId, setSelectedId] = useState<string | null>(null);
  const selected = files.find(({ id }) => id === selectedId) ?? files[0];
  if (selected === undefined) return null;
  return (
    <aside className="files" aria-label="Code files">
      <ul data-testid="files">
        {files.map((file) => (
          <li key={file.id}>
            <button
              className={file === selected ? "file selected" : "file"}
              aria-current={file === selected ? "true" : undefined}
              onClick={() => setSelectedId(file.id)}
            >
              {file.path}
              {file.conflict && <span className="badge conflict">conflict</span>}
            </button>
          </li>
        ))}
      </ul>
      <div className="file-head">
        <strong>{selected.path}</strong>
        <span className="muted">
          {selected.language && `${selected.language} · `}revision {selected.revision}
        </span>
        <CopyButton text={selected.content} />
      </div>
      {selected.conflict && (
        <p className="banner" role="status">
          A reply wrote this file while you edited it: your text stayed, the reply's is kept as a version.
        </p>
      )}
      <pre className="file-content" data-testid="file-content" aria-label={`Content of ${selected.path}`} tabIndex={0}>
        <code>{selected.content}</code>
      </pre>
    </aside>
  );
}
