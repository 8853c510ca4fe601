/** The package as it is published: built, and imported by its names. */

import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";

const FOLDER = new URL("..", import.meta.url).pathname;
const TSC = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin", "tsc");
const PRINT = `
  const all = await Promise.all(["", "/react", "/ai"].map((name) => import("supabase-baml-bridge-client" + name)));
  console.log(JSON.stringify(all.map((module) => Object.keys(module).sort())));
`;

test("it is built, and every entry can be imported", { timeout: 60_000 }, () => {
  rmSync(join(FOLDER, "dist"), { recursive: true, force: true });
  execFileSync(process.execPath, [TSC, "-p", join(FOLDER, "tsconfig.build.json")], { cwd: FOLDER });
  const printed = execFileSync(process.execPath, ["--input-type=module", "-e", PRINT], { cwd: FOLDER, encoding: "utf8" });
  const [core, react, ai] = JSON.parse(printed) as string[][];
  expect(core).toEqual(["ChatSession", "CodeFiles", "RequestError", "SessionList", "hasEnded", "newId", "openSession", "openSessionList"]);
  expect(react).toEqual(["useSession", "useSessions", "useSnapshot"]);
  expect(ai).toEqual(["SupabaseChatTransport", "readUIMessages", "toUIMessage"]);
});
