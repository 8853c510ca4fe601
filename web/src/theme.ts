import { useState } from "react";
import { storage } from "./storage.ts";

/** `system`: as the system asks. */
const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "theme";

/** Shows the page in the theme that was chosen last; called before the first paint. */
export function restoreTheme(): Theme {
  const kept = storage("localStorage")?.getItem(KEY);
  const theme = THEMES.find((name) => name === kept) ?? "system";
  show(theme);
  return theme;
}

/** The present theme, and what goes on to the next. */
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
