import { memo } from "react";
import ReactMarkdown, { type Components } from "react-markdown";
import remarkGfm from "remark-gfm";
import { CodeBox } from "./Code.tsx";

/** How Markdown is rendered. HTML is shown as text, and links with unsafe protocols are removed. */
const COMPONENTS: Components = {
  // the page has the h1
  h1: ({ children }) => <h2>{children}</h2>,
  h2: ({ children }) => <h3>{children}</h3>,
  h3: ({ children }) => <h4>{children}</h4>,
  h4: ({ children }) => <h5>{children}</h5>,
  h5: ({ children }) => <h6>{children}</h6>,
  a: ({ href, children }) => (
    <a href={href} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  ),
  // an image URL could leak the conversation to its server, so images are links and load only when clicked
  img: ({ src, alt }) => (
    <a href={typeof src === "string" ? src : undefined} target="_blank" rel="noopener noreferrer nofollow">
      {alt || "image"}
    </a>
  ),
  pre: ({ node }) => {
    const code = node?.children[0];
    if (code?.type !== "element") return null;
    const classes = code.properties["className"];
    const language = Array.isArray(classes) ? String(classes[0] ?? "").replace(/^language-/, "") : "";
    const text = code.children.map((child) => (child.type === "text" ? child.value : "")).join("");
    return <CodeBox code={text.replace(/\n$/, "")} language={language} />;
  },
  table: ({ children }) => (
    <div className="table" tabIndex={0} role="group" aria-label="Table">
      <table>{children}</table>
    </div>
  ),
  input: ({ checked }) => <input type="checkbox" checked={checked} disabled aria-label={checked ? "done" : "to do"} />,
};

const PLUGINS = [remarkGfm];

/** Renders one block of Markdown. The caller bounds its size and depth: a parser may take seconds for some text. */
export default memo(function Markdown({ text }: { text: string }) {
  return (
    <ReactMarkdown remarkPlugins={PLUGINS} components={COMPONENTS}>
      {text}
    </ReactMarkdown>
  );
});
