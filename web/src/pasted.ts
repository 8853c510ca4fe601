/** Long texts that become code files of the session. */

import { RequestError, type CodeFiles } from "supabase-baml-bridge-client";

export interface Pasted {
  path: string;
  content: string;
  /** The message that it was sent with, if that may have arrived. */
  messageId?: string;
}

/** A paste of more characters becomes a file. */
const MOST_PASTED = 4_000;
/** A message of more bytes becomes a file when it is sent: a database may refuse it as a message. */
const MOST_TYPED_BYTES = 32_768;
/** The most bytes that `code_files` stores in a file. */
const MOST_FILE_BYTES = 262_144;
const TAKEN = "23505";

export const isLongPaste = (text: string): boolean => text.length > MOST_PASTED;
export const isLongMessage = (text: string): boolean => bytesOf(text) > MOST_TYPED_BYTES;

/** Why a text cannot become a file, or null. */
export function tooLarge(text: string): string | null {
  const bytes = bytesOf(text);
  if (bytes <= MOST_FILE_BYTES) return null;
  const [size, most] = [Math.ceil(bytes / 1024), MOST_FILE_BYTES / 1024];
  return `This text is too long: ${size.toLocaleString("en")} KB, and a file holds ${most} KB. Send it in parts.`;
}

/** The first free name of the form `pasted-1.txt`. */
export function freePath(taken: readonly { path: string }[]): string {
  for (let number = 1; ; number++) {
    const path = `pasted-${number}.txt`;
    if (!taken.some((file) => file.path === path)) return path;
  }
}

/** The text of a message that brings files: it names them, since the model sees all files of the session. */
export function withFiles(text: string, files: readonly Pasted[]): string {
  if (files.length === 0) return text;
  const see = `See ${files.map(({ path }) => path).join(", ")}.`;
  return text.trim() === "" ? see : `${text}\n\n${see}`;
}

/**
 * Adds files to a session and returns them with the paths that they got. One that is already there, because the response
 * to an earlier attempt was lost, is not added twice. Throws `RequestError`.
 */
export async function addFiles(files: CodeFiles, pasted: readonly Pasted[]): Promise<Pasted[]> {
  const added: Pasted[] = [];
  for (let file of pasted) {
    for (let isAdded = false; !isAdded; ) {
      try {
        await files.add(file.path, file.content);
        isAdded = true;
      } catch (error) {
        if (!(error instanceof RequestError && error.code === TAKEN)) throw error;
        await files.read();
        const other = files.list().find(({ path }) => path === file.path);
        isAdded = other?.content === stored(file.content);
        if (!isAdded) file = { ...file, path: freePath([...files.list(), ...added]) };
      }
    }
    added.push(file);
  }
  return added;
}

/** A text as the database stores it: without NUL, and with U+FFFD for half an emoji. */
function stored(text: string): string {
  const bytes = new TextEncoder().encode(text.replaceAll("\0", ""));
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}
