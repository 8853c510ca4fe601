import { lazy, Suspense } from "react";

const load = () => import("./Markdown.tsx");
const Markdown = lazy(load);

/** Begins to load what replies are shown with, before there is one. */
export function preloadText(): void {
  void load();
}

/** A reply's text: as Markdown, and until that is loaded as it was written. Never HTML. */
export function Text({ text }: { text: string }) {
  return (
    <Suspense fallback={<div className="prose plain">{text}</div>}>
      <Markdown text={text} />
    </Suspense>
  );
}
