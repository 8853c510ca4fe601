/**
 * The parts of a message. A row has those that are complete, and the text beyond their texts is being written.
 *
 * Nothing here changes a value.
 */

import type { MessageRow, Part, ToolPart } from "./types.ts";

type Written = Pick<MessageRow, "content" | "parts">;

/** The text that is in no part yet. */
export function openText({ content, parts }: Written): string {
  return content.slice(parts?.reduce((at, part) => at + (part.type === "text" ? part.text.length : 0), 0));
}

/** The parts with the text that is being written, which comes last. */
export function partsOf(message: Written): Part[] {
  const text = openText(message);
  return [...(message.parts ?? []), ...(text === "" ? [] : [{ type: "text", text } as const])];
}

/** Whether the part is a question to the user that has no answer yet. */
export function isAsk(part: Part): part is ToolPart {
  return part.type === "dynamic-tool" && part.state === "approval-requested";
}
