import { useEffect, useRef, useState } from "react";

/** Copies a text to the clipboard. `what`: the text's name, for screen readers. */
export function CopyButton({ text, what }: { text: string; what: string }) {
  const [label, setLabel] = useState("Copy");
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);

  async function copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      setLabel("Copied");
    } catch {
      setLabel("Copy failed"); // browsers deny insecure pages the clipboard
    }
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setLabel("Copy"), 1_500);
  }

  return (
    <button className="quiet small" onClick={() => void copy()}>
      <span aria-live="polite">{label}</span>
      <span className="visually-hidden"> {what}</span>
    </button>
  );
}
