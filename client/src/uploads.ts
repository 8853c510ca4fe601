/** The uploads of one session. */

import { ATTACHMENT_TYPES, MAX_ATTACHMENT_BYTES, attachmentType, fitName, nameOf, newPath, wordsOf } from "./attachments.ts";
import type { Backend } from "./backend.ts";
import { newId } from "./id.ts";
import { backoff } from "./poller.ts";
import { unlessAborted } from "./storage.ts";
import { RequestError, type AttachOptions, type Attachment } from "./types.ts";

/** How often an upload is tried that gets no answer. */
const TRIES = 3;
/** The pause after the first failure. */
const FIRST_PAUSE_MS = 1_000;

export class Uploads {
  readonly #sessionId: string;
  readonly #backend: Pick<Backend, "upload">;
  /** The paths of files whose upload has failed. It may have arrived, so another try goes there again. */
  readonly #failed = new WeakMap<Blob, string>();

  constructor(sessionId: string, backend: Pick<Backend, "upload">) {
    this.#sessionId = sessionId;
    this.#backend = backend;
  }

  /** See `ChatSession.attach`. */
  async add(file: Blob, options: AttachOptions): Promise<Attachment> {
    const { name = nameOf(file), accepts = ATTACHMENT_TYPES } = options;
    const type = await typeOf(file, name, accepts);
    const path = this.#failed.get(file) ?? newPath(this.#sessionId, newId(), type);
    this.#failed.delete(file); // while it is uploaded, the same file makes another object
    try {
      await this.#upload(path, file, type, options);
    } catch (error) {
      this.#failed.set(file, path);
      throw error;
    }
    return { path, name: fitName(name, path), type, size: file.size };
  }

  async #upload(path: string, file: Blob, type: string, options: AttachOptions): Promise<void> {
    for (let failures = 1; ; failures++) {
      try {
        return await this.#backend.upload(path, file, type, options);
      } catch (error) {
        if (!(error as Partial<RequestError>).isRetryable || failures === TRIES) throw error;
      }
      const pause = backoff(failures, FIRST_PAUSE_MS);
      await unlessAborted(options.signal, () => new Promise((resolve) => setTimeout(resolve, pause)));
    }
  }
}

/** The type of a file that can be uploaded. Throws `RequestError` for any other. */
async function typeOf(file: Blob, name: string, accepts: readonly string[]): Promise<string> {
  const shown = name === "" ? "This file" : `"${name}"`;
  if (file.size === 0) throw new RequestError(`${shown} is empty.`, "empty_file");
  if (file.size > MAX_ATTACHMENT_BYTES) throw new RequestError(`${shown} is larger than 10 MiB.`, "too_large");
  const type = await attachmentType(file, name).catch(() => {
    throw new RequestError(`${shown} cannot be read.`, "unreadable_file");
  });
  if (type !== null && accepts.includes(type)) return type;
  const taken = accepts.length > 0 ? ` These can: ${wordsOf(accepts)}.` : "";
  throw new RequestError(`${shown} cannot be attached.${taken}`, "unsupported_type");
}
