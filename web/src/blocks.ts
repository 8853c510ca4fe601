/**
 * Splits a reply into parts that are cheap to render, however long and however deeply nested it is.
 *
 * A Markdown parser may take seconds for a thousand nested quotes or a table of a thousand columns. So every line is
 * weighed before it is parsed. A block that gets too heavy is cut, and what cannot be cut, or is nested too deeply, is
 * plain text.
 */

/** A part that is rendered by itself. Code is a fenced block, without its fences. */
export type Block =
  | { readonly kind: "markdown" | "plain"; readonly text: string }
  | { readonly kind: "code"; readonly text: string; readonly language: string };

/** Blocks that are rendered in one go. */
export interface Section {
  readonly blocks: readonly Block[];
  /** Where it starts in the text, */
  readonly start: number;
  /** and if that is within a table, the lines of the table's head. */
  readonly head: readonly Line[];
}

/** The sections of a text. Only the last two depend on what is still to come. */
export interface Split {
  readonly text: string;
  readonly sections: readonly Section[];
  readonly notes: Definitions;
}

/** The most that is parsed at once: about 10 ms, as a third of a page of dense Markdown does. */
export const MAX_WEIGHT = 200;
/** The most quotes and list items within each other. */
export const MAX_DEPTH = 12;
/** After so many sections the text is plain. */
export const MAX_SECTIONS = 120;
/** The most characters of plain text, or of code, in one element. */
export const MAX_PLAIN = 4_000;
const MAX_LINES = 500;
/** What a block weighs besides its lines. */
const BLOCK_WEIGHT = 10;
/** What a fence, or the head of a table, weighs besides: code and tables have a frame. */
const FRAME_WEIGHT = 15;
/** What any line weighs: an item of a list, or a paragraph. */
const LINE_WEIGHT = 3;

/** What a formula weighs besides: it is drawn in some thirty elements. */
const FORMULA_WEIGHT = 5;
/** A longer formula is not looked for. */
const MAX_FORMULA = 10_000;

// `[^]`, as a carriage return ends a `.`, and every shorter fence would be tried
const FENCE = /^ {0,3}(`{3,}|~{3,})([^]*)$/;
/** A line that may continue the block before a blank line: a list item, or indented text. */
const CONTINUES = /^(\s|[-*+]\s|\d{1,9}[.)]\s)/;
const ITEM = /^([-*+]|\d{1,9}[.)])(\s|$)/;
/** One marker of a quote or a list item, at the start of a line or after another one. */
const MARKER = /[ \t]*(?:>|[-*+](?=\s|$)|\d{1,9}[.)](?=\s|$))/y;
const DELIMITERS = /^[\s|:>-]*$/;

/** A line where a displayed formula starts, perhaps within quotes and items. */
const FORMULA = /^((?:[ \t>]|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))*)(\$\$|\\\[)([^]*)$/;
/** What may end a formula, and what does not: an escaped character. */
const FORMULA_END = /\\[^]|\$\$/g;
/** What no formula contains: code, and if text follows its opening, a blank line. */
const FENCED = /^[ \t>]*(?:```|~~~)/gm;
const BLANK = /\n[ \t>]*\n/g;
const OPENS_FORMULA = /\$|\\[([]/g;

/** Whether a line may be the second one of a table, which has a cell for each column. */
function isDelimiters(line: string): boolean {
  return line.includes("-") && line.includes("|") && DELIMITERS.test(line);
}

/** Whether a line opens or continues too many quotes and list items. */
function isDeep(line: string): boolean {
  MARKER.lastIndex = 0;
  for (let depth = 0; depth <= MAX_DEPTH; depth++) if (!MARKER.test(line)) return false;
  return true;
}

/** What a line costs to parse: a unit for a character with a meaning, and less for others. */
export function weightOf(line: string): number {
  let marks = 0;
  for (let at = 0; at < line.length; at++) {
    const code = line.charCodeAt(at);
    const isPlain = code === 32 || (code >= 48 && code < 58) || (code >= 97 && code < 123) || (code >= 65 && code < 91);
    if (!isPlain && code < 128) marks += 1;
  }
  const indent = line.length - line.trimStart().length;
  const isFrame = line.includes("```") || line.includes("~~~") || isDelimiters(line);
  const formulas = line.includes("$") || line.includes("\\") ? (line.match(OPENS_FORMULA)?.length ?? 0) : 0;
  return LINE_WEIGHT + (isFrame ? FRAME_WEIGHT : 0) + formulas * FORMULA_WEIGHT + marks + Math.ceil(indent / 2) + Math.floor(line.length / 40);
}

/** Splits `text`. What `before` has of its sections is kept, as the same objects. */
export function split(text: string, before: Split | null = null): Split {
  if (text === before?.text) return before;
  const notes = definitionsIn(text, before);
  // the last line may have been half a line, and then the last section may have started elsewhere
  const last = before?.sections.at(-2);
  if (before === null || last === undefined || notes !== before.notes || !text.startsWith(before.text.slice(0, last.start))) {
    return { text, notes, sections: sectionsOf(text, { blocks: [], start: 0, head: [] }, 0, notes) };
  }
  const kept = before.sections.slice(0, -2);
  return { text, notes, sections: [...kept, ...sectionsOf(text, last, kept.length, notes)] };
}

/** The sections of `text` from the start of `first`. `count` of them come before. */
function sectionsOf(text: string, first: Section, count: number, notes: Definitions): Section[] {
  const sections: Section[] = [];
  let { start, head } = first;
  let blocks: Block[] = [];
  let sum = 0;
  for (const { block, weight, ...place } of blocksOf(text, start, head)) {
    if (sum + weight > MAX_WEIGHT && blocks.length > 0) {
      sections.push({ blocks, start, head });
      ({ start, head } = place);
      blocks = [];
      sum = 0;
    }
    if (count + sections.length === MAX_SECTIONS) {
      blocks.push({ kind: "plain", text: text.slice(start) });
      break;
    }
    blocks.push(withDefinitions(block, notes));
    sum += weight;
  }
  if (blocks.length > 0) sections.push({ blocks, start, head });
  return sections;
}

interface Weighed {
  block: Block;
  weight: number;
  /** Where the block starts. */
  start: number;
  head: readonly Line[];
}

interface Line {
  readonly text: string;
  readonly at: number;
  readonly weight: number;
}

function* blocksOf(text: string, from: number, head: readonly Line[]): Generator<Weighed> {
  const open = new OpenBlock(head);
  let code: { fence: string; language: string; at: number; from: number } | null = null;
  const formulaAt = formulasIn(text);
  let blank = false;
  for (let at = from, next; at < text.length; at = next) {
    const end = text.indexOf("\n", at);
    next = end < 0 ? text.length + 1 : end + 1;
    const line = text.slice(at, end < 0 ? text.length : end);
    const [, marker, rest = ""] = FENCE.exec(line) ?? [];
    if (code !== null) {
      if (!marker?.startsWith(code.fence) || rest.trim() !== "") continue;
      yield codeBlock(code.language, text.slice(code.from, Math.max(code.from, at - 1)), code.at);
      code = null;
      blank = false;
      continue;
    }
    const isFence = marker !== undefined && line.startsWith(marker) && !(marker.startsWith("`") && rest.includes("`"));
    if (isFence) {
      yield* open.end();
      code = { fence: marker, language: rest.trim().split(/\s/)[0]!, at, from: next };
      continue;
    }
    const formula = formulaAt(at, line);
    if (formula !== null) {
      if (blank && !CONTINUES.test(line)) yield* open.end();
      blank = false;
      next = formula.end + 1;
      const source = text.slice(at, formula.end);
      yield* open.add({ text: formula.line, at, weight: weightOf(formula.line) }, source);
      continue;
    }
    const isBlank = line.trim() === "";
    if (blank && !isBlank && !CONTINUES.test(line)) yield* open.end();
    blank = isBlank;
    yield* open.add({ text: line, at, weight: weightOf(line) });
  }
  if (code !== null) yield codeBlock(code.language, text.slice(code.from), code.at);
  else yield* open.end();
}

/**
 * Finds the displayed formula that starts in the line at `at` and ends in a later one: where, and all of it in one line.
 * A line of it may look like an item of a list, and blank ones mean nothing.
 */
function formulasIn(text: string): (at: number, line: string) => { line: string; end: number } | null {
  const closings = { "$$": finder(text, FORMULA_END, "$$"), "\\[": finder(text, FORMULA_END, "\\]") };
  const fenceAfter = finder(text, FENCED);
  const blankAfter = finder(text, BLANK);
  return (at, line) => {
    const [, before = "", opening, first = ""] = FORMULA.exec(line) ?? [];
    if (opening === undefined || first.includes(opening === "$$" ? "$$" : "\\]")) return null;
    const from = at + line.length;
    const closing = closings[opening as "$$" | "\\["](from);
    if (closing > from + MAX_FORMULA || fenceAfter(from) < closing) return null;
    if (first.trim() !== "" && blankAfter(from) < closing) return null;
    const end = text.indexOf("\n", closing);
    const all = text.slice(from + 1, end < 0 ? text.length : end).split("\n");
    // a comment reaches to the end of its line
    const lines = all.map((one) => (before.includes(">") ? one.replace(/^[ \t>]+/, "") : one.trim()));
    const joined = [line, ...lines].map((one) => one.replace(/(?<!\\)%[^]*$/, "")).filter((one) => one.trim() !== "");
    return { line: joined.join(" "), end: end < 0 ? text.length : end };
  };
}

/**
 * Finds the first match at or after a place; Infinity if there is none. It remembers the last one, so that thousands of
 * lines that ask for the same do not each search the rest of the text.
 */
function finder(text: string, pattern: RegExp, wanted?: string): (from: number) => number {
  let asked = Infinity;
  let found = -1;
  return (from) => {
    if (from >= asked && from <= found) return found;
    pattern.lastIndex = asked = from;
    let match = pattern.exec(text);
    while (match !== null && wanted !== undefined && match[0] !== wanted) match = pattern.exec(text);
    return (found = match?.index ?? Infinity);
  };
}

function codeBlock(language: string, text: string, start: number): Weighed {
  const weight = 2 * FRAME_WEIGHT + Math.floor(text.length / MAX_PLAIN);
  return { block: { kind: "code", text, language }, weight, start, head: [] };
}

/** A block that grows by a line at a time, and is cut where it gets too heavy. */
class OpenBlock {
  #lines: Line[] = [];
  #weight = 0;
  /** The head of a table. Its second line has the number of columns, which every row is filled up to. */
  #head: readonly Line[];
  /** Whether the block starts after a cut, with rows of that table. */
  #continues: boolean;

  constructor(head: readonly Line[]) {
    this.#head = head;
    this.#continues = head.length > 0;
  }

  /** `source`: what is shown of a line that is too heavy. */
  *add(line: Line, source = line.text): Generator<Weighed> {
    if (line.weight > MAX_WEIGHT) {
      // it cannot be cut
      yield* this.end();
      const block: Block = { kind: "plain", text: source };
      yield { block, weight: MAX_WEIGHT, start: line.at, head: [] };
      return;
    }
    if (this.#weight + Math.max(line.weight, columnsOf(this.#head)) > MAX_WEIGHT) yield* this.#cut();
    if (this.#head.length === 0 && isDelimiters(line.text)) this.#head = [...this.#lines.slice(-1), line];
    const weight = Math.max(line.weight, columnsOf(this.#head));
    this.#lines.push({ ...line, weight });
    this.#weight += weight;
  }

  *end(): Generator<Weighed> {
    yield* this.#yield();
    this.#head = [];
    this.#continues = false;
  }

  /** Ends the block at its last item, or else here. */
  *#cut(): Generator<Weighed> {
    const item = this.#head.length > 0 ? 0 : this.#lines.findLastIndex(({ text }) => ITEM.test(text));
    const left = item > 0 ? this.#lines.splice(item) : [];
    yield* this.#yield();
    this.#lines = left;
    this.#weight = weigh(left);
    this.#continues = this.#head.length === 2 && weigh(this.#head) < MAX_WEIGHT / 3;
    if (!this.#continues) this.#head = [];
  }

  *#yield(): Generator<Weighed> {
    const [first] = this.#lines;
    const head = this.#continues ? this.#head : [];
    const lines = [...head, ...this.#lines];
    const text = lines.map((line) => line.text).join("\n");
    const kind = lines.some((line) => isDeep(line.text)) ? "plain" : "markdown";
    const weight = BLOCK_WEIGHT + weigh(lines);
    if (first !== undefined && text.trim() !== "") yield { block: { kind, text }, weight, start: first.at, head };
    this.#lines = [];
    this.#weight = 0;
  }
}

function columnsOf(head: readonly Line[]): number {
  return head.length > 0 ? head.at(-1)!.text.split("|").length : 0;
}

function weigh(lines: readonly Line[]): number {
  return lines.reduce((sum, { weight }) => sum + weight, 0);
}

/** Cuts a text after line breaks, into pieces of at most 4,000 characters and 500 lines. A longer line is cut too. */
export function pieces(text: string): string[] {
  const found: string[] = [];
  for (let from = 0; from < text.length; ) {
    let to = from;
    for (let lines = 0; lines < MAX_LINES && to < text.length; lines++) {
      const end = text.indexOf("\n", to) + 1 || text.length;
      if (end - from > MAX_PLAIN) break;
      to = end;
    }
    if (to === from) to = Math.min(text.length, from + MAX_PLAIN);
    if (to < text.length && /[\ud800-\udbff]/.test(text[to - 1]!)) to -= 1; // not within an emoji
    found.push(text.slice(from, to));
    from = to;
  }
  return found;
}

/** The definitions of links and footnotes, by label. They apply to the whole text, so blocks take theirs along. */
type Definitions = ReadonlyMap<string, string>;

const NO_DEFINITIONS: Definitions = new Map();
const DEFINITION = /^ {0,3}\[([^[\]]{1,100})\]:[ \t]*\S[^\n]{0,500}$/gm;
const LABEL = /\[([^[\]]{1,100})\]/g;
const MAX_DEFINITIONS = 50;
/** Definitions further down are ignored. */
const MAX_DEFINED = 100_000;
/** What the definitions of one block may weigh. */
const MAX_NOTES = 100;

/** The same object as in `before` if they are the same definitions. */
function definitionsIn(text: string, before: Split | null): Definitions {
  const head = text.slice(0, MAX_DEFINED);
  const found = new Map<string, string>();
  for (const [line, label] of head.matchAll(DEFINITION)) {
    const key = label!.toLowerCase();
    if (!found.has(key)) found.set(key, line);
    if (found.size === MAX_DEFINITIONS) break;
  }
  if (found.size === 0) return NO_DEFINITIONS;
  const known = before?.notes;
  const isSame = known?.size === found.size && [...found].every(([label, line]) => known.get(label) === line);
  return isSame ? known : found;
}

function withDefinitions(block: Block, notes: Definitions): Block {
  if (notes.size === 0 || block.kind !== "markdown") return block;
  let added = "";
  let weight = 0;
  for (const label of new Set([...block.text.matchAll(LABEL)].map(([, found]) => found!.toLowerCase()))) {
    const line = notes.get(label);
    if (line === undefined || block.text.includes(line)) continue;
    weight += weightOf(line);
    if (weight > MAX_NOTES) break;
    added += `\n\n${line}`;
  }
  return added === "" ? block : { kind: "markdown", text: block.text + added };
}
