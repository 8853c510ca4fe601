/** A reply as the stream of chunks that the AI SDK reads. */

import type { UIMessageChunk } from "ai";
import { hasEnded } from "./merge.ts";
import { isAsk } from "./parts.ts";
import type { Json, Message, Part, SessionSnapshot, ToolPart } from "./types.ts";

/** A part that was sent. */
interface Sent {
  part: Part;
  /** The id of a text or reasoning that may still grow. */
  id?: string | undefined;
}

/** Turns successive snapshots into the chunks of one reply, each piece once. */
export class ReplyChunks {
  ended = false;
  readonly #questionId: string;
  readonly #replaced: readonly Message[];
  readonly #continues: boolean;
  /** Whether the question has been seen. From then on it disappears only with its session. */
  #asked = false;
  #started = false;
  /** What was sent of each step. Only the last one can be taken back. */
  readonly #steps: Sent[][];
  #ids = 0;
  #data: Json | null = null;

  /**
   * `replaced`: the question and its reply as they ended before a retry. They produce no chunks. `known`: the parts
   * that the reader has already, if it continues a message.
   */
  constructor(questionId: string, replaced: readonly Message[] = [], known?: readonly Part[]) {
    this.#questionId = questionId;
    this.#replaced = replaced;
    this.#continues = known !== undefined;
    this.#steps = stepsOf(known ?? []).map((parts) => parts.map((part) => ({ part })));
  }

  *next({ messages }: SessionSnapshot): Generator<UIMessageChunk> {
    if (this.ended) return;
    const question = messages.find(({ id }) => id === this.#questionId);
    const reply = messages.find(({ reply_to }) => reply_to === this.#questionId);
    // what a queued reply keeps is known when it runs, and finished steps that were sent cannot be taken back
    const isShown = this.#started || reply?.status !== "queued";
    if (reply !== undefined && isShown && this.#isNew(reply)) yield* this.#update(reply);
    const state = reply ?? question;
    if (state === undefined && this.#asked) {
      this.ended = true;
      yield { type: "error", errorText: "This conversation was deleted." };
    }
    this.#asked ||= question !== undefined;
    if (state === undefined || !this.#isNew(state)) return;
    // a reply that waits for its user goes on in another stream
    const asks = state.status === "waiting" && this.#steps.some((sent) => sent.some(({ part }) => isAsk(part)));
    if (!asks && !hasEnded(state)) return;
    this.ended = true;
    yield* this.#close();
    if (this.#started) yield { type: "finish-step" };
    if (asks) yield { type: "finish", finishReason: "tool-calls" };
    else if (state.status === "done") yield { type: "finish", finishReason: "stop" };
    else if (state.status === "cancelled") yield { type: "abort", reason: "cancelled" };
    else yield { type: "error", errorText: state.error?.message ?? "The reply failed." };
  }

  /** Whether a message belongs to the retry. A retry that is cancelled before it starts keeps the old attempt. */
  #isNew(message: Message): boolean {
    const old = this.#replaced.find(({ id }) => id === message.id);
    if (old === undefined || message.attempt > old.attempt) return true;
    return hasEnded(message) && message.updated_at !== old.updated_at;
  }

  *#update({ id, parts, data }: Message): Generator<UIMessageChunk> {
    const steps = this.#steps;
    const last = (): number => steps.length - 1;
    if (!this.#started) {
      this.#started = true;
      yield { type: "start", messageId: id };
      if (!this.#continues) yield { type: "start-step" };
    }
    const wanted = stepsOf(parts);
    const own = wanted[last()];
    if (steps[last()]!.some((sent, at) => !isLater(sent, own?.[at])) || (data === null && this.#data !== null)) {
      // another worker took over, or the function revised its text
      yield { type: "reset-step" };
      steps[last()] = [];
      this.#data = null;
    }
    for (const [at, parts] of wanted.entries()) {
      if (at > last()) {
        yield* this.#close();
        yield { type: "finish-step" };
        yield { type: "start-step" };
        steps.push([]);
      }
      for (const [index, part] of parts.entries()) {
        const sent = steps[at]![index];
        if (sent !== undefined) yield* change(sent, part);
        else if (at === last()) yield* this.#add(part);
      }
    }
    if (data !== null && data !== this.#data) {
      this.#data = data;
      yield { type: "data-result", id: "result", data };
    }
  }

  /** Appends a part to the last step. */
  *#add(part: Part): Generator<UIMessageChunk> {
    yield* this.#close();
    const sent: Sent = { part };
    this.#steps[this.#steps.length - 1]!.push(sent);
    if (part.type === "text" || part.type === "reasoning") {
      const id = (sent.id = `${part.type}-${++this.#ids}`);
      yield { type: `${part.type}-start`, id };
      yield { type: `${part.type}-delta`, id, delta: part.text };
    } else if (part.type === "dynamic-tool") yield* call(part);
    // a copy, because the reader changes what it gets
    else yield { ...part } as UIMessageChunk;
  }

  /** Ends the text or reasoning that is being written. */
  *#close(): Generator<UIMessageChunk> {
    const sent = this.#steps[this.#steps.length - 1]!.slice(-1)[0];
    if (sent?.id === undefined) return;
    yield { type: `${(sent.part as { type: "text" }).type}-end`, id: sent.id };
    sent.id = undefined;
  }
}

/** Brings a part that was sent up to date, if it can be. */
function* change(sent: Sent, part: Part): Generator<UIMessageChunk> {
  const { part: old, id } = sent;
  if (old === part || !isLater(sent, part)) return;
  if (part.type === "dynamic-tool") {
    // an answer may be known here before it is in the row, and an output in a later attempt comes again
    if (rank(part) < rank(old as ToolPart)) return;
    yield* call(part, old as ToolPart);
  } else if ("data" in part && !same(part, old)) yield { ...part };
  else if (id !== undefined && "text" in part && part !== old) {
    const delta = part.text.slice((old as { text: string }).text.length);
    if (delta !== "") yield { type: `${(part as { type: "text" }).type}-delta`, id, delta };
  }
  sent.part = part;
}

/** A tool's call, from what was sent of it to its present state. */
function* call(part: ToolPart, old?: ToolPart): Generator<UIMessageChunk> {
  const { toolCallId, toolName, input } = part;
  const known = old && "approval" in old ? old.approval : undefined;
  // a question that nobody answered in time has none
  const approval = "approval" in part ? part.approval : known && { id: known.id };
  const approved = approval?.approved;
  if (!old) yield { type: "tool-input-available", toolCallId, toolName, input, dynamic: true };
  if (approval && (!known || known.approved !== approved)) {
    // also takes an answer back that came too late
    if (!known || approved === undefined) yield { type: "tool-approval-request", toolCallId, approvalId: approval.id };
    if (approved !== undefined) yield { type: "tool-approval-response", approvalId: approval.id, approved };
  }
  if (same(old, part)) return;
  if (part.state === "output-available") yield { type: "tool-output-available", toolCallId, output: part.output };
  if (part.state === "output-error") yield { type: "tool-output-error", toolCallId, errorText: part.errorText };
}

/** Whether a part is what was sent, at the same or a later time. */
function isLater({ part: old, id }: Sent, part: Part | undefined): boolean {
  if (part?.type !== old.type) return false;
  if ("text" in part) {
    const { text } = old as { text: string };
    return id === undefined ? part.text === text : part.text.startsWith(text);
  }
  if (part.type === "dynamic-tool") return part.toolCallId === (old as ToolPart).toolCallId && same(part.input, (old as ToolPart).input);
  if ("url" in part) return part.url === (old as { url: string }).url;
  return !("data" in part) || (part.id !== undefined && part.id === (old as {id?: string}).id) || same(part, old);
}

const RANKS = ["output-available", "output-error", "approval-responded", "approval-requested", "input-available"];

function rank({ state }: ToolPart): number {
  return -Math.max(1, RANKS.indexOf(state));
}

/** Whether two JSON values are equal. */
function same(a: unknown, b: unknown): boolean {
  if (a === b || Object(a) !== a || Object(b) !== b) return a === b;
  const [left, right] = [a, b] as { [key: string]: unknown }[];
  return [...Object.keys(left!), ...Object.keys(right!)].every((key) => same(left![key], right![key]));
}

/** The parts of each step. */
function stepsOf(parts: readonly Part[]): Part[][] {
  const steps: Part[][] = [[]];
  for (const part of parts) {
    const last = steps[steps.length - 1]!;
    if (part.type !== "step-start") last.push(part);
    else if (last.length > 0) steps.push([]);
  }
  return steps;
}
