import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { ChatSession, CodeFile } from "supabase-baml-bridge-client";
import { useAction } from "./action.ts";
import { Code } from "./Code.tsx";
import { CopyButton } from "./Copy.tsx";
import { FileEditor } from "./FileEditor.tsx";
import { FileVersions } from "./FileVersions.tsx";
import { downloadName, saveAs, shownPath } from "./paths.ts";

/** The files to show, with functions to keep one of them while it is edited, even if it is deleted. */
export function useKeptFile(files: readonly CodeFile[]) {
  const [kept, keep] = useState<CodeFile | null>(null);
  const release = (id: string) => keep((now) => (now?.id === id ? null : now));
  const isDeleted = kept !== null && !files.some(({ id }) => id === kept.id);
  return { shown: isDeleted ? [...files, kept] : files, deletedId: isDeleted ? kept.id : null, keep, release };
}

interface Props {
  session: ChatSession;
  files: readonly CodeFile[];
  /** The deleted file that is shown because it is being edited. */
  deletedId: string | null;
  /** Called when an edit of a file starts, and when it ends. */
  onEdit(file: CodeFile): void;
  onEdited(id: string): void;
}

/** The code files of a session: the list, and the selected file with its tools. */
export function Files({ session, files, deletedId, onEdit, onEdited }: Props) {
  const [selectedId, setSelectedId] = useState<string | null>(null);
  const list = useRef<HTMLUListElement>(null);
  const known = useRef(files);
  const selected = files.find(({ id }) => id === selectedId) ?? files[0];
  useEffect(() => {
    // a deleted file may have had the focus
    const isRemoved = known.current.some(({ id }) => !files.some((file) => file.id === id));
    known.current = files;
    if (isRemoved && hasNoFocus()) list.current?.querySelector<HTMLElement>("[aria-current]")?.focus();
  }, [files]);
  useLayoutEffect(() => {
    const pane = list.current?.closest("aside");
    const box = pane?.closest(".chat")?.querySelector<HTMLElement>(".composer textarea");
    return () => {
      // the pane disappears with the last file: move the focus to the message box once that is visible
      if (pane?.contains(document.activeElement)) queueMicrotask(() => box?.focus());
    };
  }, []);
  if (selected === undefined) return null;
  // so that a new file above does not change the selection
  if (selected.id !== selectedId) setSelectedId(selected.id);
  const select = (id: string): void => {
    if (id !== selected.id) onEdited(selected.id);
    setSelectedId(id);
  };
  return (
    <aside className="files" aria-label="Code files">
      <ul ref={list} data-testid="files">
        {files.map((file) => (
          <li key={file.id}>
            <button
              className={file === selected ? "file selected" : "file"}
              aria-current={file === selected ? "true" : undefined}
              onClick={() => select(file.id)}
            >
              {shownPath(file)}
              {file.conflict && <span className="badge conflict">conflict</span>}
              {file.id === deletedId && <span className="badge conflict">deleted</span>}
            </button>
          </li>
        ))}
      </ul>
      <FileView
        key={selected.id}
        session={session}
        file={selected}
        isDeleted={selected.id === deletedId}
        onEdit={onEdit}
        onEdited={onEdited}
        onSelect={select}
      />
    </aside>
  );
}

type View = "content" | "edit" | "versions" | "delete";

interface ViewProps extends Pick<Props, "session" | "onEdit" | "onEdited"> {
  file: CodeFile;
  isDeleted: boolean;
  onSelect(id: string): void;
}

function FileView({ session, file, isDeleted, onEdit, onEdited, onSelect }: ViewProps) {
  const [view, setView] = useState<View>("content");
  const { run, error } = useAction();
  const tools = useRef<HTMLDivElement>(null);
  const before = useRef(view);
  useEffect(() => {
    // the closed editor or question had the focus: return it to the button that opened it
    if (hasNoFocus()) tools.current?.querySelector<HTMLElement>(`[name=${before.current}]`)?.focus();
    before.current = view;
  }, [view]);
  const show = (to: View): void => {
    if (to === "edit") onEdit(file);
    else onEdited(file.id);
    setView(to);
  };
  const path = shownPath(file);
  const toggle = (to: View) => show(view === to ? "content" : to);

  const remove = () => {
    setView("content");
    void run(() => session.files.remove(file.id));
  };

  return (
    <>
      <div className="file-head">
        <strong>{path}</strong>
        <span className="muted">
          {file.language && `${file.language} · `}revision {file.revision}
        </span>
      </div>
      {!isDeleted && (
        <div ref={tools} className="file-tools" role="group" aria-label={`Actions for ${path}`}>
          <button name="edit" className="quiet small" aria-pressed={view === "edit"} onClick={() => toggle("edit")}>
            Edit
          </button>
          <button className="quiet small" aria-pressed={view === "versions"} onClick={() => toggle("versions")}>
            Versions
          </button>
          <CopyButton text={file.content} what={path} />
          <button className="quiet small" onClick={() => download(file)}>
            Download
          </button>
          <button
            name="delete"
            className="quiet small"
            aria-pressed={view === "delete"}
            onClick={() => toggle("delete")}
          >
            Delete
          </button>
        </div>
      )}
      {error && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      {file.conflict && view !== "versions" && (
        <p className="banner" role="status">
          <span>
            The assistant also changed this file. Your text was kept; the assistant's is under Versions.
          </span>
          <button className="small" onClick={() => show("versions")}>
            Show versions
          </button>
        </p>
      )}
      {view === "delete" && (
        <div className="banner" onKeyDown={({ key }) => key === "Escape" && show("content")}>
          <p>Delete {path} and its versions?</p>
          <p className="answers">
            <button className="danger" autoFocus onClick={remove}>
              Delete file
            </button>
            <button onClick={() => show("content")}>Cancel</button>
          </p>
        </div>
      )}
      {view === "edit" && (
        <FileEditor
          session={session}
          file={file}
          isDeleted={isDeleted}
          // the user may have opened another view while the file was saved
          onDone={() => {
            onEdited(file.id);
            setView((now) => (now === "edit" ? "content" : now));
          }}
          onAdded={onSelect}
        />
      )}
      {view === "versions" && <FileVersions session={session} file={file} />}
      {(view === "content" || view === "delete") && (
        <pre
          className="file-content"
          data-testid="file-content"
          role="group"
          aria-label={`Content of ${path}`}
          tabIndex={0}
        >
          <Code code={file.content} language={file.language ?? ""} />
        </pre>
      )}
    </>
  );
}

function hasNoFocus(): boolean {
  return document.activeElement === document.body;
}

function download(file: CodeFile): void {
  saveAs(new Blob([file.content], { type: "text/plain" }), downloadName(file));
}
