/** The attachments of a session that no message in the database has yet, and their uploads. */

import { useSyncExternalStore } from "react";
import type { Attachment, ChatSession } from "supabase-baml-bridge-client";
import { messageOf } from "./action.ts";
import { freeName, type Attachable } from "./attachable.ts";
import { storage } from "./storage.ts";

export interface Upload {
  /** Of this page alone. */
  readonly id: string;
  readonly name: string;
  readonly type: string;
  readonly size: number;
  readonly state: "waiting" | "uploading" | "done" | "failed";
  /** How much of it is uploaded, from 0 to 1. */
  readonly progress: number;
  /** Why it failed. */
  readonly error: string | null;
  /** What a message names; null: it is not uploaded. */
  readonly attachment: Attachment | null;
  /** Whether it belongs to the draft, not to a message that is on its way. */
  readonly inDraft: boolean;
  /** The message that it was last sent with. */
  readonly messageId: string | null;
}

/** What is kept of an upload that is done. */
type Kept = Attachment & { messageId: string | null };
/** What a page has besides, and loses when it is left. */
interface Source {
  file: File;
  abort: AbortController;
}

/** So that requests of the page need not wait for all uploads. */
const AT_ONCE = 3;

/** The uploads of one session. They outlive the view of the session, and those that are done a reload. */
export class Uploads {
  readonly #key: string;
  readonly #sources = new Map<string, Source>();
  readonly #previews = new Map<string, string>();
  readonly #listeners = new Set<() => void>();
  #all: readonly Upload[];
  #session: Pick<ChatSession, "attach"> | null = null;
  #count = 0;
  #closed = false;

  constructor(sessionId: string) {
    this.#key = `attached:${sessionId}`;
    this.#all = this.#restored();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly getSnapshot = (): readonly Upload[] => this.#all;

  /** Uploads what waits, and what is added later. */
  open(session: Pick<ChatSession, "attach">): void {
    this.#session = session;
    this.#uploadNext();
  }

  /** Adds files to the draft. */
  add(files: readonly Attachable[]): void {
    const all = [...this.#all];
    for (const { file, type } of files) {
      const names = all.filter(({ inDraft }) => inDraft).map(({ name }) => name);
      const [id, name] = [this.#newId(), freeName(file.name, names)];
      this.#sources.set(id, { file, abort: new AbortController() });
      if (type.startsWith("image/")) this.#previews.set(id, URL.createObjectURL(file));
      all.push({
        ...{ id, name, type, size: file.size, state: "waiting", progress: 0 },
        ...{ error: null, attachment: null, inDraft: true, messageId: null },
      });
    }
    this.#change(all);
    this.#uploadNext();
  }

  /** Removes a file, and stops its upload. */
  remove(id: string): void {
    this.#drop((upload) => upload.id === id);
  }

  retry(id: string): void {
    this.#update(id, { state: "waiting", progress: 0, error: null });
    this.#uploadNext();
  }

  /** Gives the draft's files to a message. */
  give(messageId: string): void {
    this.#change(this.#all.map((one) => (one.inDraft ? { ...one, inDraft: false, messageId } : one)));
  }

  /** Puts the files of a message back into the draft. Of no message: those of all. */
  takeBack(messageId?: string): void {
    const isBack = (one: Upload) => !one.inDraft && (messageId === undefined || one.messageId === messageId);
    if (this.#all.some(isBack)) this.#change(this.#all.map((one) => (isBack(one) ? { ...one, inDraft: true } : one)));
  }

  /** Forgets the files of messages that are in the database. */
  arrived(messageIds: ReadonlySet<string>): void {
    this.#drop(({ messageId }) => messageId !== null && messageIds.has(messageId));
  }

  /**
   * Waits until so many files of a message are uploaded. Resolves to null if they are taken back meanwhile, and rejects
   * if one cannot be uploaded.
   */
  uploaded(messageId: string, count: number): Promise<readonly Attachment[] | null> {
    return new Promise((resolve, reject) => {
      const check = (): void => {
        const own = this.#all.filter((upload) => !upload.inDraft && upload.messageId === messageId);
        const failed = own.find(({ state }) => state === "failed");
        const done = own.flatMap(({ attachment }) => attachment ?? []);
        if (own.length < count) resolve(null);
        else if (failed) reject(new Error(`${failed.name} could not be uploaded: ${failed.error}`));
        else if (done.length === count) resolve(done);
        else return;
        stop();
      };
      const stop = this.subscribe(check);
      check();
    });
  }

  /** The URL of an image that this page uploads or has uploaded, by the upload's id or the object's path. */
  preview(idOrPath: string): string | null {
    return this.#previews.get(idOrPath) ?? null;
  }

  /** Stops all uploads, and forgets all files. */
  close(): void {
    this.#drop(() => true);
    this.#closed = true;
  }

  #uploadNext(): void {
    if (this.#session === null) return;
    const running = this.#all.filter(({ state }) => state === "uploading").length;
    const next = this.#all.filter(({ state }) => state === "waiting").slice(0, Math.max(0, AT_ONCE - running));
    for (const upload of next) void this.#upload(upload, this.#session, this.#sources.get(upload.id)!);
  }

  async #upload({ id, name }: Upload, to: Pick<ChatSession, "attach">, { file, abort }: Source): Promise<void> {
    this.#update(id, { state: "uploading" });
    try {
      const onProgress = (progress: number): void => this.#update(id, { progress });
      const attachment = await to.attach(file, { name, signal: abort.signal, onProgress });
      const preview = this.#previews.get(id);
      if (preview !== undefined) this.#previews.set(attachment.path, preview);
      this.#update(id, { state: "done", progress: 1, attachment });
    } catch (reason) {
      this.#update(id, { state: "failed", error: messageOf(reason) });
    }
    this.#uploadNext();
  }

  #update(id: string, to: Partial<Upload>): void {
    if (this.#all.some((upload) => upload.id === id)) {
      this.#change(this.#all.map((upload) => (upload.id === id ? { ...upload, ...to } : upload)));
    }
  }

  #drop(isDropped: (upload: Upload) => boolean): void {
    const dropped = this.#all.filter(isDropped);
    if (dropped.length === 0) return;
    this.#change(this.#all.filter((upload) => !dropped.includes(upload)));
    for (const { id, attachment } of dropped) {
      this.#sources.get(id)?.abort.abort();
      this.#sources.delete(id);
      const preview = this.#previews.get(id);
      if (preview !== undefined) URL.revokeObjectURL(preview);
      this.#previews.delete(id);
      if (attachment !== null) this.#previews.delete(attachment.path);
    }
    this.#uploadNext();
  }

  #change(to: readonly Upload[]): void {
    if (this.#closed) return;
    this.#all = to;
    this.#keep();
    for (const listener of [...this.#listeners]) listener();
  }

  #keep(): void {
    const done: Kept[] = this.#all.flatMap(({ attachment, messageId }) =>
      attachment === null ? [] : [{ ...attachment, messageId }],
    );
    try {
      if (done.length === 0) storage("sessionStorage")?.removeItem(this.#key);
      else storage("sessionStorage")?.setItem(this.#key, JSON.stringify(done));
    } catch {
      // the storage is full: the attachments last as long as the page
    }
  }

  #restored(): Upload[] {
    const kept = storage("sessionStorage")?.getItem(this.#key) ?? null;
    const done = kept === null ? [] : (JSON.parse(kept) as Kept[]);
    return done.map(({ messageId, ...attachment }) => ({
      ...{ id: this.#newId(), name: attachment.name, type: attachment.type, size: attachment.size },
      ...{ state: "done", progress: 1, error: null, attachment, inDraft: true, messageId },
    }));
  }

  #newId(): string {
    return `upload-${this.#count++}`;
  }
}

const uploads = new Map<string, Uploads>();

/** The uploads of a session: the same object until the user signs out. */
export function uploadsOf(sessionId: string): Uploads {
  const own = uploads.get(sessionId) ?? new Uploads(sessionId);
  uploads.set(sessionId, own);
  return own;
}

/** What is uploaded for a session, or waits for it. */
export function useUploads(sessionId: string): readonly Upload[] {
  const { subscribe, getSnapshot } = uploadsOf(sessionId);
  return useSyncExternalStore(subscribe, getSnapshot);
}

/** How much of a message's attachments is uploaded, from 0 to 1; null: there is nothing to upload. */
export function useProgress({ id, session_id }: { id: string; session_id: string }): number | null {
  const { subscribe, getSnapshot } = uploadsOf(session_id);
  return useSyncExternalStore(subscribe, () => progressOf(getSnapshot(), id));
}

function progressOf(all: readonly Upload[], messageId: string): number | null {
  const own = all.filter((upload) => !upload.inDraft && upload.messageId === messageId);
  if (own.every(({ state }) => state === "done")) return null;
  const bytes = own.reduce((sum, { size }) => sum + size, 0);
  return own.reduce((sum, { size, progress }) => sum + size * progress, 0) / bytes;
}

/** An upload as a message shows it. */
export function shownUpload({ id, name, type, size, attachment }: Upload): Attachment {
  return attachment ?? { path: id, name, type, size };
}

/** Stops all uploads, so that the next user of this tab cannot see what was attached. */
export function forgetUploads(): void {
  for (const own of uploads.values()) own.close();
  uploads.clear();
}
