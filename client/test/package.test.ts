/** The published package: packed, installed in a project, imported and compiled against. */

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const FOLDER = new URL("..", import.meta.url).pathname;
const MODULES = join(FOLDER, "..", "node_modules");
const TSC = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin", "tsc");
const PRINT = `
  const all = await Promise.all(["", "/react", "/ai"].map((name) => import("supabase-baml-bridge-client" + name)));
  console.log(JSON.stringify(all.map((module) => Object.keys(module).sort())));
`;

/** A project with the package in its `node_modules`. */
let project: string;
let packed: string[];

beforeAll(() => {
  rmSync(join(FOLDER, "dist"), { recursive: true, force: true });
  const pack = execFileSync("npm", ["pack", "--dry-run", "--json", "--silent"], { cwd: FOLDER, encoding: "utf8" });
  packed = (JSON.parse(pack) as { files: { path: string }[] }[])[0]!.files.map(({ path }) => path);
  project = realpathSync(mkdtempSync(join(tmpdir(), "consumer-")));
  const installed = join(project, "node_modules", "supabase-baml-bridge-client");
  for (const path of packed) {
    mkdirSync(dirname(join(installed, path)), { recursive: true });
    cpSync(join(FOLDER, path), join(installed, path));
  }
  for (const name of ["@supabase", "@ai-sdk", "@types", "ai", "react"]) {
    symlinkSync(join(MODULES, name), join(project, "node_modules", name));
  }
  writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module" }));
}, 120_000);

afterAll(() => rmSync(project, { recursive: true, force: true }));

/** Compiles files in the project. Returns the compiler's errors. */
function compile(files: Record<string, string>, options: object): string {
  rmSync(join(project, "src"), { recursive: true, force: true });
  mkdirSync(join(project, "src"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(project, "src", name), text);
  const compilerOptions = { target: "ES2022", strict: true, noEmit: true, jsx: "react-jsx", types: ["react"], ...options };
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["src"] }));
  return spawnSync(process.execPath, [TSC, "-p", project], { encoding: "utf8" }).stdout;
}

test("the package contains the build, the sources and nothing else", () => {
  const other = packed.filter((path) => !/^(dist|src)\/[a-z.]+\.(js|d\.ts|js\.map|ts)$/.test(path));
  expect(other.sort()).toEqual(["LICENSE", "README.md", "package.json"]);
  expect(packed).toEqual(expect.arrayContaining(["dist/index.js", "dist/index.d.ts", "dist/react.d.ts", "dist/ai.d.ts"]));
});

test("every entry can be imported", () => {
  const printed = execFileSync(process.execPath, ["--input-type=module", "-e", PRINT], { cwd: project, encoding: "utf8" });
  const [core, react, ai] = JSON.parse(printed) as string[][];
  const attachments = ["ATTACHMENT_TYPES", "MAX_ATTACHMENTS", "MAX_ATTACHMENT_BYTES", "attachmentPath", "attachmentType", "signAttachments"];
  const sessions = ["ChatSession", "CodeFiles", "RequestError", "SessionList", "hasEnded", "newId", "openSession", "openSessionList"];
  expect(core).toEqual([...attachments, ...sessions, "readModels"].sort());
  expect(react).toEqual(["useAttachmentUrl", "useSession", "useSessions", "useSnapshot"]);
  expect(ai).toEqual(["SupabaseChatTransport", "readUIMessages", "signParts", "toUIMessage"]);
});

test.each([
  ["bundler", { module: "ESNext", moduleResolution: "bundler", lib: ["ES2023", "DOM"], skipLibCheck: true }],
  ["Node", { module: "NodeNext", moduleResolution: "NodeNext", lib: ["ES2023", "DOM"], skipLibCheck: true }],
])("the README's code compiles with %s module resolution", (_, options) => {
  const blocks = [...readFileSync(join(FOLDER, "README.md"), "utf8").matchAll(/^```(tsx?)\n(.*?)^```/gms)];
  expect(blocks.length).toBeGreaterThan(3);
  const files = Object.fromEntries(blocks.map(([, kind, code], at) => [`block${at}.${kind}`, code!]));
  // without types everything would compile, so one line must fail
  const wrong = `import { openSession } from "supabase-baml-bridge-client";
    // @ts-expect-error: the types are there
    openSession(1, 2).send(3);`;
  expect(compile({ ...files, "wrong.ts": wrong }, options)).toBe("");
});
