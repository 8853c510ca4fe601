/** Rows and events as the worker and the database make them, for tests. */

import type { CodeFileRow, Delta, MessageRow } from "../src/types.ts";

export function timeAt(step: number): string {
  // written as Postgres does: microseconds, without trailing zeros
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
  | { do: "claim" | "checkpoint" | "release" | "fail" | "cancel" | "done" | "retry" }
  | { do: "delta" | "revise" | "zombie"; text: string };

export type Event = { delta: Delta } | { row: MessageRow };

/** A reply's life: what was announced and readable on the way, and what was true at each `(attempt, seq)`. */
export class ReplyLife {
  readonly events: Event[] = [];
  /** The text after each delta, by `attempt:seq`. */
  readonly texts = new Map<string, string>();
  row: MessageRow = reply({ attempt: 0, status: "queued" });
  #text = "";
  #seq = 0;
  #clock = 0;
  #zombie: { attempt: number; seq: number; text: string } | null = null;

  constructor(steps: readonly Step[]) {
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
    switch (step.do) {
      case "claim": // also a takeover from a worker that vanished
        if (this.row.status !== "running" && this.row.status !== "queued") return;
        this.#zombie = running ? { attempt: this.row.attempt, seq: this.#seq, text: this.#text } : null;
        this.#text = "";
        this.#seq = 0;
        return this.#write({ attempt: this.row.attempt + 1, seq: 0, content: "", data: null, error: null, status: "running" });
      case "delta":
        if (!running) return;
        this.#text += step.text;
        return this.#send({ text: step.text });
      case "revise":
        if (!running) return;
        this.#text = step.text;
        return this.#send({ content: step.text });
      case "zombie": // a worker that lost its lease does not know it yet
        if (this.#zombie === null) return;
        this.#zombie.seq += 1;
        this.#zombie.text += step.text;
        this.texts.set(`${this.#zombie.attempt}:${this.#zombie.seq}`, this.#zombie.text);
        this.events.push({ delta: { message_id: "r", reply_to: "q", ...this.#zombie, text: step.text } });
        return;
      case "checkpoint":
        return running ? this.#write({ seq: this.#seq, content: this.#text }) : undefined;
      case "release":
        return running ? this.#write({ status: "queued" }) : undefined;
      case "fail":
      case "cancel": {
        const status = step.do === "fail" ? "failed" : "cancelled";
        return running ? this.#write({ status, seq: this.#seq, content: this.#text }) : undefined;
      }
      case "done": // the last text may not have been sent as a delta
        if (!running) return;
        this.#text += "!";
        return this.#write({ status: "done", seq: this.#seq + 1, content: this.#text });
      case "retry":
        if (this.row.status !== "failed" && this.row.status !== "cancelled") return;
        return this.#write({ status: "queued", error: null });
    }
  }

  #write(change: Partial<MessageRow>): void {
    this.#clock += 9;
    this.row = { ...this.row, ...change, updated_at: timeAt(this.#clock) };
    this.texts.set(`${this.row.attempt}:${this.row.seq}`, this.row.content);
    this.events.push({ row: this.row });
  }

  #send(piece: Partial<Delta>): void {
    this.#seq += 1;
    const at = { attempt: this.row.attempt, seq: this.#seq };
    this.texts.set(`${at.attempt}:${at.seq}`, this.#text);
    this.events.push({ delta: { message_id: "r", reply_to: "q", ...at, ...piece } });
  }
}
