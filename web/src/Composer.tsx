import { useEffect, useRef, type KeyboardEvent } from "react";
import { isComposing } from "./keys.ts";

interface Props {
  draft: string;
  /** Whether the draft is an edit of an earlier question. */
  editing: boolean;
  onDraft(text: string): void;
  onSend(text: string): void;
  onCancelEdit(): void;
  /** Null: there is nothing to stop. */
  onStop: (() => void) | null;
}

/** The message box. Enter sends, Shift+Enter starts a new line, Escape cancels an edit. */
export function Composer({ draft, editing, onDraft, onSend, onCancelEdit, onStop }: Props) {
  const box = useRef<HTMLTextAreaElement>(null);

  // grows with the text, up to the maximum height in the style sheet
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    // measured without room for the log to grow into, or it would lose its place
    const form = element.form!;
    form.style.minHeight = `${form.offsetHeight}px`;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight}px`;
    form.style.minHeight = "";
  }, [draft]);

  useEffect(() => {
    if (editing) box.current?.focus();
  }, [editing]);

  function send(): void {
    if (draft.trim() === "") return;
    onSend(draft);
    box.current?.focus();
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (isComposing(event.nativeEvent)) return;
    if (event.key === "Escape" && editing) onCancelEdit();
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    send();
  }

  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {editing && (
        <p className="editing" role="status">
          <span>Editing your message. The original stays in the conversation.</span>
          <button type="button" className="quiet small" onClick={onCancelEdit}>
            Cancel
          </button>
        </p>
      )}
      <div className="line">
        <textarea
          ref={box}
          rows={1}
          aria-label="Message"
          placeholder="Write a message"
          autoFocus
          value={draft}
          onChange={(event) => onDraft(event.target.value)}
          onKeyDown={onKeyDown}
        />
        {onStop && (
          <button type="button" className="stop" onClick={onStop}>
            Stop
          </button>
        )}
        <button type="submit" className="primary" disabled={draft.trim() === ""}>
          Send
        </button>
      </div>
    </form>
  );
}
