/** Rows and events as the worker and the database produce them. */

import fc from "fast-check";
import { hasEnded } from "../src/merge.ts";
import type { CodeFileRow, Delta, MessageRow, Part, ToolPart } from "../src/types.ts";

export function timeAt(step: number): string {
  // Postgres's format: microseconds without trailing zeros
  const micros = String(step % 1_000_000).padStart(6, "0").replace(/0+$/, "");
  const seconds = String(Math.floor(step / 1_000_000)).padStart(2, "0");
  return `2026-01-01T00:00:${seconds}${micros && "."}${micros}+00:00`;
}

export function question(values: Partial<MessageRow> = {}): MessageRow {
  return {
    id: "q",
    session_id: "s",
    ordinal: 2,
    role: "user",
    content: "Hello?",
    data: null,
    status: "queued",
    reply_to: null,
    attempt: 0,
    seq: 0,
    error: null,
    created_at: timeAt(0),
    updated_at: timeAt(0),
    ...values,
  };
}

export function reply(values: Partial<MessageRow> = {}): MessageRow {
  return question({ id: "r", ordinal: 3, role: "assistant", content: "", status: "running", reply_to: "q", attempt: 1, ...values });
}

export function file(values: Partial<CodeFileRow> = {}): CodeFileRow {
  return {
    id: "f",
    session_id: "s",
    path: "main.py",
    content: "print()",
    language: "python",
    revision: 1,
    message_id: "r",
    created_at: timeAt(0),
    updated_at: timeAt(0),
    ...values,
  };
}

export type Step =
  | { do: "checkpoint" | "orphan" }
  | { do: "claim" | "release" | "fail" | "cancel" | "done" | "retry"; large?: boolean }
  | { do: "delta" | "revise" | "result" | "zombie"; text: string; large?: boolean }
  | { do: "reason" | "call" | "return" | "step" | "show" | "ask" | "answer"; text: string; large?: boolean };

/** A delta, a row, or a row that is too large to announce. Checkpoints are not announced, only read. */
export type Event =
  | { delta: Delta }
  | { row: MessageRow; announced: boolean }
  | { hint: { attempt: number; updated_at: string }; row: MessageRow };

/** The contents of a reply. In a row, `parts` are those that are complete. */
export type State = Required<Pick<MessageRow, "content" | "data" | "parts">>;

const NOTHING: State = { content: "", data: null, parts: null };

/** The history of a reply: its announced and readable events, and its contents at each `(attempt, seq)`. */
export class ReplyLife {
  readonly events: Event[] = [];
  /** By `attempt:seq`, with the text that is being written in `parts`. An answer or an end changes only the row. */
  readonly states = new Map<string, State[]>();
  /** What each attempt began with. */
  readonly kept = new Map<number, State>();
  row: MessageRow;
  #state = NOTHING;
  /** The contents when the last step of the handler ended: a takeover keeps them. */
  #kept = NOTHING;
  /** Whether a step has ended since the last piece: the next piece begins with `step-start`. */
  #stepEnded = false;
  #seq = 0;
  #clock = 0;
  #calls = 0;
  #zombie: ({ attempt: number; seq: number } & State) | null = null;

  constructor(steps: readonly Step[], thread: { id?: string; reply_to?: string; ordinal?: number } = {}) {
    this.row = reply({ ...thread, attempt: 0, status: "queued" });
    this.#step({ do: "claim" });
    for (const step of steps) this.#step(step);
    if (hasEnded(this.row)) this.#step({ do: "retry" });
    if (this.row.status !== "running") this.#step({ do: "claim" });
    this.#step({ do: "delta", text: "the end" });
    this.#step({ do: "done" });
  }

  #step(step: Step): void {
    const { status } = this.row;
    const running = status === "running";
    const large = "large" in step && step.large === true;
    switch (step.do) {
      case "claim": // or a takeover from a dead worker, or a reply that has waited long enough
        return hasEnded(this.row) ? undefined : this.#claim();
      case "delta":
        return running ? this.#write(step.text) : undefined;
      case "revise": {
        if (!running) return;
        this.#begin();
        const content = closedText(this.#state) + step.text;
        return this.#send({ content }, large ? { omitted: ["content"] } : { content });
      }
      case "result": {
        if (!running) return;
        const data = { value: step.text };
        return this.#send({ data }, large ? { omitted: ["data"] } : { data });
      }
      case "reason":
        if (!running) return;
        this.#begin();
        return this.#send({ parts: reasoned(this.#state, step.text) }, { reasoning: step.text });
      case "call":
        if (!running) return;
        return this.#show({ ...tool("fetch", `c${this.#calls++}`, step.text), state: "input-available" }, large);
      case "return": // the oldest call of this attempt that has not returned
        if (running) this.#return(step.text, large);
        return;
      case "step":
        return running ? this.#endStep() : undefined;
      case "show":
        if (!running) return;
        if (step.text.length === 1) return this.#show({ type: "source-url", sourceId: step.text, url: step.text }, large);
        return this.#show({ type: "data-chart", id: "chart", data: step.text }, large);
      case "ask": { // one question, or two
        if (!running) return;
        while (this.#return(step.text)); // a reply waits once nothing of it runs
        for (let count = Math.min(step.text.length, 2); count > 0; count--) {
          const id = `a${this.#calls++}`;
          this.#show({ ...tool("ask", id, step.text), state: "approval-requested", approval: { id } }, large);
        }
        this.#endStep(false);
        return this.#store({ status: "waiting", seq: this.#seq, ...this.#state }, { large });
      }
      case "answer": { // the oldest question
        const ask = this.#asks("approval-requested")[0];
        if (status !== "waiting" || ask === undefined) return;
        const approval = { id: ask.toolCallId, approved: step.text.length === 1 };
        this.#replace({ ...ask, state: "approval-responded", approval });
        const isLast = this.#asks("approval-requested").length === 0;
        return this.#store({ status: isLast ? "queued" : "waiting", parts: this.#state.parts }, { large });
      }
      case "zombie": { // a worker that has lost its lease but does not know it yet
        if (this.#zombie === null) return;
        this.#zombie.seq += 1;
        this.#zombie.content += step.text;
        const { attempt, seq, ...state } = this.#zombie;
        this.#note(attempt, seq, state);
        this.events.push({ delta: { ...this.#thread(), attempt, seq, text: step.text } });
        return;
      }
      case "checkpoint":
        return running ? this.#store({ seq: this.#seq, ...this.#state }, { announced: false }) : undefined;
      case "release":
        return running ? this.#store({ status: "queued" }, { large }) : undefined;
      case "orphan": // cancelled after its worker died: the last checkpoint is all that is left
        return running ? this.#end("cancelled", this.row) : undefined;
      case "fail":
        return running ? this.#end("failed", this.#state, large) : undefined;
      case "cancel":
        return running || status === "waiting" ? this.#end("cancelled", this.#state, large) : undefined;
      case "done": // the last text may not have had a delta
        if (!running) return;
        this.#seq += 1;
        return this.#end("done", { ...this.#state, content: `${this.#state.content}!` }, large);
      case "retry": // a failed reply goes on after its last step
        if (status !== "failed" && status !== "cancelled") return;
        if (status === "cancelled") this.#kept = NOTHING;
        return this.#store({ status: "queued", error: null }, { large });
    }
  }

  #claim(): void {
    const { status, attempt } = this.row;
    this.#zombie = status === "running" ? { attempt, seq: this.#seq, ...this.#state } : null;
    this.#state = this.#kept;
    this.kept.set(attempt + 1, this.#kept);
    this.#seq = this.#kept === NOTHING ? 0 : 1;
    this.#stepEnded = this.#kept !== NOTHING;
    this.#store({ attempt: attempt + 1, seq: this.#seq, ...this.#state, error: null, status: "running" });
    // the handler comes by its questions again
    for (const ask of this.#asks("approval-responded")) {
      const { approval } = ask as { approval: { id: string; approved: boolean } };
      this.#show({ ...ask, state: "output-available", output: { approved: approval.approved }, approval });
    }
    for (const { type, toolCallId, toolName, input } of this.#asks("approval-requested")) {
      this.#show({ type, toolCallId, toolName, input, state: "output-error", errorText: "No answer in time." });
    }
  }

  #return(text: string, large = false): boolean {
    const part = this.#state.parts?.find((one) => one.type === "dynamic-tool" && one.state === "input-available");
    if (part?.type !== "dynamic-tool") return false;
    const { type, toolCallId, toolName, input } = part;
    const call = { type, toolCallId, toolName, input };
    if (text.length === 1) this.#show({ ...call, state: "output-error", errorText: text }, large);
    else this.#show({ ...call, state: "output-available", output: { text } }, large);
    this.#endStep();
    return true;
  }

  #asks(state: ToolPart["state"]): ToolPart[] {
    const isIt = (part: Part): part is ToolPart => part.type === "dynamic-tool" && part.state === state;
    return (this.#state.parts ?? []).filter(isIt).filter(({ toolName }) => toolName === "ask");
  }

  /** What was asked is kept whole: an answer changes the row and nothing else. */
  #replace(part: ToolPart): void {
    this.#state = this.#kept = { ...this.#state, parts: placed(this.#state, part) };
  }

  #write(text: string): void {
    this.#begin();
    this.#send({ content: this.#state.content + text }, { text });
  }

  /** Shows a part: a new one, or the next state of one. */
  #show(part: Part, large = false): void {
    if (placed(this.#state, part).length > folded(this.#state).length) this.#begin();
    this.#send({ parts: placed(this.#state, part) }, large ? { omitted: ["part"] } : { part });
  }

  /** A new piece comes: after a step it begins with a part of its own. */
  #begin(): void {
    if (!this.#stepEnded) return;
    this.#stepEnded = false;
    const part = { type: "step-start" } as const;
    this.#send({ parts: placed(this.#state, part) }, { part });
  }

  #endStep(stored = true): void {
    this.#kept = { ...this.#state, data: null };
    this.#stepEnded = true;
    if (stored) this.#store({ seq: this.#seq, ...this.#state }, { announced: false });
  }

  #end(status: "done" | "failed" | "cancelled", state: State | MessageRow, large = false): void {
    const { content, data, parts = null } = state;
    const stopped = parts?.map((part) => {
      if (part.type !== "dynamic-tool" || part.state.startsWith("output")) return part;
      return { ...part, state: "output-error", errorText: "Stopped." } as const;
    });
    // the last text may stay open
    const last = { content, data, parts: stopped ?? null };
    const ended = this.#clock % 2 && stopped ? { ...last, parts: folded(last) } : last;
    const seq = state === this.row ? this.row.seq : this.#seq;
    this.#store({ status, seq, ...ended }, { large });
  }

  #thread(): Pick<Delta, "message_id" | "reply_to"> {
    return { message_id: this.row.id, reply_to: this.row.reply_to! };
  }

  #store(change: Partial<MessageRow>, { announced = true, large = false } = {}): void {
    this.#clock += 9;
    const row = { ...this.row, ...change, updated_at: timeAt(this.#clock) };
    this.row = row;
    const { attempt, seq, content, data, parts = null, updated_at } = row;
    this.#note(attempt, seq, { content, data, parts });
    this.events.push(large ? { hint: { attempt, updated_at }, row } : { row, announced });
  }

  #send(change: Partial<State>, piece: Partial<Delta>): void {
    this.#seq += 1;
    this.#state = { ...this.#state, ...change };
    const at = { attempt: this.row.attempt, seq: this.#seq };
    this.#note(at.attempt, at.seq, this.#state);
    this.events.push({ delta: { ...this.#thread(), ...at, ...piece } });
  }

  #note(attempt: number, seq: number, state: State): void {
    const key = `${attempt}:${seq}`;
    this.states.set(key, [...(this.states.get(key) ?? []), { ...state, parts: folded(state) }]);
  }
}

// The rules of parts, apart from `src/parts.ts`: what this does the slow way is what that must do.

function closedText({ parts }: State): string {
  return (parts ?? []).map((part) => (part.type === "text" ? part.text : "")).join("");
}

/** The parts with the text that is being written. */
export function folded(state: State): Part[] {
  const parts = [...(state.parts ?? [])];
  const open = state.content.replace(closedText(state), "");
  if (open) parts.push({ type: "text", text: open });
  return parts;
}

function placed(state: State, part: Part): Part[] {
  const key = (one: Part): unknown => (one.type === "dynamic-tool" ? one.toolCallId : "id" in one ? one.id : undefined);
  const parts = [...(state.parts ?? [])];
  const at = key(part) === undefined ? -1 : parts.findIndex((one) => key(one) === key(part));
  if (at < 0) return [...folded(state), part];
  parts[at] = part;
  return parts;
}

function reasoned(state: State, text: string): Part[] {
  const parts = folded(state);
  const last = parts.at(-1);
  if (last?.type === "reasoning") parts[parts.length - 1] = { ...last, text: last.text + text };
  else parts.push({ type: "reasoning", text });
  return parts;
}

function tool(toolName: string, toolCallId: string, input: string) {
  return { type: "dynamic-tool", toolName, toolCallId, input: { input } } as const;
}

const text = fc.string({ minLength: 1, maxLength: 3 });
const large = fc.integer({ min: 0, max: 3 }).map((n) => n === 0);

function steps<const Do extends string>(...names: Do[]) {
  return fc.record({ do: fc.constantFrom(...names), text, large });
}

/** One step in the history of a reply. */
export const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: steps("delta") },
  { weight: 2, arbitrary: steps("revise", "result", "zombie") },
  { weight: 4, arbitrary: steps("reason", "call", "return", "step", "show", "ask") },
  { weight: 3, arbitrary: steps("checkpoint", "claim", "answer") },
  { weight: 1, arbitrary: steps("release", "fail", "cancel", "orphan", "retry") },
);
