/** Rows and events as the worker and the database produce them. */

import fc from "fast-check";
import type { CodeFileRow, Delta, MessageRow } from "../src/types.ts";

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
  | { do: "delta" | "revise" | "result" | "zombie"; text: string; large?: boolean };

/** A delta, a row, or a row that is too large to announce. Checkpoints are not announced, only read. */
export type Event =
  | { delta: Delta }
  | { row: MessageRow; announced: boolean }
  | { hint: { attempt: number; updated_at: string }; row: MessageRow };

/** The contents of a reply at one `(attempt, seq)`. */
export type State = Pick<MessageRow, "content" | "data">;

/** The history of a reply: its announced and readable events, and its contents at each `(attempt, seq)`. */
export class ReplyLife {
  readonly events: Event[] = [];
  /** By `attempt:seq`. */
  readonly states = new Map<string, State>();
  row: MessageRow;
  #state: State = { content: "", data: null };
  #seq = 0;
  #clock = 0;
  #zombie: ({ attempt: number; seq: number } & State) | null = null;

  constructor(steps: readonly Step[], thread: { id?: string; reply_to?: string; ordinal?: number } = {}) {
    this.row = reply({ ...thread, attempt: 0, status: "queued" });
    this.#step({ do: "claim" });
    for (const step of steps) this.#step(step);
    if (this.row.status !== "running") {
      this.#step({ do: "retry" });
      this.#step({ do: "claim" });
    }
    this.#step({ do: "delta", text: "the end" });
    this.#step({ do: "done" });
  }

  #step(step: Step): void {
    const running = this.row.status === "running";
    const large = "large" in step && step.large === true;
    switch (step.do) {
      case "claim": // or a takeover from a dead worker
        if (this.row.status !== "running" && this.row.status !== "queued") return;
        this.#zombie = running ? { attempt: this.row.attempt, seq: this.#seq, ...this.#state } : null;
        this.#state = { content: "", data: null };
        this.#seq = 0;
        return this.#write({ attempt: this.row.attempt + 1, seq: 0, ...this.#state, error: null, status: "running" });
      case "delta":
        return running ? this.#send({ content: this.#state.content + step.text }, { text: step.text }) : undefined;
      case "revise":
        if (!running) return;
        return this.#send({ content: step.text }, large ? { omitted: ["content"] } : { content: step.text });
      case "result": {
        if (!running) return;
        const data = { value: step.text };
        return this.#send({ data }, large ? { omitted: ["data"] } : { data });
      }
      case "zombie": { // a worker that has lost its lease but does not know it yet
        if (this.#zombie === null) return;
        this.#zombie.seq += 1;
        this.#zombie.content += step.text;
        const { attempt, seq, content, data } = this.#zombie;
        this.states.set(`${attempt}:${seq}`, { content, data });
        this.events.push({ delta: { ...this.#thread(), attempt, seq, text: step.text } });
        return;
      }
      case "checkpoint":
        return running ? this.#write({ seq: this.#seq, ...this.#state }, { announced: false }) : undefined;
      case "release":
        return running ? this.#write({ status: "queued" }, { large }) : undefined;
      case "orphan": // cancelled after its worker died: the last checkpoint is all that is left
        return running ? this.#write({ status: "cancelled" }) : undefined;
      case "fail":
      case "cancel": {
        const status = step.do === "fail" ? "failed" : "cancelled";
        return running ? this.#write({ status, seq: this.#seq, ...this.#state }, { large }) : undefined;
      }
      case "done": // the last text may not have had a delta
        if (!running) return;
        this.#state = { ...this.#state, content: `${this.#state.content}!` };
        return this.#write({ status: "done", seq: this.#seq + 1, ...this.#state }, { large });
      case "retry":
        if (this.row.status !== "failed" && this.row.status !== "cancelled") return;
        return this.#write({ status: "queued", error: null }, { large });
    }
  }

  #thread(): Pick<Delta, "message_id" | "reply_to"> {
    return { message_id: this.row.id, reply_to: this.row.reply_to! };
  }

  #write(change: Partial<MessageRow>, { announced = true, large = false } = {}): void {
    this.#clock += 9;
    const row = { ...this.row, ...change, updated_at: timeAt(this.#clock) };
    this.row = row;
    this.states.set(`${row.attempt}:${row.seq}`, { content: row.content, data: row.data });
    const { attempt, updated_at } = row;
    this.events.push(large ? { hint: { attempt, updated_at }, row } : { row, announced });
  }

  #send(change: Partial<State>, piece: Partial<Delta>): void {
    this.#seq += 1;
    this.#state = { ...this.#state, ...change };
    const at = { attempt: this.row.attempt, seq: this.#seq };
    this.states.set(`${at.attempt}:${at.seq}`, this.#state);
    this.events.push({ delta: { ...this.#thread(), ...at, ...piece } });
  }
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
  { weight: 3, arbitrary: steps("checkpoint", "claim") },
  { weight: 1, arbitrary: steps("release", "fail", "cancel", "orphan", "retry") },
);
