import type { Message } from "supabase-baml-bridge-client";
import type { Answer } from "./asks.ts";

/** The actions of messages. */
export interface MessageActions {
  /** Starts a new attempt of a reply. */
  retry(id: string): void;
  /** Sends an unsent message again. */
  resend(id: string): void;
  /** Stops sending a message that waits. */
  withdraw(id: string): void;
  /** Edits a question. */
  edit(message: Message): void;
  /** Answers what a reply asks. Resolves to what the database said of the answer. */
  answer(id: string, ask: string, answer: Answer): Promise<string>;
}
