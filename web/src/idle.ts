/** Work that can wait: one job for each idle moment of the page, the newest first. */

const jobs = new Set<() => void>();
let waiting = false;

/** Runs `job` when the page is idle and no newer job is waiting. Returns a function that withdraws it. */
export function whenIdle(job: () => void): () => void {
  jobs.add(job);
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
  const job = [...jobs].pop();
  if (job === undefined) return;
  jobs.delete(job);
  job();
  if (jobs.size > 0) wait();
}
