import { lazy, memo, Suspense, type ReactNode } from "react";
import { pieces } from "./blocks.ts";
import { CopyButton } from "./Copy.tsx";

/** The highlighter is large, so it loads with the first code. */
const Highlighted = lazy(() => import("./Highlighted.tsx"));
/** Longer code is not highlighted, because that takes too long. */
const MAX_HIGHLIGHTED = 20_000;
const LONG_LINE = /[^\n]{1000}/;

/** Code, highlighted if its language is known. */
export function Code({ code, language }: { code: string; language: string }) {
  const plain = <PlainCode code={code} />;
  if (language === "" || code.length > MAX_HIGHLIGHTED || LONG_LINE.test(code)) return <code>{plain}</code>;
  return (
    <code>
      <Suspense fallback={plain}>
        <Highlighted code={code} language={language} plain={plain} />
      </Suspense>
    </code>
  );
}

/** In pieces that are laid out by themselves, if it is long. */
const PlainCode = memo(function PlainCode({ code }: { code: string }) {
  const all = pieces(code);
  if (all.length < 2) return code;
  return all.map((piece, index) => (
    <span key={index} className="piece">
      {piece}
    </span>
  ));
});

/** A code block in a reply. */
export function CodeBox({ code, language }: { code: string; language: string }) {
  return (
    <Box
      label={language ? `Code block (${language})` : "Code block"}
      caption={language || "code"}
      text={code}
      what={language ? `${language} code` : "code"}
    >
      <Code code={code} language={language} />
    </Box>
  );
}

/** Text as it is. */
export function TextBox({ text }: { text: string }) {
  return (
    <Box label="Text" caption="text" text={text} what="text">
      <PlainCode code={text} />
    </Box>
  );
}

interface BoxProps {
  label: string;
  caption: string;
  /** What the button copies, */
  text: string;
  /** and its name for screen readers. */
  what: string;
  children: ReactNode;
}

function Box({ label, caption, text, what, children }: BoxProps) {
  return (
    <figure className="code">
      <figcaption>
        <span>{caption}</span>
        <CopyButton text={text} what={what} />
      </figcaption>
      <pre tabIndex={0} role="group" aria-label={label}>
        {children}
      </pre>
    </figure>
  );
}
