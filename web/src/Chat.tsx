import { useContext, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { hasEnded, newId, type Model, type SessionList, type SessionRow } from "supabase-baml-bridge-client";
import { useSession } from "supabase-baml-bridge-client/react";
import { useAction } from "./action.ts";
import { attachable, unsendable, withTypes } from "./attachable.ts";
import { Catalogue, ResultShape, useResultShape } from "./catalogue.ts";
import { Composer } from "./Composer.tsx";
import { Conversation } from "./Conversation.tsx";
import { Files, useKeptFile } from "./Files.tsx";
import { useDraft } from "./draft.ts";
import { pastedFiles, useDrop, type Dropped } from "./drop.ts";
import { functionNamed, functionToStart, lastFunction, rememberFunction } from "./functions.ts";
import type { MessageActions } from "./messageActions.ts";
import { ModelChoice } from "./ModelChoice.tsx";
import { shownQuestion, useOutbox } from "./outgoing.ts";
import { freePath, isLongMessage, isLongPaste, tooLarge, withFiles } from "./pasted.ts";
import { useArguments } from "./Parameters.tsx";
import type { Client } from "./supabase.ts";
import { shownUpload, uploadsOf, useUploads } from "./uploads.ts";
import { FunctionChoices, Suggestions } from "./Welcome.tsx";

interface Props {
  client: Client;
  list: SessionList;
  id: string;
  /** Null: the first message creates the session. */
  row: SessionRow | null;
  /** The models to choose from. */
  models: readonly Model[];
  shown: boolean;
  menuOpen: boolean;
  onMenu(): void;
  /**
   * Called when a message starts to wait for its session or its files, and when none waits any more. One that came back
   * waits until it is shown, with the reason.
   */
  onWaiting(id: string, waiting: boolean): void;
}

/** A session: its conversation, the message box and its code files. Or the start of a new one. */
export function Chat({ client, list, id, row, models, shown, menuOpen, onMenu, onWaiting }: Props) {
  const { session, ...snapshot } = useSession(client, row === null ? null : id);
  const functions = useContext(Catalogue);
  const [chosen, choose] = useState(lastFunction);
  /** The model for a new session, or one that the session's row does not have yet. */
  const [newModel, setNewModel] = useState<string | null | undefined>();
  const model = newModel === undefined ? (row?.model ?? null) : newModel;
  /** The last change of the session's model, and whether it was made: what is asked next waits for it. */
  const changing = useRef<Promise<boolean>>(Promise.resolve(true));
  const asks = row === null ? functionToStart(functions, chosen) : functionNamed(functions, row.function);
  const args = useArguments(asks);
  const shape = useResultShape(client, asks.name);
  const own = uploadsOf(id);
  const uploads = useUploads(id).filter(({ inDraft }) => inDraft);
  const outbox = useOutbox(
    session,
    row !== null,
    () => list.create({ id, function: asks.name, ...(model !== null && { model }) }),
    async (message, to) => {
      own.open(to);
      if (!(await changing.current)) throw new Error("The model could not be changed, so the message was not sent.");
      return own.uploaded(message.id, message.attachments.length);
    },
    (message) => {
      own.takeBack(message.id);
      draft.takeBack(message);
    },
  );
  const outgoing = outbox.messages.filter((next) => !snapshot.messages.some((message) => message.id === next.id));
  const draft = useDraft(id, row !== null, snapshot.messages, outbox.messages);
  const messages = [...snapshot.messages, ...outgoing.map((message) => shownQuestion(id, message))];
  /** The question being edited, with its new text. The draft is kept meanwhile. */
  const [edit, setEdit] = useState<{ id: string; text: string } | null>(null);
  const [refused, setRefused] = useState<string | null>(null);
  const { run, error: problem, clear } = useAction();
  const [filesOpen, setFilesOpen] = useState(false);
  const { shown: files, deletedId, keep, release } = useKeptFile(snapshot.files);
  const section = useRef<HTMLElement>(null);
  const showsFiles = filesOpen && files.length > 0;
  const isWaiting = outbox.messages.length > 0;
  const isNew = row === null && !isWaiting;
  const error = refused ?? problem ?? outbox.error ?? snapshot.error;

  // what was on its way when the session was last shown came back into the draft
  useLayoutEffect(() => own.takeBack(), [own]);
  useEffect(() => {
    if (session !== null && !isWaiting) own.open(session);
  }, [session, isWaiting, own]);
  const arrived = snapshot.messages.filter(({ role, ordinal }) => role === "user" && ordinal !== null);
  useEffect(() => own.arrived(new Set(arrived.map((message) => message.id))), [own, arrived.at(-1)?.id, arrived.length]);

  const isCreated = row !== null;
  useLayoutEffect(() => {
    if (isCreated) setNewModel(undefined);
  }, [isCreated]);

  // a layout effect, so that it is known before the session's row arrives
  const holds = isWaiting || (!shown && outbox.error !== null);
  useLayoutEffect(() => onWaiting(id, holds), [id, holds]);

  // a second click or key press may come before the page shows the effect of the first
  const sent = useRef(false);
  useEffect(() => {
    sent.current = false;
  });

  const { withdraw } = outbox;
  const actions: MessageActions = useMemo(
    () => ({
      retry: (messageId) => void run(async () => session?.retry(messageId)),
      resend: (messageId) => void session?.resend(messageId),
      withdraw: (messageId) =>
        void run(async () => {
          if (withdraw(messageId)) return;
          // not one whose files are still being added
          const isOwn = session?.getSnapshot().messages.some((message) => message.id === messageId);
          if (isOwn) await session?.cancel(messageId);
        }),
      edit: ({ id: messageId, content }) => setEdit({ id: messageId, text: content }),
      answer: async (messageId, ask, answer) => {
        if (session === null) throw new Error("The session is not open.");
        return session.answer(messageId, ask, answer);
      },
    }),
    [session, run, withdraw],
  );

  function send(text: string): void {
    if (sent.current) return;
    setRefused(null);
    clear();
    outbox.clear();
    const isFile = edit === null && asks.readsFiles && isLongMessage(withFiles(text, draft.pasted));
    const reason = isFile ? tooLarge(text) : null;
    const cannot = reason ?? (edit === null && functions.includes(asks) ? unsendable(uploads, asks) : null);
    if (cannot !== null) return setRefused(cannot);
    sent.current = true;
    if (edit !== null && session !== null) {
      setEdit(null);
      own.arrived(new Set([edit.id])); // if it was not sent, the new question has them
      void changing.current.then((isChanged) => {
        if (isChanged) void session.edit(edit.id, text);
        else setEdit({ id: edit.id, text });
      });
      return;
    }
    const files = isFile ? [...draft.pasted, { path: nextPath(), content: text }] : draft.pasted;
    const messageId = draft.idOf(text) ?? newId();
    draft.set("");
    draft.setPasted([]);
    const attachments = uploads.map(shownUpload);
    const waits = isWaiting || newModel !== undefined || files.length + attachments.length > 0;
    if (session !== null && !waits) {
      void session.send(text, args.data, messageId);
      return;
    }
    own.give(messageId);
    outbox.add({ id: messageId, text: isFile ? "" : text, data: args.data, files, attachments });
  }

  /** Starts with a suggested question, unless an argument is missing. What has been typed stays. */
  function ask(question: string): void {
    if (sent.current) return;
    const form = section.current?.querySelector("form");
    if (form?.checkValidity() === false) {
      if (draft.text === "") draft.set(question);
      form.reportValidity();
      return;
    }
    sent.current = true;
    outbox.add({ id: newId(), text: question, data: args.data, files: [], attachments: [] });
    section.current?.querySelector("textarea")?.focus();
  }

  function nextPath(): string {
    return freePath([...snapshot.files, ...outbox.messages.flatMap((message) => message.files), ...draft.pasted]);
  }

  /** Attaches files, and says which ones cannot be. */
  async function attach({ files, folders }: Dropped): Promise<void> {
    const typed = await withTypes(files);
    const { taken, refused } = attachable(typed, own.getSnapshot().filter(({ inDraft }) => inDraft), asks);
    own.add(taken);
    setRefused(folders.length > 0 ? "A folder cannot be attached: choose the files in it." : refused);
  }

  /** Attaches pasted files, and makes a long text a code file. Returns whether it did, or could not. */
  function paste(data: DataTransfer): boolean {
    if (edit !== null) return false;
    const pictures = pastedFiles(data);
    if (pictures.length > 0) void attach({ files: pictures, folders: [] });
    return pictures.length > 0 || pasteText(data.getData("text/plain"));
  }

  function pasteText(text: string): boolean {
    if (!asks.readsFiles || !isLongPaste(text)) return false;
    const reason = tooLarge(text);
    setRefused(reason);
    if (reason === null) draft.setPasted([...draft.pasted, { path: nextPath(), content: text }]);
    return true;
  }

  const canAttach = edit === null && asks.accepts.length > 0;
  const drop = useDrop((dropped) => {
    if (edit === null) void attach(dropped);
    else setRefused("An edited message keeps its attachments: no others can be added.");
  });

  async function changeModel(name: string | null): Promise<void> {
    setNewModel(name);
    if (row === null) return;
    const change = changing.current.then(() => run(() => list.update(id, { model: name })));
    changing.current = change;
    await change;
    if (changing.current !== change) return;
    changing.current = Promise.resolve(true);
    setNewModel(undefined);
  }

  // "Stop" cancels the running reply, or else the oldest waiting question
  const waiting = snapshot.messages.filter((message) => message.ordinal !== null && !hasEnded(message));
  const stoppable = waiting.find(({ role }) => role === "assistant") ?? waiting[0];

  return (
    <div className={`chat${files.length > 0 ? " with-files" : ""}${isNew ? " new" : ""}`} data-session={row?.id}>
      <header className="chat-header">
        <button className="menu" aria-expanded={menuOpen} onClick={onMenu}>
          Sessions
        </button>
        {!isNew && (
          <>
            <h1>{row?.title || "New session"}</h1>
            <span className="badge">{asks.title}</span>
          </>
        )}
        <ModelChoice
          models={models}
          chosen={model}
          disabled={row === null && isWaiting}
          onChoose={(name) => void changeModel(name)}
        />
        {files.length > 0 && (
          <button className="files-toggle" aria-expanded={showsFiles} onClick={() => setFilesOpen(!showsFiles)}>
            {showsFiles ? "Conversation" : `Files (${files.length})`}
          </button>
        )}
      </header>
      <div className={showsFiles ? "panes show-files" : "panes"}>
        <section
          ref={section}
          className={drop.isOver && canAttach ? "talk dropping" : "talk"}
          {...drop.handlers}
          aria-label={isNew ? "New session" : "Conversation"}
        >
          {snapshot.connection === "offline" && (
            <p className="banner" role="status">
              Connection lost. Reconnecting…
            </p>
          )}
          {isNew ? (
            <FunctionChoices
              choices={functions}
              chosen={asks}
              onChoose={({ name }) => {
                choose(name);
                rememberFunction(name);
              }}
            />
          ) : (
            <ResultShape value={shape}>
              <Conversation
                snapshot={{ ...snapshot, messages, busy: snapshot.busy || isWaiting }}
                actions={actions}
                onOlder={() => void run(async () => session?.loadOlder())}
              />
            </ResultShape>
          )}
          {error && (
            <p className="error" role="alert">
              {error}
            </p>
          )}
          <Composer
            draft={edit?.text ?? draft.text}
            pasted={draft.pasted}
            sessionId={id}
            uploads={uploads}
            accepts={asks.accepts}
            args={args}
            editing={edit !== null}
            onDraft={(text) => (edit === null ? draft.set(text) : setEdit({ ...edit, text }))}
            onPaste={paste}
            onAttach={(files) => void attach({ files, folders: [] })}
            onRemove={(path) => draft.setPasted(draft.pasted.filter((file) => file.path !== path))}
            onSend={send}
            onCancelEdit={() => setEdit(null)}
            onStop={stoppable ? () => void run(async () => session?.cancel(stoppable.id)) : null}
          />
          {isNew && <Suggestions of={asks} onAsk={ask} />}
        </section>
        {session !== null && files.length > 0 && (
          <Files session={session} files={files} deletedId={deletedId} onEdit={keep} onEdited={release} />
        )}
      </div>
    </div>
  );
}
