/**
 * A transport for the AI SDK's `useChat`. The chat's id is the session's id, and the rows are the messages.
 *
 * Pass `generateId: newId` to `useChat`, so that its messages have the ids of the rows.
 */

import type { ChatTransport, UIMessage, UIMessageChunk } from "ai";
import { supabaseBackend } from "./backend.ts";
import { ChatFiles, filePart, pathOf, urlOf } from "./chatfiles.ts";
import { ReplyChunks } from "./chunks.ts";
import { canonicalId, isId, newId } from "./id.ts";
import { hasEnded } from "./merge.ts";
import { partsOf } from "./parts.ts";
import { openSession, type ChatSession } from "./session.ts";
import { signAttachments } from "./sign.ts";
import { withTimeout } from "./timeout.ts";
import type {
  AnySupabaseClient,
  Answer,
  Attachment,
  Json,
  Message,
  MessageRow,
  Part,
  RequestError,
  SendOptions,
  SessionSnapshot,
} from "./types.ts";

/** How long a session stays subscribed after its last stream has ended. */
const LINGER_MS = 30_000;
/** How long to wait for a stopped reply to end. */
const STOP_MS = 10_000;
const PAGE_SIZE = 20;
const MAX_INITIAL = 200;
const NOT_FOUND = "PT404";
/** The questions whose replies had not ended when they were read. */
const unfinished = new WeakMap<AnySupabaseClient, Set<string>>();

type SendMessages<M extends UIMessage> = Parameters<ChatTransport<M>["sendMessages"]>[0];
type ReconnectOptions<M extends UIMessage> = Parameters<ChatTransport<M>["reconnectToStream"]>[0];

/** The newest 200 messages of a session, as `useChat` takes them. Throws `RequestError`. */
export async function readUIMessages(client: AnySupabaseClient, sessionId: string): Promise<UIMessage[]> {
  const rows = (await supabaseBackend(client).readPage(sessionId, null, MAX_INITIAL)).reverse();
  const question = lastQuestion(rows);
  if (question !== undefined) {
    const open = unfinished.get(client) ?? new Set();
    unfinished.set(client, open);
    if (hasEnded(question)) open.delete(question.id);
    else open.add(question.id);
  }
  return rows.map((row) => toUIMessage(row));
}

/**
 * The same messages, with file parts whose URLs a browser can load for about `seconds`. The part of a deleted object
 * keeps its URL `attachments/<path>`. Throws `RequestError`.
 */
export async function signParts<M extends UIMessage>(
  client: AnySupabaseClient,
  messages: readonly M[],
  seconds?: number,
): Promise<M[]> {
  const paths = messages.flatMap(({ parts }) => parts.map(pathOf)).filter((path) => path !== null);
  const urls = await signAttachments(client, paths, seconds);
  return messages.map((message) => {
    const parts = message.parts.map((part) => {
      const url = urls.get(pathOf(part) ?? "");
      return url === undefined ? part : { ...part, url };
    });
    return parts.every((part, at) => part === message.parts[at]) ? message : { ...message, parts };
  });
}

export interface TransportOptions {
  /** The model of the next question. Null: the session's, or the function's own. */
  model?: () => string | null;
}

/** A row, or a message of a session. */
type Row = Pick<Message | MessageRow, "id" | "role" | "content" | "data"> & {
  parts?: readonly Part[] | null;
  attachments?: readonly Attachment[] | null;
};

/**
 * Converts a row to a message of the AI SDK. An attachment becomes a part of type `file` with the URL
 * `attachments/<path>` (see `signParts`), and a structured result one of type `data-result`.
 */
export function toUIMessage({ id, role, content, data, parts, attachments }: Row): UIMessage {
  const shown = [
    // as in a message that `useChat` sends, files come first
    ...(attachments ?? []).map(filePart),
    ...partsOf({ content, parts: parts as Part[] | null }),
  ] as UIMessage["parts"];
  if (role === "assistant" && data !== null) shown.push({ type: "data-result", id: "result", data });
  return { id, role, parts: shown };
}

/**
 * Sends by inserting a row, streams from the session's topic and rows, stops with `cancel_message`, regenerates with
 * `retry_message`, and resumes a running reply after a page load (`useChat({ resume: true })`).
 *
 * Files with `data:` URLs are uploaded first.
 *
 * The `body` of a request holds further arguments of the BAML function (the message's `data`). Aborting a stream stops
 * its reply. That includes unmounting the component that owns the chat, but not a resume that replaces the stream. To
 * let replies go on, keep a `Chat` outside the component and pass it as `useChat({ chat })`.
 */
export class SupabaseChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  /** A resumed stream starts from the beginning of the reply. */
  readonly resumeStreamIsReplay = true;
  readonly #client: AnySupabaseClient;
  readonly #open = new Map<string, SharedSession>();
  readonly #model: () => string | null;
  readonly #files = new ChatFiles();
  /** Row ids by message id, for messages whose id is not a UUID or whose text was edited. */
  readonly #rowIds = new Map<string, string>();

  constructor(client: AnySupabaseClient, options: TransportOptions = {}) {
    this.#client = client;
    this.#model = options.model ?? (() => null);
  }

  async sendMessages(options: SendMessages<M>): Promise<ReadableStream<UIMessageChunk>> {
    const { chatId, trigger, messages, messageId, abortSignal, body } = options;
    const question = lastQuestion(messages);
    if (question === undefined) throw new Error("There is no user message to answer.");
    const last = messages.find(({ id }) => id === messageId) ?? messages[messages.length - 1]!;
    const handle = this.#acquire(chatId);
    try {
      if (trigger === "submit-message" && last.role === "assistant") {
        return streamReply(handle, await answer(handle, last), abortSignal, [], partsOfUI(last));
      }
      // rows are immutable: an edited message is a new row, and the reply to the old one is stopped
      const isEdited = trigger === "submit-message" && messageId === question.id;
      if (isEdited) {
        await stop(handle, this.#rowId(messageId));
        this.#rowIds.set(canonicalId(messageId), newId());
      }
      const id = this.#rowId(question.id);
      const replaced = trigger === "regenerate-message" ? await retry(handle, id) : null;
      if (replaced === null) {
        const attachments = await this.#files.attach(handle.session, question, abortSignal);
        await send(handle, id, textOf(question), body, { attachments, model: this.#model() });
      }
      return streamReply(handle, id, abortSignal, replaced ?? []);
    } catch (error) {
      handle.release();
      throw error;
    }
  }

  async reconnectToStream(options: ReconnectOptions<M>): Promise<ReadableStream<UIMessageChunk> | null> {
    const { chatId, abortSignal } = options;
    const handle = this.#acquire(chatId);
    handle.shared.resumes += 1;
    try {
      const { messages } = await read(handle, abortSignal);
      const question = lastQuestion(messages);
      // a resume that is aborted before it shows anything does not stop the reply
      if (question !== undefined && !abortSignal?.aborted) {
        // the reply may have ended since the page read it
        const endWasRead = hasEnded(question) && !unfinished.get(this.#client)?.has(question.id);
        if (!endWasRead) return streamReply(handle, question.id, abortSignal, []);
      }
      handle.release();
      return null;
    } catch (error) {
      handle.release();
      throw error;
    }
  }

  /** Leaves all topics and ends all streams. Replies go on, and are there after the next page load. */
  close(): void {
    for (const open of this.#open.values()) open.close();
    this.#open.clear();
  }

  #rowId(id: string): string {
    const own = canonicalId(id);
    const known = this.#rowIds.get(own) ?? (isId(own) ? own : newId());
    if (known !== own) this.#rowIds.set(own, known);
    return known;
  }

  #acquire(chatId: string): SessionHandle {
    // before anything is sent: plain React Native has none
    if (!globalThis.ReadableStream) throw new Error("useChat needs a ReadableStream: import web-streams-polyfill.");
    const sessionId = canonicalId(chatId);
    const open =
      this.#open.get(sessionId) ?? new SharedSession(openSession(this.#client, sessionId, { pageSize: PAGE_SIZE }));
    this.#open.set(sessionId, open);
    return open.acquire(() => this.#open.get(sessionId) === open && this.#open.delete(sessionId));
  }
}

/** One stream's share of a session. */
interface SessionHandle {
  readonly shared: SharedSession;
  readonly session: ChatSession;
  /** Aborted when the session is closed. */
  readonly closed: AbortSignal;
  /** May be called more than once. */
  release(): void;
}

/** A session that closes some time after its last handle is released. */
class SharedSession {
  /** The number of resumes so far. */
  resumes = 0;
  readonly #session: ChatSession;
  readonly #closed = new AbortController();
  #handles = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(session: ChatSession) {
    this.#session = session;
  }

  acquire(onClosed: () => void): SessionHandle {
    clearTimeout(this.#timer);
    this.#handles += 1;
    let held = true;
    const release = (): void => {
      if (!held) return;
      held = false;
      this.#handles -= 1;
      if (this.#handles > 0 || this.#closed.signal.aborted) return;
      this.#timer = setTimeout(() => {
        this.close();
        onClosed();
      }, LINGER_MS);
    };
    return { shared: this, session: this.#session, closed: this.#closed.signal, release };
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#session.close();
    this.#closed.abort();
  }
}

/** The first snapshot with rows. Rejects if they cannot be read, or with the reason of an aborted signal. */
function read({ session, closed }: SessionHandle, signal?: AbortSignal): Promise<SessionSnapshot> {
  const isReady = ({ ready, error }: SessionSnapshot): boolean => {
    if (!ready && error !== null) throw new Error(error);
    return ready;
  };
  return session.waitFor(isReady, closed, signal);
}

/** Sends a message once: without a connection it throws, and the user of a chat can try again. */
async function send(
  { session, closed }: SessionHandle,
  id: string,
  text: string,
  body: object | undefined,
  options: SendOptions,
): Promise<void> {
  const data = body && Object.keys(body).length > 0 ? (body as { [key: string]: Json }) : undefined;
  void session.send(text, data, id, options); // never rejects
  let message: Message | undefined;
  await session.waitFor(({ messages }) => {
    message = messages.find((one) => one.id === id);
    return message?.status !== "sending" || message.error !== null;
  }, closed);
  if (message?.ordinal !== null) return;
  session.discard(id);
  throw new Error(message.error?.message);
}

/** Sends the user's answers to the questions of a reply. Returns the id of the question that the reply is to. */
async function answer(handle: SessionHandle, { id, parts }: UIMessage): Promise<string> {
  const { session } = handle;
  const { asks } = await read(handle);
  for (const part of parts) {
    if (part.type !== "dynamic-tool") continue;
    const { state, toolCallId: name, approval, output } = part;
    if (state === "approval-responded") {
      const { approved, reason } = approval;
      await session.answer(id, approval.id, { approved, reason });
    } else if (state === "output-available" && asks.some((ask) => ask.messageId === id && ask.name === name)) {
      await session.answer(id, name, output as Answer);
    }
  }
  await reveal(handle, id);
  const reply = session.getSnapshot().messages.find((message) => message.id === id);
  if (!reply?.reply_to) throw new Error("This reply was deleted.");
  return reply.reply_to;
}

/** Stops the reply to a question, if it has not ended, and waits for its end. */
async function stop(handle: SessionHandle, id: string): Promise<void> {
  const { session, closed } = handle;
  const hasStopped = ({ messages }: SessionSnapshot): boolean => threadOf(messages, id).every(hasEnded);
  if (hasStopped(await read(handle))) return;
  await session.cancel(id);
  await withTimeout(STOP_MS, (timedOut) => session.waitFor(hasStopped, closed, timedOut)).catch((error: unknown) => {
    throw closed.aborted ? error : new Error("The current reply is still stopping. Try again in a moment.");
  });
}

/** Retries a question. Returns it with the reply to be replaced; null if the question was never sent. */
async function retry(handle: SessionHandle, id: string): Promise<readonly Message[] | null> {
  const { session } = handle;
  try {
    await show(handle, id);
    // a running reply cannot be retried, and an earlier stop may still be on its way to the worker
    await stop(handle, id);
    const replaced = threadOf(session.getSnapshot().messages, id);
    await session.retry(id);
    return replaced;
  } catch (error) {
    if ((error as Partial<RequestError>).code === NOT_FOUND) return null;
    throw error;
  }
}

/** Loads older pages until a question is shown. Throws `RequestError` if there is no such question. */
async function show(handle: SessionHandle, id: string): Promise<void> {
  const { session } = handle;
  const { messages } = await read(handle);
  if (messages.some((message) => message.id === id)) return;
  await session.cancel(id); // throws if there is no such question, and does nothing to a reply that has ended
  await reveal(handle, id);
}

/** Loads older pages until a message is shown, or there are no more. */
async function reveal({ session }: SessionHandle, id: string): Promise<void> {
  let snapshot = session.getSnapshot();
  const isShown = (): boolean => snapshot.messages.some((message) => message.id === id);
  for (let before; !isShown() && snapshot !== before; snapshot = session.getSnapshot()) {
    before = snapshot;
    await session.loadOlder();
  }
}

/**
 * Streams the reply to a question, without the messages that it replaces: from its beginning, or from the parts that
 * are known.
 */
function streamReply(
  handle: SessionHandle,
  questionId: string,
  signal: AbortSignal | undefined,
  replaced: readonly Message[],
  known?: readonly Part[],
): ReadableStream<UIMessageChunk> {
  const { session, closed } = handle;
  let leave!: () => void;
  return new ReadableStream<UIMessageChunk>({
    start(controller) {
      const chunks = new ReplyChunks(questionId, replaced, known);
      const end = (): void => {
        leave();
        controller.close();
      };
      const update = (): void => {
        for (const chunk of chunks.next(session.getSnapshot())) controller.enqueue(chunk);
        if (chunks.ended) end();
      };
      const abort = (): void => {
        end();
        const { resumes } = handle.shared;
        setTimeout(() => {
          // a resume aborts the stream before it and shows the same reply
          if (handle.shared.resumes !== resumes) return;
          // if this fails the reply goes on, and its row shows that
          session.cancel(questionId).catch(() => undefined);
        });
      };
      const unsubscribe = session.subscribe(update);
      leave = () => {
        unsubscribe();
        closed.removeEventListener("abort", end);
        signal?.removeEventListener("abort", abort);
        handle.release();
      };
      if (closed.aborted) return end();
      if (signal?.aborted) return abort();
      closed.addEventListener("abort", end);
      signal?.addEventListener("abort", abort);
      update();
    },
    cancel: () => leave(),
  });
}

/** A question and its reply. */
function threadOf(messages: readonly Message[], questionId: string): Message[] {
  return messages.filter(({ id, reply_to }) => id === questionId || reply_to === questionId);
}

function lastQuestion<M extends { role: string }>(messages: readonly M[]): M | undefined {
  return messages.filter(({ role }) => role === "user").pop(); // React Native and older browsers have no `findLast`
}

function textOf({ parts }: UIMessage): string {
  return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

/** The parts of a message that came from a reply. */
function partsOfUI({ parts }: UIMessage): Part[] {
  const shown = parts.filter((part) => part.type !== "data-result");
  return shown.map((part) => {
    const path = pathOf(part);
    return path === null ? part : { ...part, url: urlOf(path) }; // it may have been signed
  }) as Part[];
}
