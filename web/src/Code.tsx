import { lazy, Suspense, useDeferredValue } from "react";
import { CopyButton } from "./Copy.tsx";

/** The highlighter is large: it is loaded with the first code that is shown. */
const Highlighted = lazy(() => import("./Highlighted.tsx"));
/** Longer code is shown without colours: to highlight it takes too long. */
const MAX_HIGHLIGHTED = 30_000;

/** Code with its colours, if its language is known. */
export function Code({ code, language }: { code: string; language: string }) {
  // while code streams in, its colours may be a moment behind the page
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

/** A block of code in a text. */
export function CodeBox({ code, language }: { code: string; language: string }) {
  const name = language || "code";
  return (
    <figure className="code">
      <figcaption>
        <span>{name}</span>
        <CopyButton text={code} what={name} />
      </figcaption>
      <pre tabIndex={0} role="group" aria-label={`Block of ${name}`}>
        <Code code={code} language={language} />
      </pre>
    </figure>
  );
}
