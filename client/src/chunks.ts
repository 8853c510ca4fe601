/** A reply as the stream of chunks that the AI SDK reads. */

import type { UIMessageChunk } from "ai";
import { hasEnded } from "./merge.ts";
import type { Json, Message, SessionSnapshot } from "./types.ts";

/** What is to be told of a reply's present state, after what has been told of it. */
export class ReplyChunks {
  ended = false;
  /** Whether the question was there: from then on it goes only with its session. */
  #asked = false;
  readonly #questionId: string;
  readonly #replaced: readonly Message[];
  #started = false;
  #attempt = 0;
  /** The text that has been told; null: no text part is open. */
  #text: string | null = null;
  #data: Json | null = null;

  /** `replaced`: the question and its reply as they had ended before a retry; as such they are not told. */
  constructor(questionId: string, replaced: readonly Message[] = []) {
    this.#questionId = questionId;
    this.#replaced = replaced;
  }

  *next({ messages }: SessionSnapshot): Generator<UIMessageChunk> {
    if (this.ended) return;
    const question = messages.find(({ id }) => id === this.#questionId);
    const reply = messages.find(({ reply_to }) => reply_to === this.#questionId);
    if (reply !== undefined && this.#isNew(reply)) yield* this.#tell(reply);
    const state = reply ?? question;
    if (state === undefined && this.#asked) {
      this.ended = true;
      yield { type: "error", errorText: "The conversation is gone." };
    }
    this.#asked ||= question !== undefined;
    if (state === undefined || !hasEnded(state) || !this.#isNew(state)) return;
    this.ended = true;
    if (this.#text !== null) yield { type: "text-end", id: textId(this.#attempt) };
    if (this.#started) yield { type: "finish-step" };
    if (state.status === "done") yield { type: "finish", finishReason: "stop" };
    else if (state.status === "cancelled") yield { type: "abort", reason: "cancelled" };
    else yield { type: "error", errorText: state.error?.message ?? "The reply failed." };
  }

  /** Whether it belongs to the retry: what ends it in the same attempt (a stop, before it began) is a later change. */
  #isNew(message: Message): boolean {
    const old = this.#replaced.find(({ id }) => id === message.id);
    if (old === undefined || message.attempt > old.attempt) return true;
    return hasEnded(message) && message.updated_at !== old.updated_at;
  }

  *#tell({ id, attempt, content, data }: Message): Generator<UIMessageChunk> {
    if (!this.#started) {
      this.#started = true;
      this.#attempt = attempt;
      yield { type: "start", messageId: id };
      yield { type: "start-step" };
    }
    if (attempt !== this.#attempt || !content.startsWith(this.#text ?? "")) {
      // written anew: another worker took over, or the function gave another text
      yield { type: "reset-step" };
      this.#attempt = attempt;
      this.#text = null;
      this.#data = null;
    }
    if (content.length > (this.#text ?? "").length) {
      if (this.#text === null) yield { type: "text-start", id: textId(attempt) };
      yield { type: "text-delta", id: textId(attempt), delta: content.slice(this.#text?.length ?? 0) };
      this.#text = content;
    }
    if (data !== null && data !== this.#data) {
      this.#data = data;
      yield { type: "data-result", id: "result", data };
    }
  }
}

function textId(attempt: number): string {
  return `text-${attempt}`;
}
