/**
 * Runs `run` with a signal that is aborted after `ms`.
 *
 * `AbortSignal.timeout` does the same, but React Native has none.
 */
export async function withTimeout<T>(ms: number, run: (signal: AbortSignal) => PromiseLike<T>): Promise<T> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), ms);
  try {
    return await run(controller.signal);
  } finally {
    clearTimeout(timer);
  }
}
