/** No module of the client or the page imports itself, directly or through others. */

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { expect, test } from "vitest";

const FOLDER = new URL("..", import.meta.url).pathname;
const IMPORT = /^(?:import|export)\b[^;]*?\bfrom "(\.[^"]+)";/gm;
const LAZY = /\bimport\("(\.[^"]+)"\)/g;

/** The imports of each module, by path; types too. */
function readImports(folder: string): Map<string, string[]> {
  const files = readdirSync(folder).filter((name) => /\.tsx?$/.test(name));
  return new Map(
    files.map((name) => {
      const path = join(folder, name);
      const text = readFileSync(path, "utf8");
      const found = [...text.matchAll(IMPORT), ...text.matchAll(LAZY)].map(([, to]) => resolve(dirname(path), to!));
      return [path, found];
    }),
  );
}

/** The first cycle below `path`, or null. */
function findCycle(imports: Map<string, string[]>, path: string, above: string[] = []): string[] | null {
  if (above.includes(path)) return [...above.slice(above.indexOf(path)), path];
  for (const next of imports.get(path) ?? []) {
    const cycle = findCycle(imports, next, [...above, path]);
    if (cycle !== null) return cycle;
  }
  return null;
}

test.each(["src", "../web/src"])("%s has no circular imports", (folder) => {
  const imports = readImports(join(FOLDER, folder));
  expect([...imports.values()].flat().length).toBeGreaterThan(10);
  expect([...imports.values()].flat().filter((path) => !existsSync(path))).toEqual([]);
  expect([...imports.keys()].map((path) => findCycle(imports, path)).filter((cycle) => cycle !== null)).toEqual([]);
});

test("a cycle is found", () => {
  const imports = new Map([["a", ["b"]], ["b", ["c"]], ["c", ["b"]]]);
  expect(findCycle(imports, "a")).toEqual(["b", "c", "b"]);
});
