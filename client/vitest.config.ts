import { defaultServerConditions } from "vite";
import { defineConfig } from "vitest/config";

export default defineConfig({
  // the page's modules, which some tests test, import this package
  ssr: { resolve: { conditions: ["supabase-baml-bridge-source", ...defaultServerConditions] } },
  // thousands of histories take seconds, and the times of sessions are simulated: the limit only ends what hangs
  test: { include: ["test/**/*.test.ts"], restoreMocks: true, testTimeout: 60_000 },
});
