/** The chunks of a reply, as the AI SDK reads them: at each moment they are the message of the row. */

import { lastAssistantMessageIsCompleteWithApprovalResponses, readUIMessageStream, type UIMessage, type UIMessageChunk } from "ai";
import fc from "fast-check";
import { expect, test } from "vitest";
import { toUIMessage } from "../src/ai.ts";
import { ReplyChunks } from "../src/chunks.ts";
import { UNKNOWN, hasEnded, mergeDelta, mergeHint, mergeRow } from "../src/merge.ts";
import { partsOf } from "../src/parts.ts";
import type { MessageRow, Part, SessionSnapshot } from "../src/types.ts";
import { ReplyLife, question, step } from "./world.ts";

let count = 0;

/** A stream of one reply, and the AI SDK at its other end. */
class Reader {
  message: UIMessage | undefined;
  started = false;
  finished: string | undefined;
  readonly #chunks: ReplyChunks;
  readonly #messages: AsyncIterator<UIMessage>;
  #controller!: ReadableStreamDefaultController<UIMessageChunk>;

  /** `message`: the one that the stream continues. */
  constructor(message?: UIMessage) {
    this.message = message;
    this.#chunks = new ReplyChunks("q", [], message && (message.parts.filter(({ type }) => type !== "data-result") as Part[]));
    const stream = new ReadableStream<UIMessageChunk>({ start: (controller) => void (this.#controller = controller) });
    const onError = (error: unknown): void => {
      if (!`${error}`.includes("The reply failed.")) throw error;
    };
    const options = { stream, onError, ...(message && { message: structuredClone(message) }) };
    this.#messages = readUIMessageStream(options)[Symbol.asyncIterator]();
  }

  get ended(): boolean {
    return this.#chunks.ended;
  }

  /** Sends what is new, and reads it to its end. */
  async show(row: MessageRow): Promise<void> {
    const messages = [question(), { ...row, parts: partsOf(row) }] as readonly unknown[] as SessionSnapshot["messages"];
    for (const chunk of this.#chunks.next({ messages } as SessionSnapshot)) {
      this.started ||= chunk.type === "start";
      if (chunk.type === "finish" || chunk.type === "abort" || chunk.type === "error") this.finished = chunk.type;
      this.#controller.enqueue(chunk);
    }
    const at = ++count; // of all readers, because a continued message has that of the one before
    this.#controller.enqueue({ type: "message-metadata", messageMetadata: { at } });
    do this.message = (await this.#messages.next()).value as UIMessage;
    while ((this.message.metadata as { at: number } | undefined)?.at !== at);
  }
}

/**
 * What is compared: not the states of texts, what has no content, approvals without an answer, nor where the structured
 * result is. `row`: the one that the message is of. If a takeover has dropped its result, that of a finished step stays
 * until there is another.
 */
function comparable({ parts }: Pick<UIMessage, "parts">, row: MessageRow): unknown[] {
  const plain = parts.map((part) => {
    const { state, id, providerMetadata: _, approval, ...rest } = part as Record<string, unknown>;
    if ((approval as { approved?: boolean } | undefined)?.approved !== undefined) rest["approval"] = approval;
    const isText = part.type === "text" || part.type === "reasoning";
    return JSON.parse(JSON.stringify(isText ? rest : { ...rest, id, state })) as Part;
  });
  const results = plain.filter(({ type }) => type === "data-result" && row.data !== null);
  const others = plain.filter(({ type }) => type !== "data-result");
  // a step without anything in it shows nothing
  const steps = others.filter(({ type }, at) => type !== "step-start" || (at > 0 && at < others.length - 1 && others[at - 1]!.type !== type));
  return [...steps, ...results];
}

/** The row's message, with what the reader knows of a call although a later attempt has it still to show. */
function wanted(row: MessageRow, message: UIMessage): unknown[] {
  const states = ["input-available", "approval-requested", "approval-responded"];
  const rank = (state: string): number => (states.indexOf(state) + 4) % 4;
  const parts = toUIMessage(row).parts.map((part) => {
    if (part.type !== "dynamic-tool") return part;
    const known = message.parts.find((one) => one.type === "dynamic-tool" && one.toolCallId === part.toolCallId);
    return known?.type === "dynamic-tool" && rank(known.state) > rank(part.state) ? known : part;
  });
  return comparable({ parts }, row);
}

/** The message after the user has answered its questions in `useChat`. */
function answered(message: UIMessage, approved: boolean): UIMessage {
  const parts = message.parts.map((part) => {
    if (part.type !== "dynamic-tool" || part.state !== "approval-requested") return part;
    return { ...part, state: "approval-responded", approval: { ...part.approval, approved } } as const;
  });
  return { ...message, parts };
}

async function play({ events }: ReplyLife, choices: readonly number[]): Promise<void> {
  let entry = UNKNOWN;
  let reader = new Reader();
  for (const [at, event] of events.entries()) {
    if ("delta" in event) entry = mergeDelta(entry, event.delta);
    else if ("hint" in event) entry = mergeRow(mergeHint(entry, event.hint), event.row);
    else entry = mergeRow(entry, event.row);
    const row = entry.message!;
    const choice = choices[at % choices.length]!;
    if (choice > 12 && row.status === "running") continue; // several changes at once
    const isOver = reader.finished !== undefined && reader.finished !== "finish";
    // a page that is loaded anew, a second tab, or a retry
    if (choice === 0 || (isOver && !hasEnded(row))) reader = new Reader();
    else if (reader.finished === "finish" && choice < 3) reader = new Reader(answered(reader.message!, choice === 1));
    if (reader.ended) {
      if (hasEnded(row)) reader.finished = "missed";
      continue;
    }
    await reader.show(row);
    expect(reader.started || row.status === "queued").toBe(true);
    if (!reader.started) continue;
    const message = reader.message!;
    expect(comparable(message, row)).toEqual(wanted(row, message));
    expect(message.id).toBe("r");
    if (reader.finished === "finish" && row.status !== "done") {
      expect(row.status).toBe("waiting");
      expect(lastAssistantMessageIsCompleteWithApprovalResponses({ messages: [message] })).toBe(false);
      expect(lastAssistantMessageIsCompleteWithApprovalResponses({ messages: [answered(message, true)] })).toBe(true);
    }
  }
  if (reader.ended) reader = new Reader();
  const last = entry.message!;
  await reader.show(last);
  expect(comparable(reader.message!, last)).toEqual(comparable(toUIMessage(last), last));
}

test("at each moment the AI SDK has the message of the row", { timeout: 120_000 }, async () => {
  const life = fc.array(step, { maxLength: 40 }).map((steps) => new ReplyLife(steps));
  await fc.assert(fc.asyncProperty(life, fc.array(fc.nat(14), { minLength: 1, maxLength: 30 }), play), { numRuns: 1_000 });
});
