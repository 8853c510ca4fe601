/**
 * A remark plugin for formulas in TeX: `$…$` and `\(…\)` in a line, `$$…$$` and `\[…\]` on lines of their own.
 *
 * A dollar sign is also a currency. As in Pandoc, a formula between single ones starts and ends with something other
 * than a space, and no digit follows it: "$5 and $10" is no formula.
 */

import type { CompileContext, Extension as Compiler, Token } from "mdast-util-from-markdown";
import type { Code, Effects, Extension, State, TokenizeContext } from "micromark-util-types";

const DOLLAR = 36;
const BACKSLASH = 92;
/** The characters that open `\(` and `\[`, and those that close them. */
const CLOSING = new Map<Code, Code>([
  [40, 41],
  [91, 93],
]);
/** "$5 for this, or 6$" */
const PRICE = /^\d[\d.,]*\s+(?:[a-z]{2}|a\s)/i;

interface ParserData {
  micromarkExtensions?: Extension[];
  fromMarkdownExtensions?: Compiler[];
}

export function remarkFormulas(this: { data(): object }): void {
  const data: ParserData = this.data();
  const construct = { name: "formula", tokenize };
  (data.micromarkExtensions ??= []).push({ text: { [DOLLAR]: construct, [BACKSLASH]: construct } });
  (data.fromMarkdownExtensions ??= []).push({ enter: { formula: enter }, exit: { formula: exit } });
}

declare module "micromark-util-types" {
  interface TokenTypeMap {
    formula: "formula";
  }
}

function tokenize(this: TokenizeContext, effects: Effects, ok: State, nok: State): State {
  const { previous } = this;
  let isDisplay = false;
  let closing: Code = null;
  let text = "";
  return start;

  function start(code: Code): State | undefined {
    if (code === DOLLAR && previous === DOLLAR) return nok(code);
    effects.enter("formula");
    effects.consume(code);
    return code === DOLLAR ? afterDollar : afterBackslash;
  }

  function afterDollar(code: Code): State | undefined {
    if (code !== DOLLAR) return isSpace(code) ? nok(code) : inDollars(code);
    isDisplay = true;
    effects.consume(code);
    return inDollars;
  }

  function inDollars(code: Code): State | undefined {
    if (code === null) return nok(code);
    if (code === BACKSLASH) return take(code, escaped);
    if (code !== DOLLAR) return take(code, inDollars);
    if (text.trim() === "" || (!isDisplay && (/\s$/.test(text) || PRICE.test(text)))) return nok(code);
    effects.consume(code);
    return isDisplay ? secondDollar : afterClosing;
  }

  function escaped(code: Code): State | undefined {
    return code === null ? nok(code) : take(code, inDollars);
  }

  function secondDollar(code: Code): State | undefined {
    if (code !== DOLLAR) return inDollars(code); // `\text{if $x$}`
    effects.consume(code);
    return end;
  }

  function afterClosing(code: Code): State | undefined {
    return code !== null && code >= 48 && code <= 57 ? nok(code) : end(code);
  }

  function afterBackslash(code: Code): State | undefined {
    closing = CLOSING.get(code) ?? null;
    if (closing === null) return nok(code);
    effects.consume(code);
    return inBrackets;
  }

  function inBrackets(code: Code): State | undefined {
    if (code === null) return nok(code);
    return take(code, code === BACKSLASH ? mayClose : inBrackets);
  }

  function mayClose(code: Code): State | undefined {
    if (code === null) return nok(code);
    if (code !== closing) return take(code, inBrackets);
    if (text === "\\") return nok(code); // nothing between them
    effects.consume(code);
    return end;
  }

  function take(code: NonNullable<Code>, next: State): State {
    text += code < 0 ? " " : String.fromCharCode(code);
    effects.consume(code);
    return next;
  }

  function end(code: Code): State | undefined {
    effects.exit("formula");
    return ok(code);
  }
}

function isSpace(code: Code): boolean {
  return code === null || code < 0 || code === 32;
}

function enter(this: CompileContext, token: Token): void {
  const source = this.sliceSerialize(token);
  // as code, because nothing in it is Markdown; `data-formula` tells them apart
  this.enter({ type: "inlineCode", value: source, data: { hProperties: { dataFormula: "" } } as object }, token);
}

function exit(this: CompileContext, token: Token): void {
  this.exit(token);
}
