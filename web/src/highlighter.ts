/** Highlights code in a worker, because a grammar may take seconds. */

import { common, createLowlight } from "lowlight";

export type Tree = ReturnType<ReturnType<typeof createLowlight>["highlight"]>;

export interface Question {
  id: number;
  code: string;
  language: string;
}

/** `tree`: null if the language is unknown, or the page should not show so many elements. */
export interface Answer {
  id: number;
  tree: Tree | null;
}

/** More elements take the page too long to show. */
const MAX_ELEMENTS = 3_000;

const lowlight = createLowlight(common);

addEventListener("message", ({ data: { id, code, language } }: MessageEvent<Question>) => {
  const tree = lowlight.registered(language) ? lowlight.highlight(language, code) : null;
  postMessage({ id, tree: tree && count(tree.children) <= MAX_ELEMENTS ? tree : null } satisfies Answer);
});

function count(nodes: readonly object[]): number {
  return nodes.reduce((sum, node) => sum + 1 + ("children" in node ? count(node.children as object[]) : 0), 0);
}
