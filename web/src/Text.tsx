import { useState, type ReactNode } from "react";

type Part = { kind: "text"; text: string } | { kind: "code"; text: string; language: string };

/** Splits text at its code fences; a fence that is not closed yet runs to the end. */
function parts(text: string): Part[] {
  const found: Part[] = [];
  let lines: string[] = [];
  let fence: { marker: string; language: string } | null = null;
  const flush = (): void => {
    const body = lines.join("\n");
    if (fence !== null) found.push({ kind: "code", text: body, language: fence.language });
    else if (body.trim() !== "") found.push({ kind: "text", text: body.replace(/^\n+|\n+$/g, "") });
    lines = [];
  };
  for (const line of text.split("\n")) {
    const [, marker = "", info = ""] = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/.exec(line) ?? [];
    const closes: boolean = fence !== null && info === "" && marker !== "" && marker.startsWith(fence.marker);
    if (marker === "" || (fence !== null && !closes)) {
      lines.push(line);
      continue;
    }
    flush();
    fence = closes ? null : { marker, language: info.trim().split(/\s/)[0] ?? "" };
  }
  flush();
  return found;
}

/** A reply's text: as it was written, with code in boxes, and `code` and **strong** words marked. Never HTML. */
export function Text({ text }: { text: string }) {
  return parts(text).map((part, index) =>
    part.kind === "code" ? (
      <CodeBox key={index} code={part.text} language={part.language} />
    ) : (
      <div key={index} className="prose">
        {inline(part.text)}
      </div>
    ),
  );
}

function inline(text: string): ReactNode[] {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((piece, index) => {
    if (index % 2 === 0) return piece;
    return piece.startsWith("`") ? (
      <code key={index}>{piece.slice(1, -1)}</code>
    ) : (
      <strong key={index}>{piece.slice(2, -2)}</strong>
    );
  });
}

function CodeBox({ code, language }: { code: string; language: string }) {
  return (
    <figure className="code">
      <figcaption>
        <span>{language || "code"}</span>
        <CopyButton text={code} />
      </figcaption>
      <pre tabIndex={0}>
        <code>{code}</code>
      </pre>
    </figure>
  );
}

/** Copies a text to the clipboard and says so. */
export function CopyButton({ text }: { text: string }) {
  const [label, setLabel] = useState("Copy");

  async function copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      setLabel("Copied");
    } catch {
      setLabel("Not allowed"); // the browser keeps pages without https from the clipboard
    }
    setTimeout(() => setLabel("Copy"), 1_500);
  }

  return (
    <button className="quiet copy" onClick={() => void copy()}>
      {label}
    </button>
  );
}
