/** A reply as the stream of chunks that the AI SDK reads. */

import type { UIMessageChunk } from "ai";
import { hasEnded } from "./merge.ts";
import type { Json, Message, SessionSnapshot } from "./types.ts";

/** Turns successive snapshots into the chunks of one reply, each piece once. */
export class ReplyChunks {
  ended = false;
  readonly #questionId: string;
  readonly #replaced: readonly Message[];
  /** Whether the question has been seen. From then on it disappears only with its session. */
  #asked = false;
  #started = false;
  #attempt = 0;
  /** The text sent so far. Null: no text part is open. */
  #text: string | null = null;
  #data: Json | null = null;

  /** `replaced`: the question and its reply as they ended before a retry. They produce no chunks. */
  constructor(questionId: string, replaced: readonly Message[] = []) {
    this.#questionId = questionId;
    this.#replaced = replaced;
  }

  *next({ messages }: SessionSnapshot): Generator<UIMessageChunk> {
    if (this.ended) return;
    const question = messages.find(({ id }) => id === this.#questionId);
    const reply = messages.find(({ reply_to }) => reply_to === this.#questionId);
    if (reply !== undefined && this.#isNew(reply)) yield* this.#update(reply);
    const state = reply ?? question;
    if (state === undefined && this.#asked) {
      this.ended = true;
      yield { type: "error", errorText: "This conversation was deleted." };
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

  /** Whether a message belongs to the retry. A retry that is cancelled before it starts keeps the old attempt. */
  #isNew(message: Message): boolean {
    const old = this.#replaced.find(({ id }) => id === message.id);
    if (old === undefined || message.attempt > old.attempt) return true;
    return hasEnded(message) && message.updated_at !== old.updated_at;
  }

  *#update({ id, attempt, content, data }: Message): Generator<UIMessageChunk> {
    if (!this.#started) {
      this.#started = true;
      this.#attempt = attempt;
      yield { type: "start", messageId: id };
      yield { type: "start-step" };
    }
    if (attempt !== this.#attempt || !content.startsWith(this.#text ?? "")) {
      // another worker took over, or the function revised its text
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
