import { defineConfig } from "vitest/config";

export default defineConfig({
  // thousands of histories take seconds, and the times of sessions are simulated: the limit only ends what hangs
  test: { include: ["test/**/*.test.ts"], restoreMocks: true, testTimeout: 60_000 },
});
