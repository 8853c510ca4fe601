/**
 * Runs `run` with a signal that is aborted after `ms`. Rejects then, even if `run` does not heed the signal.
 *
 * `AbortSignal.timeout` does the same, but React Native has none.
 */
export async function withTimeout<T>(ms: number, run: (signal: AbortSignal) => PromiseLike<T>): Promise<T> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timedOut = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      controller.abort();
      // after the rejection of `run`, if the signal ends it: that one may say more
      setTimeout(reject);
    }, ms);
  });
  try {
    return await Promise.race([run(controller.signal), timedOut]);
  } finally {
    clearTimeout(timer);
  }
}
