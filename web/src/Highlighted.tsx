import { toJsxRuntime } from "hast-util-to-jsx-runtime";
import { memo, useEffect, useRef, useState, type ReactNode } from "react";
import { Fragment, jsx, jsxs } from "react/jsx-runtime";
import type { Answer, Question, Tree } from "./highlighter.ts";
import { whenIdle } from "./idle.ts";

/** Grammars take seconds for some code, so they run beside the page. */
const worker = new Worker(new URL("./highlighter.ts", import.meta.url), { type: "module" });
/** So many characters of highlighted code are shown in one frame. */
const ONE_FRAME = 4_000;
const waiting = new Map<number, (tree: Tree | null) => void>();
let asked = 0;

worker.addEventListener("message", ({ data: { id, tree } }: MessageEvent<Answer>) => {
  waiting.get(id)?.(tree);
  waiting.delete(id);
});

function ask(code: string, language: string): Promise<Tree | null> {
  const id = ++asked;
  worker.postMessage({ id, code, language } satisfies Question);
  return new Promise((resolve) => waiting.set(id, resolve));
}

interface Props {
  code: string;
  language: string;
  /** The code as it is, until it is highlighted and if it cannot be. */
  plain: ReactNode;
}

/** Highlighted code, built from elements and never from HTML. While code streams in, its highlighting may lag behind. */
export default memo(function Highlighted({ code, language, plain }: Props) {
  const [done, setDone] = useState<{ code: string; shown: ReactNode } | null>(null);
  const busy = useRef(false);
  useEffect(() => {
    if (busy.current || done?.code === code) return;
    busy.current = true;
    void ask(code, language).then((tree) =>
      whenIdle(() => {
        busy.current = false;
        setDone({ code, shown: tree && toJsxRuntime(tree, { Fragment, jsx, jsxs }) });
      }, code.length / ONE_FRAME),
    );
  }, [done, code, language]);
  if (done === null || done.shown === null || !code.startsWith(done.code)) return plain;
  return (
    <>
      {done.shown}
      {code.slice(done.code.length)}
    </>
  );
});
