import type { CodeFile } from "supabase-baml-bridge-client";

/** Characters that change the text direction: they can make `gnp.exe` look like `exe.png`. */
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** A file's path with direction changes made visible. */
export function shownPath({ path }: Pick<CodeFile, "path">): string {
  return path.replace(BIDI, "\ufffd");
}

/** The name for a downloaded file. */
export function downloadName(file: Pick<CodeFile, "path">): string {
  return shownPath(file).split("/").at(-1) || "file.txt";
}
