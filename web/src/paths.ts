import type { CodeFile } from "supabase-baml-bridge-client";

/** What turns the direction of writing: with it `exe.png` may be what is shown of `gnp.exe`. */
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** A file's path in the order of its characters. */
export function shownPath({ path }: Pick<CodeFile, "path">): string {
  return path.replace(BIDI, "\ufffd");
}

/** What a file is called on the reader's disk. */
export function downloadName(file: Pick<CodeFile, "path">): string {
  return shownPath(file).split("/").at(-1) || "file.txt";
}
