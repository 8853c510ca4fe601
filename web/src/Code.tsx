import { lazy, Suspense, useDeferredValue } from "react";
import { CopyButton } from "./Copy.tsx";

/** The highlighter is large, so it loads with the first code. */
const Highlighted = lazy(() => import("./Highlighted.tsx"));
/** Longer code is not highlighted, because that takes too long. */
const MAX_HIGHLIGHTED = 30_000;

/** Code, highlighted if its language is known. */
export function Code({ code, language }: { code: string; language: string }) {
  // while code streams in, its highlighting may lag behind
  const shown = useDeferredValue(code);
  if (language === "" || code.length > MAX_HIGHLIGHTED) return <code>{code}</code>;
  return (
    <code>
      <Suspense fallback={code}>
        <Highlighted code={shown} language={language} />
      </Suspense>
    </code>
  );
}

/** A code block in a reply. */
export function CodeBox({ code, language }: { code: string; language: string }) {
  return (
    <figure className="code">
      <figcaption>
        <span>{language || "code"}</span>
        <CopyButton text={code} what={language ? `${language} code` : "code"} />
      </figcaption>
      <pre tabIndex={0} role="group" aria-label={language ? `Code block (${language})` : "Code block"}>
        <Code code={code} language={language} />
      </pre>
    </figure>
  );
}
