import { useEffect, useRef, type ClipboardEvent, type KeyboardEvent } from "react";
import { useAnnouncement } from "./announcement.ts";
import { AttachButton } from "./Attach.tsx";
import { isComposing } from "./keys.ts";
import { Parameters, type Arguments } from "./Parameters.tsx";
import type { Pasted } from "./pasted.ts";
import { UploadList } from "./UploadList.tsx";
import type { Upload } from "./uploads.ts";

interface Props {
  draft: string;
  /** Long texts to send along, as files. */
  pasted: readonly Pasted[];
  sessionId: string;
  /** The draft's attachments. */
  uploads: readonly Upload[];
  /** The media types of files that can be attached. */
  accepts: readonly string[];
  /** The arguments to send along. An edited question keeps its own. */
  args: Arguments;
  /** Whether the draft is an edit of an earlier question. */
  editing: boolean;
  onDraft(text: string): void;
  /** Returns whether it has dealt with what was pasted, which is then not inserted. */
  onPaste(data: DataTransfer): boolean;
  onAttach(files: File[]): void;
  onRemove(path: string): void;
  onSend(text: string): void;
  onCancelEdit(): void;
  /** Null: there is nothing to stop. */
  onStop: (() => void) | null;
}

/** The message box. Enter sends, Shift+Enter starts a new line, Escape cancels an edit. */
export function Composer(props: Props) {
  const { draft, pasted, sessionId, uploads, accepts, args, editing } = props;
  const { onDraft, onPaste, onAttach, onRemove, onSend, onCancelEdit, onStop } = props;
  const box = useRef<HTMLTextAreaElement>(null);
  const files = editing ? [] : pasted;
  const announcement = useAnnouncement(pasted, uploads);
  const isEmpty = draft.trim() === "" && files.length === 0 && (editing || uploads.length === 0);

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
    if (isEmpty) return;
    onSend(draft);
    box.current?.focus();
  }

  function onKeyDown(event: KeyboardEvent<HTMLTextAreaElement>): void {
    if (isComposing(event.nativeEvent)) return;
    if (event.key === "Escape" && editing) onCancelEdit();
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    if (!isEmpty) event.currentTarget.form!.requestSubmit(); // it checks the arguments
  }

  function insert(event: ClipboardEvent): void {
    if (onPaste(event.clipboardData)) event.preventDefault();
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
      <p className="visually-hidden" role="status">
        {announcement}
      </p>
      {files.length > 0 && (
        <ul className="pasted" aria-label="Pasted texts">
          {files.map(({ path, content }) => (
            <li key={path}>
              <span>{path}</span>
              <span className="muted">{sizeOf(content)}</span>
              <button
                type="button"
                className="quiet small"
                aria-label={`Remove ${path}`}
                onClick={() => {
                  onRemove(path);
                  box.current?.focus();
                }}
              >
                Remove
              </button>
            </li>
          ))}
        </ul>
      )}
      <UploadList
        sessionId={sessionId}
        uploads={editing ? [] : uploads}
        onRemoved={() => box.current?.focus()}
      />
      {!editing && <Parameters of={args} />}
      <div className="line">
        {!editing && accepts.length > 0 && (
          <AttachButton
            accepts={accepts}
            onFiles={(chosen) => {
              onAttach(chosen);
              box.current?.focus();
            }}
          />
        )}
        <textarea
          ref={box}
          rows={1}
          aria-label="Message"
          placeholder="Write a message"
          autoFocus
          value={draft}
          onChange={(event) => onDraft(event.target.value)}
          onKeyDown={onKeyDown}
          onPaste={insert}
        />
        {onStop && (
          <button type="button" className="stop" onClick={onStop}>
            Stop
          </button>
        )}
        <button type="submit" className="primary" disabled={isEmpty}>
          Send
        </button>
      </div>
    </form>
  );
}

function sizeOf(text: string): string {
  const lines = text.split("\n").length;
  return lines > 1 ? `${lines.toLocaleString("en")} lines` : `${text.length.toLocaleString("en")} characters`;
}
