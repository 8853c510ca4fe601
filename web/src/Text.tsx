import { Component, lazy, Suspense, type ReactNode } from "react";

const load = () => import("./Markdown.tsx");
const Markdown = lazy(load);

/** Loads the Markdown renderer ahead of the first reply. */
export function preloadText(): void {
  void load();
}

interface Props {
  plain: ReactNode;
  children: ReactNode;
}

/** Falls back to plain text if rendering fails: a parser may overflow its stack on deeply nested text. */
class OrPlain extends Component<Props, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError(): { failed: boolean } {
    return { failed: true };
  }

  override render(): ReactNode {
    return this.state.failed ? this.props.plain : this.props.children;
  }
}

/** A reply's text as Markdown, or as plain text while that loads or if it fails. Never as HTML. */
export function Text({ text }: { text: string }) {
  const plain = <div className="prose plain">{text}</div>;
  return (
    <OrPlain plain={plain}>
      <Suspense fallback={plain}>
        <Markdown text={text} />
      </Suspense>
    </OrPlain>
  );
}
