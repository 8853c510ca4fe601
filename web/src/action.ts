import { useCallback, useState } from "react";

/** An error as text, whatever was thrown. */
export function messageOf(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}

export interface Action {
  /**
   * Runs an action. Resolves to whether it succeeded, and never rejects: a failure becomes `error`. The same function on
   * every render.
   */
  run(action: () => Promise<unknown>): Promise<boolean>;
  /** Whether an action is running. */
  busy: boolean;
  /** Why the last action failed; null once the next one starts. */
  error: string | null;
  /** Clears `error`. The same function on every render. */
  clear(): void;
}

/** The state of what a component does on a click. */
export function useAction(): Action {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const run = useCallback(async (action: () => Promise<unknown>): Promise<boolean> => {
    setBusy(true);
    setError(null);
    try {
      await action();
      return true;
    } catch (reason) {
      setError(messageOf(reason));
      return false;
    } finally {
      setBusy(false);
    }
  }, []);
  const clear = useCallback(() => setError(null), []);
  return { run, busy, error, clear };
}
