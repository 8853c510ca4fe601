/** Replies are split into parts that are cheap to render: the parser of Markdown takes seconds for some text. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MAX_DEPTH, MAX_PLAIN, MAX_SECTIONS, MAX_WEIGHT, pieces, split, weightOf, type Block } from "../../web/src/blocks.ts";

/** What makes a parser slow when it is repeated, nested, left open or joined. */
const MARKS = [
  ..."> - * + 1. [ ] ( ) ![ [^a] [a] [a]: [^a]: * ** *** _ __ ~ ~~ ` `` ``` ~~~ | |- |a # = --- < <a <!-- </ & \\".split(" "),
  ...["\n", "\n\n", " ", "    ", "\t", "a", "a ", "- [ ] ", "www.a.b", "http://a ", "a@b.c ", "```\n", "> ```\n", "|-|-|\n", "<div>\n", "\ud83d\ude00"],
];
const mark = fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...MARKS) }, { weight: 1, arbitrary: fc.string({ maxLength: 5 }) });
/** A few marks, repeated many times; several of these in a row. */
const hostile = fc
  .array(fc.tuple(fc.array(mark, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 3_000 })), { minLength: 1, maxLength: 4 })
  .map((parts) => parts.map(([marks, times]) => marks.join("").repeat(times)).join(""));
const small = fc.array(mark, { maxLength: 60 }).map((marks) => marks.join(""));

const blocksOf = (text: string): Block[] => split(text).sections.flatMap(({ blocks }) => blocks);
/** The weight that is parsed. What `split` may add: a table's head, and definitions. */
const parsed = ({ kind, text }: Block): number =>
  kind === "markdown" ? text.split("\n").reduce((sum, line) => sum + weightOf(line), 0) : 0;
const depth = (line: string): number => /^([ \t]*(>|([-*+]|\d{1,9}[.)])(?=\s|$)))*/.exec(line)![0].match(/>|[-*+]|\d+[.)]/g)?.length ?? 0;
const words = (text: string): string[] => text.match(/[a-z\u{1f600}]/gu) ?? [];

test("no hostile text is parsed in heavy or deep parts, or in too many", () => {
  fc.assert(
    fc.property(hostile, (text) => {
      const { sections } = split(text);
      expect(sections.length).toBeLessThanOrEqual(MAX_SECTIONS + 1);
      for (const { blocks } of sections) {
        const weights = blocks.map(parsed);
        expect(weights.reduce((sum, weight) => sum + weight, 0)).toBeLessThanOrEqual(3 * MAX_WEIGHT);
        for (const { kind, text: part } of blocks) {
          if (kind === "markdown") for (const line of part.split("\n")) expect(depth(line)).toBeLessThanOrEqual(MAX_DEPTH);
        }
      }
    }),
    { numRuns: 300 },
  );
});

test("nothing of a text is lost", () => {
  fc.assert(
    fc.property(fc.oneof(hostile, small), (text) => {
      fc.pre(!/(```|~~~)[^\n]*\S\s+\S/.test(text)); // only the first word after a fence is the language
      // in order, but for what is added: heads of tables, definitions
      const found = blocksOf(text).map((block) => (block.kind === "code" ? block.language : "") + block.text).join("\n");
      const shown = words(found);
      let at = 0;
      for (const word of words(text)) {
        at = shown.indexOf(word, at) + 1;
        if (at === 0) throw new Error(`${word} is missing in ${JSON.stringify(found.slice(0, 500))}`);
      }
    }),
    { numRuns: 300 },
  );
});

test("a text that grows is split as one that is whole, and keeps its sections", () => {
  fc.assert(
    fc.property(fc.oneof(hostile.map((text) => text.slice(0, 3_000)), small), fc.integer({ min: 7, max: 400 }), (text, step) => {
      let grown = split("");
      for (let at = step; at < text.length + step; at += step) {
        const next = split(text.slice(0, at), grown);
        if (next.notes === grown.notes) {
          for (const [index, section] of grown.sections.slice(0, -2).entries()) expect(next.sections[index]).toBe(section);
        }
        grown = next;
      }
      expect(grown.sections).toEqual(split(text).sections);
    }),
    { numRuns: 200 },
  );
});

test("pieces are short, and are the text", () => {
  fc.assert(
    fc.property(hostile, (text) => {
      const found = pieces(text);
      expect(found.join("")).toBe(text);
      for (const piece of found) {
        expect(piece.length).toBeLessThanOrEqual(MAX_PLAIN);
        expect(() => encodeURIComponent(piece)).not.toThrow(); // no half of an emoji
      }
    }),
    { numRuns: 200 },
  );
});

describe("ordinary Markdown", () => {
  test("keeps its blocks whole", () => {
    const text = "# One\n\nFirst *words*.\n\n1. a\n\n2. b\n\n```py\nimport os\n\nprint(os)\n```\n\nEnd.";
    expect(blocksOf(text)).toEqual([
      { kind: "markdown", text: "# One\n" },
      { kind: "markdown", text: "First *words*.\n\n1. a\n\n2. b\n" },
      { kind: "code", text: "import os\n\nprint(os)", language: "py" },
      { kind: "markdown", text: "End." },
    ]);
  });

  test("that is a long list is cut between items", () => {
    const text = Array.from({ length: 200 }, (_, n) => `${n + 1}. item *${n}*\n   more of it`).join("\n");
    const blocks = blocksOf(text);
    expect(blocks.length).toBeGreaterThan(5);
    for (const block of blocks) expect(block.text).toMatch(/^\d+\. /);
  });

  test("that is a long table has its head in every part", () => {
    const text = `| a | b |\n|---|---|\n${"| 1 | 2 |\n".repeat(200)}`;
    const blocks = blocksOf(text);
    expect(blocks.length).toBeGreaterThan(5);
    for (const block of blocks) expect(block.text).toMatch(/^\| a \| b \|\n\|---\|---\|\n/);
  });

  test("takes its definitions along", () => {
    const [first, second] = blocksOf("See [this][1].\n\nAnd [^n].\n\n[1]: https://example.com\n\n[^n]: a note");
    expect(first!.text).toContain("\n\n[1]: https://example.com");
    expect(first!.text).not.toContain("a note");
    expect(second!.text).toContain("\n\n[^n]: a note");
  });
});
