import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { ChatSession, CodeFile } from "supabase-baml-bridge-client";
import { Code } from "./Code.tsx";
import { CopyButton } from "./Copy.tsx";
import { FileEditor } from "./FileEditor.tsx";
import { FileVersions } from "./FileVersions.tsx";
import { messageOf } from "./errors.ts";
import { downloadName, shownPath } from "./paths.ts";

/** How long a download may take to begin: some browsers read the text after the click. */
const KEPT_MS = 30_000;

/** The files to show, and a way to keep one of them in sight, deleted or not, while somebody edits it. */
export function useKeptFile(files: readonly CodeFile[]) {
  const [kept, keep] = useState<CodeFile | null>(null);
  const release = (id: string) => keep((now) => (now?.id === id ? null : now));
  const isGone = kept !== null && !files.some(({ id }) => id === kept.id);
  return { shown: isGone ? [...files, kept] : files, goneId: isGone ? kept.id : null, keep, release };
}

interface Props {
  session: ChatSession;
  files: readonly CodeFile[];
  /** The one that is only shown because it is edited. */
  goneId: string | null;
  /** Called when an edit of a file begins, and when it is over. */
  onEdit(file: CodeFile): void;
  onEdited(id: string): void;
}

/** The code files of a session: their list, and the selected one to read, edit, copy, download, or look back in. */
export function Files({ session, files, goneId, onEdit, onEdited }: Props) {
  const [selectedId, setSelectedId] = useState<string | null>(null);
  const list = useRef<HTMLUListElement>(null);
  const others = useRef(files);
  const selected = files.find(({ id }) => id === selectedId) ?? files[0];
  useEffect(() => {
    // a file that goes takes the keyboard's focus with it
    const gone = others.current.some(({ id }) => !files.some((file) => file.id === id));
    others.current = files;
    if (gone && hasNoFocus()) list.current?.querySelector<HTMLElement>("[aria-current]")?.focus();
  }, [files]);
  useLayoutEffect(() => {
    const pane = list.current?.closest("aside");
    const box = pane?.closest(".chat")?.querySelector<HTMLElement>(".composer textarea");
    return () => {
      // the pane goes with the last file; the conversation takes the focus when it is in sight again
      if (pane?.contains(document.activeElement)) queueMicrotask(() => box?.focus());
    };
  }, []);
  if (selected === undefined) return null;
  // it stays selected when a file comes that stands before it
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
              {file.id === goneId && <span className="badge conflict">deleted</span>}
            </button>
          </li>
        ))}
      </ul>
      <FileView
        key={selected.id}
        session={session}
        file={selected}
        isGone={selected.id === goneId}
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
  isGone: boolean;
  onSelect(id: string): void;
}

function FileView({ session, file, isGone, onEdit, onEdited, onSelect }: ViewProps) {
  const [view, setView] = useState<View>("content");
  const [problem, setProblem] = useState<string | null>(null);
  const tools = useRef<HTMLDivElement>(null);
  const before = useRef(view);
  useEffect(() => {
    // what had the keyboard's focus is gone with the editor or the question: back to the button that opened it
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

  async function remove(): Promise<void> {
    setProblem(null);
    setView("content");
    try {
      await session.files.remove(file.id);
    } catch (reason) {
      setProblem(messageOf(reason));
    }
  }

  return (
    <>
      <div className="file-head">
        <strong>{path}</strong>
        <span className="muted">
          {file.language && `${file.language} · `}revision {file.revision}
        </span>
      </div>
      {!isGone && (
        <div ref={tools} className="file-tools" role="group" aria-label={`What to do with ${path}`}>
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
          <button name="delete" className="quiet small" aria-pressed={view === "delete"} onClick={() => toggle("delete")}>
            Delete
          </button>
        </div>
      )}
      {problem && (
        <p className="error" role="alert">
          {problem}
        </p>
      )}
      {file.conflict && view !== "versions" && (
        <p className="banner" role="status">
          <span>A reply wrote this file while you edited it: your text stayed, the reply's is kept as a version.</span>
          <button className="small" onClick={() => show("versions")}>
            Show
          </button>
        </p>
      )}
      {view === "delete" && (
        <div className="banner" onKeyDown={({ key }) => key === "Escape" && show("content")}>
          <p>Delete {path} with its versions?</p>
          <p className="answers">
            <button className="danger" autoFocus onClick={() => void remove()}>
              Delete file
            </button>
            <button onClick={() => show("content")}>Keep</button>
          </p>
        </div>
      )}
      {view === "edit" && (
        <FileEditor
          session={session}
          file={file}
          isGone={isGone}
          // a save may be answered when something else is looked at already
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
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file.content], { type: "text/plain" }));
  link.download = downloadName(file);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}
