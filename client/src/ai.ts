/**
 * A transport for `useChat` of the AI SDK: the chat's id is a session's id, and the rows are the messages.
 *
 * Give `useChat` `generateId: newId`, so that what it shows has the rows' ids.
 */

import type { ChatTransport, UIMessage, UIMessageChunk } from "ai";
import { supabaseBackend } from "./backend.ts";
import { ReplyChunks } from "./chunks.ts";
import { newId } from "./id.ts";
import { hasEnded } from "./merge.ts";
import { openSession, type ChatSession } from "./session.ts";
import { RequestError, type AnySupabaseClient, type Json, type Message, type SessionSnapshot } from "./types.ts";

/** How long a session stays subscribed after its last stream has ended. */
const LINGER_MS = 30_000;
/** How long a stopped reply may take to end. */
const END_MS = 10_000;
const PAGE_SIZE = 20;
const MAX_INITIAL = 200;
const NOT_FOUND = "PT404";
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

type SendOptions<M extends UIMessage> = Parameters<ChatTransport<M>["sendMessages"]>[0];
type ReconnectOptions<M extends UIMessage> = Parameters<ChatTransport<M>["reconnectToStream"]>[0];

/** The messages of a session as `useChat` takes them: at most the newest 200. Throws `RequestError`. */
export async function readUIMessages(client: AnySupabaseClient, sessionId: string): Promise<UIMessage[]> {
  const rows = await supabaseBackend(client).readPage(sessionId, null, MAX_INITIAL);
  return rows.reverse().map(toUIMessage);
}

/** A row as a message of the AI SDK. A structured result is a part of type `data-result`. */
export function toUIMessage({ id, role, content, data }: Pick<Message, "id" | "role" | "content" | "data">): UIMessage {
  const parts: UIMessage["parts"] = [];
  if (content !== "") parts.push({ type: "text", text: content });
  if (role === "assistant" && data !== null) parts.push({ type: "data-result", id: "result", data });
  return { id, role, parts };
}

/**
 * Sends by inserting a row, streams from the session's topic and rows, stops by `cancel_message`, regenerates by
 * `retry_message`, and resumes a reply that runs when the page is loaded (`useChat({ resume: true })`).
 *
 * `body` of a request holds further arguments of the BAML function (the message's `data`). Whatever aborts a stream
 * that is shown stops its reply: `stop()`, but also a component that goes away with its chat, though not a resume that
 * takes the stream's place. To let replies run on meanwhile, keep a `Chat` outside of the component and give it as
 * `useChat({ chat })`.
 */
export class SupabaseChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  /** A resumed stream begins with the reply's first word. */
  readonly resumeStreamIsReplay = true;
  readonly #client: AnySupabaseClient;
  readonly #open = new Map<string, OpenSession>();
  /** Ids of rows by the ids of messages that cannot be a row's, or whose text was changed. */
  readonly #rowIds = new Map<string, string>();

  constructor(client: AnySupabaseClient) {
    this.#client = client;
  }

  async sendMessages(options: SendOptions<M>): Promise<ReadableStream<UIMessageChunk>> {
    const { chatId, trigger, messages, messageId, abortSignal, body } = options;
    const question = messages.findLast(({ role }) => role === "user");
    if (question === undefined) throw new Error("There is no message of the user's to answer.");
    const lease = this.#take(chatId);
    try {
      const { session } = lease;
      // a row's text is never changed: a message in other words is a new row, and the old one's reply is not wanted
      const isEdited = trigger === "submit-message" && messageId === question.id;
      if (isEdited) {
        await stop(lease, this.#rowId(messageId));
        this.#rowIds.set(messageId, newId());
      }
      const id = this.#rowId(question.id);
      const replaced = trigger === "regenerate-message" ? await retry(lease, id) : null;
      if (replaced === null) await send(session, id, textOf(question), body);
      return streamReply(lease, id, abortSignal, replaced ?? []);
    } catch (error) {
      lease.release();
      throw error;
    }
  }

  async reconnectToStream({ chatId, abortSignal }: ReconnectOptions<M>): Promise<ReadableStream<UIMessageChunk> | null> {
    const lease = this.#take(chatId);
    lease.of.resumes += 1;
    try {
      const { messages } = await until(lease, ({ ready }) => ready, abortSignal);
      const question = messages.findLast(({ role }) => role === "user");
      // what is given up before it is shown stops no reply
      if (question !== undefined && !hasEnded(question) && !abortSignal?.aborted) {
        return streamReply(lease, question.id, abortSignal, []);
      }
      lease.release();
      return null;
    } catch (error) {
      lease.release();
      throw error;
    }
  }

  /** Leaves all topics and ends all streams. Replies go on, and are there when the page is loaded again. */
  close(): void {
    for (const open of this.#open.values()) open.close();
    this.#open.clear();
  }

  #rowId(id: string): string {
    const known = this.#rowIds.get(id) ?? (UUID.test(id) ? null : newId());
    if (known === null) return id;
    this.#rowIds.set(id, known);
    return known;
  }

  #take(sessionId: string): Lease {
    const open = this.#open.get(sessionId) ?? new OpenSession(openSession(this.#client, sessionId, { pageSize: PAGE_SIZE }));
    this.#open.set(sessionId, open);
    return open.take(() => this.#open.get(sessionId) === open && this.#open.delete(sessionId));
  }
}

interface Lease {
  readonly of: OpenSession;
  readonly session: ChatSession;
  /** Aborted when the session is closed. */
  readonly closed: AbortSignal;
  /** May be called more than once. */
  release(): void;
}

/** A session that is closed a while after its last stream. */
class OpenSession {
  /** How often a reply was to be resumed. */
  resumes = 0;
  readonly #session: ChatSession;
  readonly #closed = new AbortController();
  #users = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(session: ChatSession) {
    this.#session = session;
  }

  take(onClosed: () => void): Lease {
    clearTimeout(this.#timer);
    this.#users += 1;
    let held = true;
    const release = (): void => {
      if (!held) return;
      held = false;
      this.#users -= 1;
      if (this.#users > 0 || this.#closed.signal.aborted) return;
      this.#timer = setTimeout(() => {
        this.close();
        onClosed();
      }, LINGER_MS);
    };
    return { of: this, session: this.#session, closed: this.#closed.signal, release };
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#session.close();
    this.#closed.abort();
  }
}

async function send(session: ChatSession, id: string, text: string, body: object | undefined): Promise<void> {
  const data = body && Object.keys(body).length > 0 ? (body as { [key: string]: Json }) : undefined;
  if (await session.send(text, data, id)) return;
  const reason = session.getSnapshot().messages.find((message) => message.id === id)?.error?.message;
  session.discard(id);
  throw new Error(reason ?? "The message was not sent.");
}

/** Ends the reply to a question, if it has not ended. */
async function stop(lease: Lease, id: string): Promise<void> {
  const isLive = ({ messages }: SessionSnapshot): boolean =>
    messages.some((message) => (message.id === id || message.reply_to === id) && !hasEnded(message));
  if (!isLive(await until(lease, ({ ready }) => ready))) return;
  await lease.session.cancel(id);
  const late = AbortSignal.timeout(END_MS);
  try {
    await until(lease, (snapshot) => !isLive(snapshot), late);
  } catch (error) {
    throw late.aborted ? new Error("The reply that is running could not be stopped yet. Try again in a moment.") : error;
  }
}

/** The question and the reply that is replaced, or null if there is no such question yet: it had not been sent. */
async function retry(lease: Lease, id: string): Promise<readonly Message[] | null> {
  const { session } = lease;
  try {
    await show(lease, id);
    // a stop may still be on its way to the worker, and what runs is not begun anew
    await stop(lease, id);
    const { messages } = session.getSnapshot();
    const replaced = messages.filter((message) => message.id === id || message.reply_to === id);
    await session.retry(id);
    return replaced;
  } catch (error) {
    if (error instanceof RequestError && error.code === NOT_FOUND) return null;
    throw error;
  }
}

/** Reads back to a question that is older than the newest page. Throws `RequestError` if there is none. */
async function show(lease: Lease, id: string): Promise<void> {
  const { session } = lease;
  let snapshot = await until(lease, ({ ready }) => ready);
  const isShown = (): boolean => snapshot.messages.some((message) => message.id === id);
  if (isShown()) return;
  await session.cancel(id); // tells whether there is one, and does nothing to a reply that has ended
  for (let before; !isShown() && snapshot !== before; snapshot = session.getSnapshot()) {
    before = snapshot;
    await session.loadOlder();
  }
}

/** The session's state once it is as asked. Throws what a signal was aborted with, or why nothing could be read. */
function until(
  { session, closed }: Lease,
  reached: (snapshot: SessionSnapshot) => boolean,
  signal?: AbortSignal,
): Promise<SessionSnapshot> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      const snapshot = session.getSnapshot();
      const aborted = [closed, signal].find((one) => one?.aborted);
      if (aborted) settle(() => reject(aborted.reason));
      else if (reached(snapshot)) settle(() => resolve(snapshot));
      else if (!snapshot.ready && snapshot.error !== null) settle(() => reject(new Error(snapshot.error!)));
    };
    const settle = (end: () => void): void => {
      unsubscribe();
      closed.removeEventListener("abort", look);
      signal?.removeEventListener("abort", look);
      end();
    };
    const unsubscribe = session.subscribe(look);
    closed.addEventListener("abort", look);
    signal?.addEventListener("abort", look);
    look();
  });
}

/** The reply to a question as a stream, from its first word; what is `replaced` is not of it. */
function streamReply(
  lease: Lease,
  questionId: string,
  signal: AbortSignal | undefined,
  replaced: readonly Message[],
): ReadableStream<UIMessageChunk> {
  const { session, closed } = lease;
  let leave: () => void = () => undefined;
  return new ReadableStream<UIMessageChunk>({
    start(controller) {
      const chunks = new ReplyChunks(questionId, replaced);
      const end = (): void => {
        leave();
        controller.close();
      };
      const look = (): void => {
        for (const chunk of chunks.next(session.getSnapshot())) controller.enqueue(chunk);
        if (chunks.ended) end();
      };
      const abort = (): void => {
        end();
        const { resumes } = lease.of;
        setTimeout(() => {
          // a resume aborts the one before, and shows the same reply
          if (lease.of.resumes !== resumes) return;
          // a stop that does not arrive leaves the reply running, as its row will show
          session.cancel(questionId).catch(() => undefined);
        });
      };
      const unsubscribe = session.subscribe(look);
      leave = () => {
        unsubscribe();
        closed.removeEventListener("abort", end);
        signal?.removeEventListener("abort", abort);
        lease.release();
      };
      if (closed.aborted) return end();
      if (signal?.aborted) return abort();
      closed.addEventListener("abort", end);
      signal?.addEventListener("abort", abort);
      look();
    },
    cancel: () => leave(),
  });
}

function textOf({ parts }: UIMessage): string {
  if (parts.some(({ type }) => type === "file")) throw new Error("Attached files are not supported: a message is text.");
  return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}
