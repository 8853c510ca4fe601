import { useState } from "react";
import { storage } from "./storage.ts";

/** `system`: follow the operating system. */
const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "theme";

/** Applies the stored theme. Call it before the first paint. */
export function restoreTheme(): Theme {
  const kept = storage("localStorage")?.getItem(KEY);
  const theme = THEMES.find((name) => name === kept) ?? "system";
  show(theme);
  return theme;
}

/** The current theme, and a function that switches to the next one. */
export function useTheme(): [Theme, () => void] {
  const [theme, setTheme] = useState(restoreTheme);
  const next = (): void => {
    const chosen = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
    storage("localStorage")?.setItem(KEY, chosen);
    show(chosen);
    setTheme(chosen);
  };
  return [theme, next];
}

function show(theme: Theme): void {
  document.documentElement.dataset["theme"] = theme;
}
