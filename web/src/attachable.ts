/** Which files can be attached to a message, and what is said of the others. */

import { ATTACHMENT_TYPES, MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, attachmentType } from "supabase-baml-bridge-client";
import { shownPath } from "./paths.ts";

/** The function that is asked, as far as attachments are concerned. */
interface Reader {
  title: string;
  /** Media types that it reads. */
  accepts: readonly string[];
}

/** What is known of a file that was attached. */
interface Uploaded {
  name: string;
  type: string;
  state: string;
}

const KINDS: readonly [word: string, types: readonly [type: string, name: string][]][] = [
  ["images", [["image/png", "PNG"], ["image/jpeg", "JPEG"], ["image/gif", "GIF"], ["image/webp", "WebP"]]],
  ["audio", [["audio/mpeg", "MP3"], ["audio/wav", "WAV"]]],
  ["PDF files", [["application/pdf", ""]]],
  ["text files", [["text/plain", ""]]],
];
const MB = 1024 * 1024;
const TOO_LARGE = `the attachments of a message take ${MAX_ATTACHMENT_BYTES / MB} MB together at most`;

/** The media types of a catalogue's row, as far as there is anywhere to store a file of them. */
export function acceptedTypes(accepts: unknown): string[] {
  const types = Array.isArray(accepts) ? accepts : [];
  return ATTACHMENT_TYPES.filter((type) => types.includes(type));
}

/** A name that is not `taken`, so that two files can be told apart: `image (2).png`. */
export function freeName(name: string, taken: readonly string[]): string {
  const [, stem = name, ending = ""] = /^(.+?)(\.[^.]*)?$/s.exec(name) ?? [];
  for (let number = 1; ; number++) {
    const free = number === 1 ? name : `${stem} (${number})${ending}`;
    if (!taken.includes(free)) return free;
  }
}

/** A file with the media type that it would be stored with; null: none that can be attached. */
export interface Typed {
  file: File;
  type: string | null;
}
export type Attachable = Typed & { type: string };

/** Reads the files for their types, except those that are too large to be attached. */
export function withTypes(files: readonly File[]): Promise<Typed[]> {
  const typeOf = (file: File) => (file.size > MAX_ATTACHMENT_BYTES ? null : attachmentType(file).catch(() => null));
  return Promise.all(files.map(async (file) => ({ file, type: await typeOf(file) })));
}

/** The files that can be attached to what is `held` already, and a sentence for each reason that others cannot. */
export function attachable(
  files: readonly Typed[],
  held: readonly { size: number }[],
  by: Reader,
): { taken: Attachable[]; refused: string | null } {
  const refused = new Map<string, string[]>();
  const taken: Attachable[] = [];
  let bytes = held.reduce((sum, { size }) => sum + size, 0);
  for (const { file, type } of files) {
    const reason = reasonAgainst(file, type);
    if (reason !== null) refused.set(reason, [...(refused.get(reason) ?? []), shownPath({ path: file.name })]);
    else {
      taken.push({ file, type: type! });
      bytes += file.size;
    }
  }

  function reasonAgainst(file: File, type: string | null): string | null {
    if (file.size === 0) return "there is nothing in it";
    if (file.size > MAX_ATTACHMENT_BYTES) return TOO_LARGE;
    if (type === null || !by.accepts.includes(type)) return `${by.title} reads ${wordsOf(by.accepts)}`;
    if (held.length + taken.length >= MAX_ATTACHMENTS) return `a message takes ${MAX_ATTACHMENTS} attachments at most`;
    return bytes + file.size > MAX_ATTACHMENT_BYTES ? TOO_LARGE : null;
  }

  const sentences = [...refused].map(([reason, names]) => `${listed(names)} not added: ${reason}.`);
  return { taken, refused: sentences.length === 0 ? null : sentences.join(" ") };
}

/** Why a draft with these attachments cannot be sent, or null. */
export function unsendable(uploads: readonly Uploaded[], by: Reader): string | null {
  const unread = uploads.find(({ type }) => !by.accepts.includes(type));
  if (unread) return `${shownPath({ path: unread.name })} cannot be sent: ${by.title} reads ${wordsOf(by.accepts)}.`;
  const failed = uploads.find(({ state }) => state === "failed");
  return failed ? `${shownPath({ path: failed.name })} is not uploaded. Try again, or remove it.` : null;
}

/** Media types in words: `images (PNG, JPEG) and text files`. */
export function wordsOf(types: readonly string[]): string {
  const kinds = KINDS.flatMap(([word, all]) => {
    const own = all.filter(([type]) => types.includes(type));
    const names = own.map(([, name]) => name).join(", ");
    return own.length === 0 ? [] : [names === "" ? word : `${word} (${names})`];
  });
  if (kinds.length === 0) return "no attachments";
  return kinds.length === 1 ? kinds[0]! : `${kinds.slice(0, -1).join(", ")} and ${kinds.at(-1)}`;
}

/** `12 KB`. */
export function shownSize(bytes: number): string {
  const [amount, unit] = bytes < MB ? [bytes / 1024, "KB"] : [bytes / MB, "MB"];
  const shown = amount < 10 && unit === "MB" ? amount.toFixed(1) : Math.ceil(amount).toLocaleString("en");
  return `${shown} ${unit}`;
}

function listed(names: readonly string[]): string {
  if (names.length === 1) return `${names[0]} was`;
  return names.length === 2 ? `${names[0]} and ${names[1]} were` : `${names[0]} and ${names.length - 1} others were`;
}
