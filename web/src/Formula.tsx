import katex from "katex";
import "katex/dist/katex.min.css";
import { memo, useLayoutEffect, useRef } from "react";
import { whenIdle } from "./idle.ts";

/**
 * Longer or deeper formulas take too long to draw, and so may those that define commands. Wider ones make the page slow
 * while they are in sight. They stay as they were written.
 */
const MAX_LENGTH = 1_000;
const MAX_DEPTH = 12;
const MAX_WIDTH = 200;
/** What is drawn: commands and characters, but none that only group or align. */
const SYMBOL = /\\(?:[a-z]+|.)|[^\s{}^_&]/gi;
/** Commands whose symbols are drawn as an image, or from several pieces. */
const LARGE = /^\\(?:sqrt|over|under|wide|x(?:left|right)|[bx]?cancel|boxed|left|right|[bB]ig)/;
const LARGE_WIDTH = 4;
const DEFINES = /\\(?:[egx]?def|(?:future)?let|(?:re|provide)?newcommand|providecommand)(?![a-z])/i;
const OPTIONS = { strict: false, trust: false, maxExpand: 500, maxSize: 20 } as const;
/** A length of 100 em or more. `maxSize` bounds neither negative sizes nor sums of them. */
const FAR = /(?<![\d.])\d{3,}(?:\.\d+)?em|e\+\d+em/;
/** A longer one may be wider than the page. */
const MAX_UNBROKEN = 60;
/** So many characters are drawn in one frame when the page is idle, */
const ONE_FRAME = 300;
/** and for so long at once. */
const AT_ONCE_MS = 8;
let spent = 0;

/** A formula in TeX, given with its delimiters: in elements for the eye, and in MathML for screen readers. */
export default memo(function Formula({ source }: { source: string }) {
  const box = useRef<HTMLElement>(null);
  const isDisplay = source.startsWith("$$") || source.startsWith("\\[");
  const isPlain = isHeavy(source);
  useLayoutEffect(() => {
    if (isPlain) return;
    if (spent < AT_ONCE_MS) draw(source, isDisplay, box.current!);
    else return whenIdle(() => draw(source, isDisplay, box.current!), source.length / ONE_FRAME);
  }, [source, isDisplay, isPlain]);
  if (isPlain) return <code>{source}</code>;
  const isWide = isDisplay || source.length > MAX_UNBROKEN;
  const scrolls = isWide ? ({ tabIndex: 0, role: "group", "aria-label": "Formula" } as const) : {};
  return (
    <span key={source} ref={box} className={`formula${isDisplay ? " display" : isWide ? " wide" : ""}`} {...scrolls}>
      {source}
    </span>
  );
});

function isHeavy(source: string): boolean {
  let depth = 0;
  for (const [mark] of source.matchAll(/[{}]|\\(?:begin|end|left|right)(?![a-z])|\\./g)) {
    if (/^(\{|\\begin|\\left)/.test(mark)) depth += 1;
    else if (/^(\}|\\end|\\right)/.test(mark)) depth -= 1;
    if (depth > MAX_DEPTH) return true;
  }
  if (source.length > MAX_LENGTH || DEFINES.test(source)) return true;
  return source.split("\\\\").some((row) => widthOf(row) > MAX_WIDTH);
}

function widthOf(row: string): number {
  return (row.match(SYMBOL) ?? []).reduce((sum, symbol) => sum + (LARGE.test(symbol) ? LARGE_WIDTH : 1), 0);
}

/** Replaces the source with the formula. One that cannot be read, or reaches far beyond its place, stays as it is. */
function draw(source: string, displayMode: boolean, box: HTMLElement): void {
  const tex = source.startsWith("$") && !displayMode ? source.slice(1, -1) : source.slice(2, -2);
  const began = performance.now();
  if (spent === 0) requestAnimationFrame(() => (spent = 0));
  try {
    const drawn = document.createElement("span");
    katex.render(tex, drawn, { ...OPTIONS, displayMode });
    const isFar = [...drawn.querySelectorAll("[style]")].some((part) => FAR.test(part.getAttribute("style")!));
    if (!isFar) box.replaceChildren(...drawn.childNodes);
  } catch {
    // the source is in the box
  }
  spent += performance.now() - began;
}
