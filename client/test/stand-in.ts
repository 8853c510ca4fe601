/** A fake `Backend` in memory. */

import { expect } from "vitest";
import type { Backend, NewFile, NewMessage } from "../src/backend.ts";
import { hasEnded } from "../src/merge.ts";
import { isAsk } from "../src/parts.ts";
import type { TopicListener } from "../src/topic.ts";
import {
  RequestError,
  type Answer,
  type CodeFileRow,
  type CodeFileVersion,
  type Delta,
  type MessageRow,
  type SessionRow,
} from "../src/types.ts";
import { file, question, timeAt } from "./world.ts";

/** One session, and the list that it is in. */
export class Supabase implements Backend {
  rows = new Map<string, MessageRow>();
  files: CodeFileRow[] = [];
  reads = 0;
  refuse: RequestError | null = null;
  refuseReads: RequestError | null = null;
  listener: TopicListener | null = null;
  calls: string[] = [];
  /** The duration of each insert, in ms. */
  delays: number[] = [];
  /** The outcome of each read of messages: its delay in ms, and whether the response is lost. */
  responses: { delay: number; lost: boolean }[] = [];

  /** Whether an answer comes too late. */
  isLate = false;
  #clock = 1_000;

  set(row: MessageRow, announced = true): void {
    this.rows.set(row.id, row);
    if (announced) this.send("message", row);
  }

  send(event: string, payload: object): void {
    this.listener?.onEvent(event, structuredClone(payload));
  }

  delta(seq: number, text: string, more: Partial<Delta> = {}): void {
    this.send("delta", { message_id: "r", reply_to: "q", attempt: 1, seq, text, ...more });
  }

  async readSessions(): Promise<SessionRow[]> {
    this.reads += 1;
    if (this.refuse) throw this.refuse;
    return [];
  }

  async insertSession(): Promise<SessionRow> {
    throw new Error("not supported");
  }

  async updateSession(): Promise<SessionRow | null> {
    return null;
  }

  async deleteSession(id: string): Promise<void> {
    this.calls.push(`delete ${id}`);
  }

  async readPage(_session: string, before: number | null, limit: number): Promise<MessageRow[]> {
    const rows = (await this.#read()).filter((row) => before === null || row.ordinal < before);
    return rows.sort((a, b) => b.ordinal - a.ordinal).slice(0, Math.min(limit, 1_000));
  }

  async readMessages(_session: string, ids: readonly string[], after: number): Promise<MessageRow[]> {
    const wanted = (row: MessageRow) =>
      row.ordinal > after || ids.includes(row.id) || (row.reply_to !== null && ids.includes(row.reply_to));
    return (await this.#read()).filter(wanted);
  }

  async readFiles(): Promise<CodeFileRow[]> {
    if (this.refuse) throw this.refuse;
    return structuredClone(this.files);
  }

  async readFile(id: string): Promise<CodeFileRow | null> {
    return structuredClone(this.files.find((row) => row.id === id) ?? null);
  }

  async insertFile(values: NewFile): Promise<CodeFileRow> {
    if (this.refuse) throw this.refuse;
    this.files.push(file({ ...values, id: `f${this.files.length}`, message_id: null }));
    return structuredClone(this.files.at(-1)!);
  }

  async updateFile(id: string, revision: number, content: string): Promise<CodeFileRow | null> {
    const row = this.files.find((candidate) => candidate.id === id && candidate.revision === revision);
    if (row === undefined) return null;
    Object.assign(row, { content, revision: revision + 1, updated_at: timeAt(revision + 100) });
    return structuredClone(row);
  }

  async deleteFile(id: string): Promise<void> {
    this.files = this.files.filter((row) => row.id !== id);
  }

  async readVersions(fileId: string): Promise<CodeFileVersion[]> {
    this.calls.push(`versions ${fileId}`);
    return [];
  }

  async readVersion(id: number): Promise<string> {
    return `version ${id}`;
  }

  async insertMessage({ id, content, data, attachments: named, model = null }: NewMessage): Promise<MessageRow> {
    const delay = this.delays.shift();
    if (delay !== undefined) await new Promise((resolve) => setTimeout(resolve, delay));
    this.calls.push(`insert ${content}`);
    if (this.refuse) throw this.refuse;
    const ordinal = 2 * this.rows.size + 2;
    const attachments = (named as { path: string; name: string }[] | undefined)?.map((one) => ({ ...one, type: this.objects.get(one.path)!.type, size: 1 }))  ?? null;
    const row = this.rows.get(id) ?? question({ id, content, ordinal, data: data ?? null, attachments, model });
    this.set(row);
    return structuredClone(row);
  }

  async cancelMessage(id: string): Promise<void> {
    this.calls.push(`cancel ${id}`);
    if (this.refuse) throw this.refuse;
  }

  async retryMessage(id: string): Promise<void> {
    this.calls.push(`retry ${id}`);
  }

  async answerMessage(id: string, ask: string, answer: Answer): Promise<string> {
    this.calls.push(`answer ${id} ${ask} ${JSON.stringify(answer)}`);
    if (this.refuse) throw this.refuse;
    const row = this.rows.get(id)!;
    const part = row.parts?.find((one) => one.type === "dynamic-tool" && one.toolCallId === ask);
    if (part?.type !== "dynamic-tool") throw new RequestError("Nothing of this name was asked.", "PT404");
    if (hasEnded(row)) return row.status;
    if (part.state !== "approval-requested") return "answered";
    if (this.isLate) return "late";
    const approval = { id: ask, approved: answer["approved"] === true };
    const parts = row.parts!.map((one) => (one === part ? { ...part, state: "approval-responded", approval } as const : one));
    const status = parts.some(isAsk) ? "waiting" : "queued";
    this.change(id, { parts, status });
    return "taken";
  }

  /** Changes a reply, and the status of its question. */
  change(id: string, values: Partial<MessageRow>): void {
    const updated_at = timeAt(this.#clock++);
    const row = { ...this.rows.get(id)!, ...values, updated_at };
    this.set({ ...this.rows.get(row.reply_to!)!, status: row.status, updated_at });
    this.set(row);
  }

  /** The stored files, by path. */
  objects = new Map<string, { type: string; file: Blob }>();

  async upload(path: string, file: Blob, type: string): Promise<void> {
    this.calls.push(`upload ${type}`);
    if (this.refuse) throw this.refuse;
    this.objects.set(path, { type, file });
  }

  listen(topic: string, listener: TopicListener): () => void {
    expect(["session:s", "user:u"]).toContain(topic);
    this.listener = listener;
    return () => (this.listener = null);
  }

  async #read(): Promise<MessageRow[]> {
    this.reads += 1;
    if (this.refuse ?? this.refuseReads) throw this.refuse ?? this.refuseReads;
    const rows = structuredClone([...this.rows.values()]);
    const response = this.responses.shift();
    if (response) await new Promise((resolve) => setTimeout(resolve, response.delay));
    if (response?.lost) throw new RequestError("Could not reach the server.");
    return rows;
  }
}
