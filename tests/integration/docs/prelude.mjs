// Goes before the blocks of a page, in one module with them: what a frontend has anyway, and what the tests need to look on.
import assert from "node:assert/strict";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket; // Node 20 has none of its own; a browser has
const [SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, email, password, ...more] = process.argv.slice(2);

// the answer of the next request with this method and path gets lost on its way back
const request = globalThis.fetch;
let lost;
globalThis.fetch = async (url, options) => {
  const answer = await request(url, options);
  if (!lost || options.method !== lost.method || new URL(url).pathname !== lost.path) return answer;
  lost = undefined;
  throw new TypeError("fetch failed");
};

/** Waits until a function gives something, and gives that. */
async function until(seen, seconds = 15) {
  for (const deadline = Date.now() + seconds * 1000; ; ) {
    const value = await seen();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not seen within ${seconds} s: ${seen}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
