import { lazy, memo, Suspense } from "react";
import type { Root } from "hast";
import ReactMarkdown, { type Components } from "react-markdown";
import remarkGfm from "remark-gfm";
import { CodeBox } from "./Code.tsx";
import { remarkFormulas } from "./formulas.ts";

/** KaTeX is large, so it loads with the first formula. */
const Formula = lazy(() => import("./Formula.tsx"));

/** How Markdown is rendered. HTML is shown as text, and links with unsafe protocols are removed. */
const COMPONENTS: Components = {
  // the page has the h1
  h1: ({ dir, children }) => <h2 dir={dir}>{children}</h2>,
  h2: ({ dir, children }) => <h3 dir={dir}>{children}</h3>,
  h3: ({ dir, children }) => <h4 dir={dir}>{children}</h4>,
  h4: ({ dir, children }) => <h5 dir={dir}>{children}</h5>,
  h5: ({ dir, children }) => <h6 dir={dir}>{children}</h6>,
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
  code: ({ node, children }) => {
    if (node?.properties["dataFormula"] === undefined) return <code>{children}</code>;
    const source = String(children);
    return (
      <Suspense fallback={source}>
        <Formula source={source} />
      </Suspense>
    );
  },
  table: ({ dir, children }) => (
    <div className="table" tabIndex={0} role="group" aria-label="Table">
      <table dir={dir}>{children}</table>
    </div>
  ),
  ol: ({ node, ...props }) => {
    const last = (props.start ?? 1) + (node?.children.filter(({ type }) => type === "element").length ?? 0) - 1;
    return <ol {...props} className={`${props.className ?? ""} digits-${String(last).length}`} />;
  },
  input: ({ checked }) => <input type="checkbox" checked={checked} disabled aria-label={checked ? "done" : "to do"} />,
};

const PLUGINS = [remarkGfm, remarkFormulas];
const TREE_PLUGINS = [rehypeDirection];

/** Each paragraph, list and table has the direction of its first letter. Those within it have the same. */
function rehypeDirection() {
  return (tree: Root): void => {
    for (const child of tree.children) if (child.type === "element") child.properties["dir"] = "auto";
  };
}

/** Renders one block of Markdown. The caller bounds its size and depth: a parser may take seconds for some text. */
export default memo(function Markdown({ text }: { text: string }) {
  return (
    <ReactMarkdown remarkPlugins={PLUGINS} rehypePlugins={TREE_PLUGINS} components={COMPONENTS}>
      {text}
    </ReactMarkdown>
  );
});
