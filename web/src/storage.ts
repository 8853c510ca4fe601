/** What the browser keeps for this page, for good or until the tab is closed; null where it keeps nothing. */
export function storage(kind: "localStorage" | "sessionStorage"): Storage | null {
  try {
    return window[kind];
  } catch {
    return null;
  }
}
