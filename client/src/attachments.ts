/** What can be attached to a question: types, sizes, names and paths. */

/** The media types that the bucket takes. */
export const ATTACHMENT_TYPES: readonly string[] = [
  "image/png",
  "image/jpeg",
  "image/gif",
  "image/webp",
  "application/pdf",
  "audio/mpeg",
  "audio/wav",
  "text/plain",
];
/** The most attachments of one message. */
export const MAX_ATTACHMENTS = 8;
/** The most bytes of the attachments of one message, and of each. */
export const MAX_ATTACHMENT_BYTES = 10 * 1024 * 1024;

/** The path of an object, from the URL of a part (`attachments/<path>`) or a signed URL. Null if it is neither. */
export function attachmentPath(url: string): string | null {
  return /(?:^|\/)attachments\/([0-9a-f-]{36}\/[0-9a-f-]{36}\.[a-z0-9]{1,8})(?:\?|$)/.exec(url)?.[1] ?? null;
}

/** The type under which `attach` would store a file: one of `ATTACHMENT_TYPES`, or null if it would refuse it. */
export async function attachmentType(file: Blob): Promise<string | null> {
  return file.type;
}
