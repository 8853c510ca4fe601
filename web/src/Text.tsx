import { Component, lazy, memo, Suspense, useEffect, useReducer, useRef, type ReactNode } from "react";
import { pieces, split, type Block, type Section, type Split } from "./blocks.ts";
import { CodeBox } from "./Code.tsx";
import { whenIdle } from "./idle.ts";

const load = () => import("./Markdown.tsx");
const Markdown = lazy(load);

/** Loads the Markdown renderer ahead of the first reply. */
export function preloadText(): void {
  void load();
}

/**
 * A reply's text as Markdown, also while it streams. It is plain text while the renderer loads, and where it is too
 * heavy to render. Never HTML. Without `atOnce` the whole of it waits until the page is idle.
 */
export function Text({ text, atOnce = true }: { text: string; atOnce?: boolean }) {
  const before = useRef<Split>(null);
  before.current = split(text, before.current);
  const { sections } = before.current;
  return sections.map((section, index) => (
    <SectionView
      key={index}
      section={section}
      last={atOnce && index === sections.length - 1}
      next={index >= sections.length - 2}
      only={sections.length === 1}
    />
  ));
}

interface Props {
  section: Section;
  /** Whether this section is the last one, which may still grow. */
  last: boolean;
  /** Whether it is the one before, which the last change may have completed. */
  next: boolean;
  /** Whether there are no others. */
  only: boolean;
}

/** The last section shows every change at once. Others wait until the page is idle, one at a time. */
const SectionView = memo(function SectionView({ section, last, next, only }: Props) {
  const rendered = useRef<Section>(null);
  const [, update] = useReducer((count: number) => count + 1, 0);
  if (last || (next && rendered.current !== null)) rendered.current = section;
  useEffect(() => {
    if (rendered.current === section) return;
    return whenIdle(() => {
      rendered.current = section;
      update();
    });
  }, [section]);
  if (rendered.current === null) return <Plain text={section.blocks.map(({ text }) => text).join("\n\n")} apart />;
  return (
    <div className={only ? "prose" : "prose piece"}>
      {rendered.current.blocks.map((block, index) => (
        <BlockView key={index} {...block} />
      ))}
    </div>
  );
});

const BlockView = memo(function BlockView(block: Block) {
  if (block.kind === "code") return <CodeBox code={block.text} language={block.language} />;
  if (block.kind === "plain") return <Plain text={block.text} />;
  const plain = <Plain text={block.text} />;
  return (
    <OrPlain plain={plain}>
      <Suspense fallback={plain}>
        <Markdown text={block.text} />
      </Suspense>
    </OrPlain>
  );
});

/** Falls back to plain text if the renderer fails or cannot be loaded. */
class OrPlain extends Component<{ plain: ReactNode; children: ReactNode }, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError(): { failed: boolean } {
    return { failed: true };
  }

  override render(): ReactNode {
    return this.state.failed ? this.props.plain : this.props.children;
  }
}

/** Plain text, in pieces that are laid out by themselves. */
export function Plain({ text, apart = false }: { text: string; apart?: boolean }) {
  const all = pieces(text);
  const isPiece = apart || all.length > 1;
  return all.map((piece, index) => (
    <div key={index} className={isPiece ? "prose plain piece" : "prose plain"} dir="auto">
      {piece}
    </div>
  ));
}
