const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
/** A line that may continue the block before a blank line: a list item, or indented text. */
const CONTINUES = /^(\s|[-*+]\s|\d{1,9}[.)]\s)/;
const DEFINITION = /^ {0,3}\[[^\]]+\]:/m;

/**
 * Splits Markdown into blocks that can be rendered separately, so that only the last one changes while text streams
 * in. Text with link or footnote definitions is one block, because they apply to all of it.
 */
export function splitBlocks(text: string): string[] {
  if (DEFINITION.test(text)) return [text];
  const blocks: string[] = [];
  let lines: string[] = [];
  let fence: string | null = null;
  let blank = false;
  for (const line of text.split("\n")) {
    if (fence === null && blank && line.trim() !== "" && !CONTINUES.test(line) && lines.length > 0) {
      blocks.push(lines.join("\n"));
      lines = [];
    }
    const [, marker, rest] = FENCE.exec(line) ?? [];
    if (marker !== undefined) {
      if (fence === null) fence = marker;
      else if (marker.startsWith(fence) && rest!.trim() === "") fence = null;
    }
    blank = line.trim() === "";
    lines.push(line);
  }
  if (lines.some((line) => line.trim() !== "")) blocks.push(lines.join("\n"));
  return blocks;
}
