/** Work that can wait: in each idle moment of the page as much as fits into a frame, the newest first. */

const jobs = new Map<() => void, number>();
let waiting = false;

/**
 * Runs `job` when the page is idle and no newer job is waiting. Returns a function that withdraws it. `share`: how much
 * of a frame it takes, so that small jobs are shown together.
 */
export function whenIdle(job: () => void, share = 1): () => void {
  jobs.set(job, share);
  if (!waiting) wait();
  return () => jobs.delete(job);
}

function wait(): void {
  waiting = true;
  // Safari has no requestIdleCallback
  if (typeof requestIdleCallback === "undefined") setTimeout(run, 30);
  else requestIdleCallback(run, { timeout: 500 });
}

function run(): void {
  waiting = false;
  let left = 1;
  for (const [job, share] of [...jobs].reverse()) {
    if (left < 1 && share > left) break;
    left -= share;
    jobs.delete(job);
    job();
  }
  if (jobs.size > 0) wait();
}
