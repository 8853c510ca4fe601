/** What a page pays for the client: built as a page builds it, without the libraries it has anyway. */

import { gzipSync } from "node:zlib";
import { build } from "vite";
import { expect, test } from "vitest";

async function size(entry: string): Promise<number> {
  const result = await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      lib: { entry: new URL(`../src/${entry}`, import.meta.url).pathname, formats: ["es"], fileName: "bundle" },
      rolldownOptions: { external: ["@supabase/supabase-js", "react", "ai"] },
      minify: true,
    },
  });
  const [bundle] = Array.isArray(result) ? result : [result];
  if (bundle === undefined || !("output" in bundle)) throw new Error("nothing was built");
  return gzipSync(bundle.output.map((part) => ("code" in part ? part.code : "")).join("")).length;
}

test.each([
  ["index.ts", 10_000],
  ["react.ts", 10_000],
  ["ai.ts", 10_000],
])("%s is below %d bytes gzipped", async (entry, most) => {
  const bytes = await size(entry);
  console.log(`${entry}: ${bytes} bytes gzipped`);
  expect(bytes).toBeGreaterThan(2_000);
  expect(bytes).toBeLessThan(most);
});
