/** npm installs the package beside every version of its peers that people have. npm's own resolver, without a registry. */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const FOLDER = new URL("..", import.meta.url).pathname;

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "install-"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Packs an empty package, or this one's `package.json`. Returns the archive's path. */
function pack(manifest: { name: string; version: string }): string {
  const source = join(folder, `${manifest.name}-${manifest.version}`.replaceAll("/", "-"));
  mkdirSync(source);
  writeFileSync(join(source, "package.json"), JSON.stringify(manifest));
  const [packed] = JSON.parse(
    execFileSync("npm", ["pack", "--json", "--silent", "--ignore-scripts", "--pack-destination", folder], { cwd: source, encoding: "utf8" }),
  ) as { filename: string }[];
  return join(folder, packed!.filename.replace("@", "").replace("/", "-"));
}

const packed = new Map<string, string>();

function archive(name: string, version: string): string {
  const key = `${name}@${version}`;
  const path = packed.get(key) ?? pack({ name, version });
  packed.set(key, path);
  return path;
}

/** Resolves a project's dependencies. Returns what npm says. */
function install(beside: [string, string][]): { status: number | null; output: string } {
  const own = JSON.parse(readFileSync(join(FOLDER, "package.json"), "utf8")) as { name: string; version: string };
  const { name } = own;
  const client = packed.get(name) ?? pack(own);
  packed.set(name, client);
  const project = mkdtempSync(join(folder, "project-"));
  const dependencies: Record<string, string> = {};
  for (const [peer, at] of beside) dependencies[peer] ??= `file:${archive(peer, at)}`;
  writeFileSync(
    join(project, "package.json"),
    JSON.stringify({ name: "project", version: "1.0.0", dependencies: { ...dependencies, [name]: `file:${client}` } }),
  );
  const args = ["install", "--package-lock-only", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
  const { status, stdout, stderr } = spawnSync("npm", args, { cwd: project, encoding: "utf8" });
  return { status, output: stdout + stderr };
}

const SUPABASE: [string, string] = ["@supabase/supabase-js", "2.100.0"];

test.each<[string, [string, string][]]>([
  ["nothing else", []],
  ["the AI SDK 5", [["ai", "5.0.0"]]],
  ["the AI SDK 6 and React 18", [["ai", "6.0.326"], ["react", "18.0.0"]]],
  ["the AI SDK 7 and React 19", [["ai", "7.0.173"], ["react", "19.3.1"]]],
  ["a preview of the AI SDK", [["ai", "8.0.0-beta.1"]]],
  ["a later AI SDK", [["ai", "9.1.0"]]],
  ["a later supabase-js", [["@supabase/supabase-js", "2.999.0"]]],
])("it installs beside %s", (_, beside) => {
  const { status, output } = install([...beside, SUPABASE]);
  expect(output).not.toContain("ERESOLVE");
  expect(status).toBe(0);
});

test("it does not install beside a supabase-js that is too old", () => {
  const { status, output } = install([["@supabase/supabase-js", "1.35.0"]]);
  expect(status).not.toBe(0);
  expect(output).toContain("ERESOLVE");
});
