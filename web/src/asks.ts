/** How the page answers a reply's question, and what it says of an answer. */

import type { AskItem } from "./items.ts";

export type Answer = { approved: boolean; choice?: string };

export interface Option {
  readonly label: string;
  readonly answer: Answer;
}

/** The answers to choose from. */
export function optionsOf({ choices }: Pick<AskItem, "choices">): readonly Option[] {
  if (choices.length > 0) return choices.map((choice) => ({ label: choice, answer: { approved: true, choice } }));
  return [
    { label: "Approve", answer: { approved: true } },
    { label: "Reject", answer: { approved: false } },
  ];
}

/**
 * What became of a question; null: it is open. `given` is what was answered here: the row tells a choice only once the
 * reply has gone on.
 */
export function outcomeOf({ state, choice, error }: AskItem, given: Answer | null): string | null {
  const chosen = choice ?? given?.choice;
  if (state === "ended") return error || "Not answered";
  if (state === "open" && given === null) return null;
  if (chosen !== undefined) return `You chose “${chosen}”`;
  if (state === "answered") return "You answered";
  return state === "approved" || (state === "open" && given?.approved) ? "You approved" : "You rejected";
}

/** Why an answer was not taken, by what the database said of it. Null: it was. */
export function refusalOf(said: string): string | null {
  switch (said) {
    case "taken":
      return null;
    case "answered":
      return "This has already been answered.";
    case "late":
      return "The time to answer has ended.";
    case "cancelled":
      return "The reply was stopped before your answer arrived.";
    default:
      return "The reply has ended and needs no answer any more.";
  }
}
