/** The file parts of the AI SDK's messages. */

import type { FileUIPart, UIMessage } from "ai";
import { attachmentPath } from "./attachments.ts";
import type { ChatSession } from "./session.ts";
import type { Attachment } from "./types.ts";

/** The URL of an object in a part, which has no address of its own. */
export function urlOf(path: string): string {
  return `attachments/${path}`;
}

export function filePart({ path, name, type }: Attachment): FileUIPart {
  return { type: "file", mediaType: type, filename: name, url: urlOf(path) };
}

/** The path of a part's object. Null if it has none. */
export function pathOf(part: UIMessage["parts"][number]): string | null {
  return part.type === "file" ? attachmentPath(part.url) : null;
}

/** The most messages whose uploads are remembered. */
const MAX_MESSAGES = 8;

/** A file with a `data:` URL, and its upload. */
interface Upload {
  url: string;
  /** Until it is uploaded: another try goes on with the same upload. */
  file: Blob | null;
  attachment?: Promise<Attachment>;
}

/** Turns the file parts of questions into attachments. */
export class ChatFiles {
  /** By message, then by the part's index: a message that is tried again, or edited, uploads each of its files once. */
  readonly #uploads = new Map<string, Upload[]>();

  /** The attachments of a message. Those with `data:` URLs are uploaded. Throws `RequestError`. */
  async attach(session: ChatSession, message: UIMessage, signal?: AbortSignal): Promise<Attachment[]> {
    const parts = message.parts.filter((part) => part.type === "file");
    if (parts.length === 0) return [];
    const known = this.#uploads.get(message.id) ?? [];
    this.#uploads.set(message.id, known);
    for (const id of this.#uploads.keys()) if (this.#uploads.size > MAX_MESSAGES) this.#uploads.delete(id);
    return Promise.all(
      parts.map(async ({ url, mediaType: type, filename: name }, at) => {
        const path = attachmentPath(url);
        if (path !== null) return { path, name: name ?? "", type, size: 0 };
        // an edited message may have another file in its place
        const upload: Upload = known[at]?.url === url ? known[at] : { url, file: await fileOf(url) };
        known[at] = upload;
        upload.attachment ??= session.attach(upload.file!, { name, signal });
        try {
          const attachment = await upload.attachment;
          upload.file = null;
          return attachment;
        } catch (error) {
          delete upload.attachment;
          throw error;
        }
      }),
    );
  }
}

async function fileOf(url: string): Promise<Blob> {
  const [, type = "", base64, data] = /^data:([^,]*?)(;base64)?,(.*)$/s.exec(url) ?? [];
  if (data === undefined) throw new Error("Only files of this device can be attached.");
  try {
    const bytes = (): Uint8Array<ArrayBuffer> => Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    return new Blob([base64 ? bytes() : decodeURIComponent(data)], { type });
  } catch {
    // React Native makes no blob of bytes, but fetches it; a page's policy may forbid that
    return (await fetch(url)).blob();
  }
}
