/**
 * The parts of a message. A row has those that are complete; text beyond their texts is being written.
 *
 * Nothing here changes a value.
 */

import type { MessageRow, Part, ToolPart } from "./types.ts";

type Written = Pick<MessageRow, "content" | "parts">;
type Key = string | undefined;

/** The parts with the text that is being written, which comes last. */
export function partsOf(message: Written): Part[] {
  const text = openText(message);
  return [...(message.parts ?? []), ...(text === "" ? [] : [{ type: "text", text } as const])];
}

/** The complete parts after this one has come: it replaces the one with its key, or closes the text and is appended. */
export function withPart(message: Written, part: Part): Part[] {
  const key = keyOf(part);
  const isIts = (other: Part): boolean => key !== undefined && keyOf(other) === key;
  return message.parts?.some(isIts) ? message.parts.map((other) => (isIts(other) ? part : other)) : [...partsOf(message), part];
}

/** The complete parts after a piece of reasoning has come. */
export function withReasoning(message: Written, text: string): Part[] {
  const parts = partsOf(message);
  const last = parts[parts.length - 1];
  if (last?.type !== "reasoning") return [...parts, { type: "reasoning", text }];
  return [...parts.slice(0, -1), { ...last, text: last.text + text }];
}

/** Whether the part is a question to the user that has no answer yet. */
export function isAsk(part: Part): part is ToolPart {
  return part.type === "dynamic-tool" && part.state === "approval-requested";
}

/** The text that is in no part yet. */
function openText({ content, parts }: Written): string {
  return content.slice(parts?.reduce((at, part) => at + (part.type === "text" ? part.text.length : 0), 0));
}

function keyOf(part: Part): Key {
  const { toolCallId, id } = part as { toolCallId?: Key; id?: Key };
  return toolCallId ?? id;
}
