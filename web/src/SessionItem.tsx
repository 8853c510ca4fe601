import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { SessionRow } from "supabase-baml-bridge-client";

interface Props {
  session: SessionRow;
  selected: boolean;
  onSelect(): void;
  /** Resolves to whether the session has its new title. */
  onRename(title: string): Promise<boolean>;
  onDelete(): void;
}

/** A session in the list, with buttons to open, rename and delete it. */
export function SessionItem({ session, selected, onSelect, onRename, onDelete }: Props) {
  const [asking, setAsking] = useState<"title" | "delete" | null>(null);
  const title = session.title || "New session";
  const done = () => setAsking(null);
  const item = useRef<HTMLLIElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const asked = useRef(false);

  // the form had the focus: return it to the session
  useEffect(() => {
    if (asked.current && asking === null) opener.current?.focus();
    asked.current = asking !== null;
  }, [asking]);

  useLayoutEffect(() => {
    const element = item.current;
    return () => {
      if (element?.contains(document.activeElement)) passFocus(element);
    };
  }, []);

  useEffect(() => {
    if (selected || asking !== null) item.current?.scrollIntoView({ block: "nearest" });
  }, [selected, asking]);

  if (asking === "delete") {
    return (
      <li ref={item} className="session asking" onKeyDown={({ key }) => key === "Escape" && done()}>
        <span className="title">Delete “{title}”?</span>
        <span className="answers">
          <button className="danger" autoFocus onClick={onDelete}>
            Delete
          </button>
          <button onClick={done}>Cancel</button>
        </span>
      </li>
    );
  }
  if (asking === "title") {
    return (
      <li ref={item} className="session asking" onKeyDown={({ key }) => key === "Escape" && done()}>
        <RenameForm
          title={session.title ?? ""}
          onRename={async (name) => {
            // a refused title stays in the form
            if (name === session.title || (await onRename(name))) done();
          }}
          onCancel={done}
        />
      </li>
    );
  }
  return (
    <li ref={item} className={selected ? "session selected" : "session"}>
      <button ref={opener} className="open" aria-current={selected ? "page" : undefined} onClick={onSelect}>
        <span className="title">{title}</span>
        <span className="function">{session.function}</span>
      </button>
      <button className="quiet icon" aria-label={`Rename session ${title}`} onClick={() => setAsking("title")}>
        <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
          <path d="M3 13l.6-2.8L10.8 3l2.2 2.2-7.2 7.2zM9.3 4.5l2.2 2.2" />
        </svg>
      </button>
      <button className="quiet icon" aria-label={`Delete session ${title}`} onClick={() => setAsking("delete")}>
        <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
          <path d="M3 4.5h10M6.5 4V2.5h3V4M4.5 4.5l.6 9h5.8l.6-9M6.8 7v4M9.2 7v4" />
        </svg>
      </button>
    </li>
  );
}

/** Moves the focus from a session that is removed to the next one, or to the button for a new one. */
function passFocus(item: Element): void {
  const neighbour = item.nextElementSibling ?? item.previousElementSibling;
  const next = neighbour?.querySelector("button") ?? item.closest("nav")?.querySelector<HTMLElement>(".new-session");
  // afterwards, because the message box that replaces a removed conversation takes the focus
  queueMicrotask(() => next?.focus());
}

function RenameForm(props: { title: string; onRename(title: string): Promise<void>; onCancel(): void }) {
  const [title, setTitle] = useState(props.title);
  const [busy, setBusy] = useState(false);
  const rename = async () => {
    if (title.trim() === "" || busy) return;
    setBusy(true);
    await props.onRename(title.trim());
    setBusy(false);
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void rename();
      }}
    >
      <input
        aria-label="Session title"
        autoFocus
        maxLength={200}
        value={title}
        onFocus={({ target }) => target.select()}
        onChange={({ target }) => setTitle(target.value)}
      />
      <span className="answers">
        <button className="primary" disabled={title.trim() === "" || busy}>
          Rename
        </button>
        <button type="button" onClick={props.onCancel}>
          Cancel
        </button>
      </span>
    </form>
  );
}
