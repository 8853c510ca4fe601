/** What can be attached to a question: types, sizes, names and paths. */

import { storable } from "./storable.ts";

/** The extension that each type gets in a path, and the word for it. */
const KINDS: Record<string, readonly [extension: string, word: string]> = {
  "image/png": ["png", "PNG"],
  "image/jpeg": ["jpg", "JPEG"],
  "image/gif": ["gif", "GIF"],
  "image/webp": ["webp", "WebP"],
  "application/pdf": ["pdf", "PDF"],
  "audio/mpeg": ["mp3", "MP3"],
  "audio/wav": ["wav", "WAV"],
  "text/plain": ["txt", "text (UTF-8)"],
};
/** Other names that browsers have for a type, without `x-` and `vnd.`. */
const ALIASES: Record<string, string> = {
  "image/jpg": "image/jpeg",
  "image/pjpeg": "image/jpeg",
  "audio/mp3": "audio/mpeg",
  "audio/mpeg3": "audio/mpeg",
  "audio/wave": "audio/wav",
  "audio/pn-wav": "audio/wav",
};
const TEXT = "text/plain";

/** The media types that the bucket takes. */
export const ATTACHMENT_TYPES: readonly string[] = Object.keys(KINDS);
/** Those that their objects get. */
const EXTENSIONS = ATTACHMENT_TYPES.map((type) => KINDS[type]![0]);
/** The most attachments of one message. */
export const MAX_ATTACHMENTS = 8;
/** The most bytes of the attachments of one message, and of each. */
export const MAX_ATTACHMENT_BYTES = 10 * 1024 * 1024;

/** The most bytes of a name in UTF-8. */
const MAX_NAME_BYTES = 255;
/** The longest extension that a name keeps when it is cut. */
const MAX_EXTENSION = 16;
/** What no name may have: slashes, control characters, and characters that are not seen or turn the text around. */
const NOT_IN_NAMES = /[/\\\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** The path of an object, from the URL of a part (`attachments/<path>`) or a signed URL. Null if it is neither. */
export function attachmentPath(url: string): string | null {
  if (url.startsWith("data:")) return null;
  return /(?:^|\/)attachments\/([0-9a-f-]{36}\/[0-9a-f-]{36}\.[a-z0-9]{1,8})(?:\?|$)/.exec(url)?.[1] ?? null;
}

/** The path for a new object of a session. */
export function newPath(sessionId: string, objectId: string, type: string): string {
  return `${sessionId}/${objectId}.${KINDS[type]![0]}`;
}

/**
 * The name of the object at `path` as the database takes it: without what it refuses, with an extension of its type, and
 * cut before that.
 */
export function fitName(name: string, path: string): string {
  const own = extensionOf(path);
  let clean = storable(name).replace(NOT_IN_NAMES, "").trim();
  if (!/[^\s.]/.test(clean)) clean = `attachment.${own}`;
  const fitted = cut(clean, MAX_NAME_BYTES);
  const given = kindOf(fitted);
  // the database refuses an image that is called a PDF
  if (given === kindOf(path) || !EXTENSIONS.includes(given)) return fitted;
  return `${cut(clean, MAX_NAME_BYTES - own.length - 1)}.${own}`;
}

/**
 * The type under which `attach` stores a file: one of `ATTACHMENT_TYPES`, or null if it refuses the file. Any text in
 * UTF-8 is `text/plain`, whatever the browser calls it: Markdown, JSON, source code. Rejects if the file cannot be read.
 */
export async function attachmentType(file: Blob, name: string = nameOf(file)): Promise<string | null> {
  const given = file.type.split(";")[0]!.trim().toLowerCase().replace(/\/(x-|vnd\.)/, "/");
  const isUnknown = given === "" || given === "application/octet-stream";
  const type = isUnknown ? ATTACHMENT_TYPES[EXTENSIONS.indexOf(kindOf(name))] : (ALIASES[given] ?? given);
  if (type && type !== TEXT && KINDS[type]) return type;
  return (await isText(file, given.startsWith("text/") || type === TEXT)) ? TEXT : null;
}

/** The name of a `File`. */
export function nameOf(file: Blob & { name?: unknown }): string {
  return typeof file.name === "string" ? file.name : "";
}

/** Types as a list that a user can read. */
export function wordsOf(types: readonly string[]): string {
  return types.map((type) => KINDS[type]?.[1] ?? type).join(", ");
}

function extensionOf(name: string): string {
  return /\.([^.]*)$/.exec(name)?.[1]!.toLowerCase() ?? "";
}

/** The extension of a name, or the one that its type gets. */
function kindOf(name: string): string {
  return extensionOf(name).replace("jpeg", "jpg").replace("mpeg", "mp3");
}

/** Whether the bytes are text in UTF-8. `assumed`: the answer in a runtime that cannot tell, such as React Native. */
async function isText(file: Blob, assumed: boolean): Promise<boolean> {
  if (typeof TextDecoder !== "function" || typeof file.arrayBuffer !== "function") return assumed;
  const bytes = await file.arrayBuffer();
  try {
    return !new TextDecoder("utf-8", { fatal: true }).decode(bytes).includes("\0");
  } catch {
    return false;
  }
}

/** A name of at most `most` bytes, which keeps its extension. */
function cut(name: string, most: number): string {
  const dot = name.lastIndexOf(".");
  const end = dot > 0 && name.length - dot <= MAX_EXTENSION ? name.slice(dot) : "";
  let left = most - bytesOf(end);
  let start = "";
  for (const character of name.slice(0, name.length - end.length)) {
    left -= bytesOf(character);
    if (left < 0) break;
    start += character;
  }
  return (start + end).trim();
}

/** The length in UTF-8 of a text without lone surrogates. */
function bytesOf(text: string): number {
  let bytes = 0;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return bytes;
}
