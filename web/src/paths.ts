import type { CodeFile } from "supabase-baml-bridge-client";

/** Characters that change the text direction: they can make `gnp.exe` look like `exe.png`. */
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** A file's path with direction changes made visible. */
export function shownPath({ path }: Pick<CodeFile, "path">): string {
  return path.replace(BIDI, "\ufffd");
}

/** How long a download's URL stays valid: some browsers read it some time after the click. */
const DOWNLOAD_MS = 30_000;

/** The name for a downloaded file. */
export function downloadName(file: Pick<CodeFile, "path">): string {
  return shownPath(file).split("/").at(-1) || "file.txt";
}

/** Saves a file where the browser saves downloads. */
export function saveAs(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), DOWNLOAD_MS);
}
