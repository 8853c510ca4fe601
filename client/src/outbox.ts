/**
 * The messages of one session on their way to the database: one at a time, in order, each under its own id.
 *
 * A message that finds no connection stays and is sent again, with a growing pause, or at once when `wake` is called.
 * A rejected one is not repeated, and does not hold up those behind it.
 */

import { backoff, messageOf } from "./poller.ts";
import type { Question, RequestError } from "./types.ts";

/** The pause after the first failure. */
const FIRST_PAUSE_MS = 1_000;

interface Item {
  message: Question;
  /** What must happen before the message is sent. Never rejects. */
  after: Promise<unknown> | undefined;
  /** Whether a request with the message is on its way, or about to be. */
  inFlight?: boolean;
  /** Whether the message is not sent again if the next answer is a failure. */
  givenUp?: boolean;
  /** Whether it is removed then. */
  discarded?: boolean;
  /** Resolves to whether the database has the message. */
  settled: Promise<boolean>;
  settle(arrived: boolean): void;
}

export class Outbox {
  readonly #insert: (message: Question) => Promise<void>;
  readonly #changed: () => void;
  readonly #items = new Map<string, Item>();
  #failures = 0;
  #running = false;
  #closed = false;
  /** Ends the current pause. */
  #resume: () => void = () => undefined;

  /** `insert` sends a message; it throws `RequestError`. `changed` is called after each change of `list()`. */
  constructor(insert: (message: Question) => Promise<void>, changed: () => void) {
    this.#insert = insert;
    this.#changed = changed;
  }

  /** The messages that the database has not confirmed, oldest first. */
  list(): Question[] {
    return Array.from(this.#items.values(), ({ message }) => message);
  }

  get(id: string): Question | undefined {
    return this.#items.get(id)?.message;
  }

  /** Sends a message, once `after` has resolved. Resolves to whether the database has it; never rejects. */
  send(message: Question, after?: Promise<unknown>): Promise<boolean> {
    const known = this.#items.get(message.id);
    if (known?.message.status === "sending") return known.settled; // the same id is the same message
    let settle!: (arrived: boolean) => void;
    const settled = new Promise<boolean>((resolve) => (settle = resolve));
    this.#items.set(message.id, { message, after, settled, settle });
    this.#changed();
    void this.#run();
    return settled;
  }

  /** Stops sending a message. Resolves to true if the database has it after all; otherwise it is `not_sent`. */
  giveUp(id: string): Promise<boolean> {
    const item = this.#items.get(id);
    if (item === undefined) return Promise.resolve(true);
    item.givenUp = true;
    if (!item.inFlight && this.#isSending(item)) {
      this.#fail(item, "not_sent", item.message.error?.message ?? "Stopped.");
      this.#changed();
    }
    return item.settled;
  }

  /** Removes a message. One that is on its way may arrive after all, so it stays until its answer is there. */
  discard(id: string): void {
    const item = this.#items.get(id);
    if (!item) return;
    item.givenUp = item.discarded = true;
    if (item.inFlight) return;
    this.#remove(item, false);
    this.#changed();
  }

  /** Removes a message whose row has been read or announced. A row may be announced before it can be read or cancelled. */
  confirm(id: string): void {
    const item = this.#items.get(id);
    this.#items.delete(id);
    if (item && !item.inFlight) this.#settle(item, true);
  }

  /** Sends what is waiting at once, because there may be a connection again. */
  wake(): void {
    this.#failures = 0;
    this.#resume();
  }

  /** Gives up what is waiting for a connection, and what waits behind it. What is being sent is still sent. */
  close(): void {
    this.#closed = true;
    if (this.list().some(({ status, error }) => status === "sending" && error !== null)) this.#giveUpAll();
    this.#resume();
  }

  /** None may arrive without those before it. */
  #giveUpAll(): void {
    for (const id of this.#items.keys()) void this.giveUp(id);
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    for (let item = this.#next(); item !== undefined; item = this.#next()) {
      item.inFlight = true;
      await item.after;
      if (await this.#attempt(item)) this.#failures = 0;
      else await this.#pause();
    }
    this.#running = false;
  }

  #next(): Item | undefined {
    return [...this.#items.values()].find((item) => this.#isSending(item));
  }

  #isSending(item: Item): boolean {
    return this.#items.get(item.message.id) === item && item.message.status === "sending";
  }

  /** Returns whether there was an answer. */
  async #attempt(item: Item): Promise<boolean> {
    let isAnswered = true;
    try {
      await this.#insert(item.message);
      this.#remove(item, true);
    } catch (error) {
      isAnswered = !(error as Partial<RequestError>).isRetryable;
      const mayRepeat = !isAnswered && !item.givenUp && !this.#closed;
      if (!this.#isSending(item)) this.#settle(item, true); // an event has shown that the message arrived after all
      else if (item.discarded) this.#remove(item, false);
      else this.#fail(item, mayRepeat ? "sending" : "not_sent", messageOf(error));
    }
    item.inFlight = false;
    if (!isAnswered && this.#closed) this.#giveUpAll();
    this.#changed();
    return isAnswered;
  }

  async #pause(): Promise<void> {
    this.#failures += 1;
    if (this.#closed || this.#next() === undefined) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, backoff(this.#failures, FIRST_PAUSE_MS));
      this.#resume = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #fail(item: Item, status: "sending" | "not_sent", message: string): void {
    item.message = { ...item.message, status, error: { code: "not_sent", message } };
    if (status === "not_sent") this.#settle(item, false);
  }

  #remove(item: Item, arrived: boolean): void {
    if (this.#items.get(item.message.id) === item) this.#items.delete(item.message.id);
    this.#settle(item, arrived);
  }

  #settle(item: Item, arrived: boolean): void {
    item.settle(arrived);
    if (this.#next() === undefined) this.#resume(); // the next message does not wait for the end of a pause
  }
}
