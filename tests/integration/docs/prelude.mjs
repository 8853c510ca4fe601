// Runs before the blocks of a page, in the same module: what every frontend has, and what the tests need.
import assert from "node:assert/strict";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket; // a browser and newer versions of Node have one; Node 20 does not
const [SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, email, password, ...more] = process.argv.slice(2);

// the response of the next request with this method and path is dropped
const request = globalThis.fetch;
let lost;
globalThis.fetch = async (url, options) => {
  const answer = await request(url, options);
  if (!lost || options.method !== lost.method || new URL(url).pathname !== lost.path) return answer;
  lost = undefined;
  throw new TypeError("fetch failed");
};

/** Waits until a function returns something truthy, and returns that. */
async function until(find, seconds = 15) {
  for (const deadline = Date.now() + seconds * 1000; ; ) {
    const value = await find();
    if (value) return value;
    assert.ok(Date.now() < deadline, `nothing within ${seconds} s: ${find}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
