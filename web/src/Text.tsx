import { Component, lazy, Suspense, type ReactNode } from "react";

const load = () => import("./Markdown.tsx");
const Markdown = lazy(load);

/** Begins to load what replies are shown with, before there is one. */
export function preloadText(): void {
  void load();
}

interface Props {
  plain: ReactNode;
  children: ReactNode;
}

/** Shows the plain text where the other cannot be drawn: a parser may give up what is nested a thousand deep. */
class OrPlain extends Component<Props, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError(): { failed: boolean } {
    return { failed: true };
  }

  override render(): ReactNode {
    return this.state.failed ? this.props.plain : this.props.children;
  }
}

/** A reply's text: as Markdown, and until that is loaded, or where it fails, as it was written. Never HTML. */
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
