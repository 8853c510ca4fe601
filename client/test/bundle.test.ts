/** The size of the client in a page's bundle, without the libraries that the page already has. */

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
  if (bundle === undefined || !("output" in bundle)) throw new Error("the build has no output");
  return gzipSync(bundle.output.map((part) => ("code" in part ? part.code : "")).join("")).length;
}

// 2,500 bytes of each are attachments: their types and names, uploads that go on after a failure, signed URLs
test.each([
  ["index.ts", 12_500],
  ["react.ts", 13_000],
  ["ai.ts", 15_500],
])("%s stays below %d bytes gzipped", async (entry, limit) => {
  const bytes = await size(entry);
  console.log(`${entry}: ${bytes} bytes gzipped`);
  expect(bytes).toBeGreaterThan(2_000);
  expect(bytes).toBeLessThan(limit);
});
