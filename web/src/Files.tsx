import { useState } from "react";
import type { ChatSession, CodeFile } from "supabase-baml-bridge-client";
import { Code } from "./Code.tsx";
import { CopyButton } from "./Copy.tsx";
import { FileEditor } from "./FileEditor.tsx";
import { FileVersions } from "./FileVersions.tsx";

interface Props {
  session: ChatSession;
  files: readonly CodeFile[];
}

/** The code files of a session: their list, and the selected one to read, edit, copy, download, or look back in. */
export function Files({ session, files }: Props) {
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
      <FileView key={selected.id} session={session} file={selected} />
    </aside>
  );
}

type View = "content" | "edit" | "versions";

function FileView({ session, file }: { session: ChatSession; file: CodeFile }) {
  const [view, setView] = useState<View>("content");
  const toggle = (to: View) => setView(view === to ? "content" : to);
  // a save may be answered when something else is looked at already
  const leaveEditor = () => setView((now) => (now === "edit" ? "content" : now));
  return (
    <>
      <div className="file-head">
        <strong>{file.path}</strong>
        <span className="muted">
          {file.language && `${file.language} · `}revision {file.revision}
        </span>
      </div>
      <div className="file-tools" role="group" aria-label={`What to do with ${file.path}`}>
        <button className="quiet small" aria-pressed={view === "edit"} onClick={() => toggle("edit")}>
          Edit
        </button>
        <button className="quiet small" aria-pressed={view === "versions"} onClick={() => toggle("versions")}>
          Versions
        </button>
        <CopyButton text={file.content} what={file.path} />
        <button className="quiet small" onClick={() => download(file)}>
          Download
        </button>
      </div>
      {file.conflict && view !== "versions" && (
        <p className="banner" role="status">
          <span>A reply wrote this file while you edited it: your text stayed, the reply's is kept as a version.</span>
          <button className="small" onClick={() => setView("versions")}>
            Show
          </button>
        </p>
      )}
      {view === "edit" && <FileEditor session={session} file={file} onDone={leaveEditor} />}
      {view === "versions" && <FileVersions session={session} file={file} />}
      {view === "content" && (
        <pre
          className="file-content"
          data-testid="file-content"
          role="group"
          aria-label={`Content of ${file.path}`}
          tabIndex={0}
        >
          <Code code={file.content} language={file.language ?? ""} />
        </pre>
      )}
    </>
  );
}

function download({ path, content }: CodeFile): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/plain" }));
  link.download = path.split("/").at(-1) ?? "file.txt";
  link.click();
  URL.revokeObjectURL(link.href);
}
