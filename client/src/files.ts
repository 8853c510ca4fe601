/** The code files of one session, to be read and edited. */

import type { Backend } from "./backend.ts";
import { mergeFile } from "./merge.ts";
import type { CodeFile, CodeFileRow, CodeFileVersion, SaveOutcome } from "./types.ts";

export class CodeFiles {
  readonly #sessionId: string;
  readonly #backend: Backend;
  readonly #changed: () => void;
  readonly #files = new Map<string, CodeFile>();
  /** Ids are never used again, so an answer that was under way cannot bring a deleted file back. */
  readonly #deleted = new Set<string>();

  /** Calls `changed` when an edit has changed a file. */
  constructor(sessionId: string, backend: Backend, changed: () => void) {
    this.#sessionId = sessionId;
    this.#backend = backend;
    this.#changed = changed;
  }

  /** Adds a file. Throws `RequestError`, with code 23505 if the path is taken. */
  async add(path: string, content = "", language: string | null = null): Promise<CodeFileRow> {
    return this.#keep(await this.#backend.insertFile({ session_id: this.#sessionId, path, content, language }));
  }

  /**
   * Saves an edit that was begun at `revision` of a file. If the file has changed since, nothing is written, and
   * the outcome holds the file as it is now: show both, and save again at its revision. Throws `RequestError`.
   */
  async save(id: string, content: string, revision: number): Promise<SaveOutcome> {
    const written = await this.#backend.updateFile(id, revision, content);
    if (written !== null) return { saved: true, file: this.#keep(written) };
    const file = await this.#backend.readFile(id);
    if (file !== null) this.#keep(file);
    else this.#gone(id);
    return { saved: false, file };
  }

  /** Deletes a file with its versions. Throws `RequestError`. */
  async remove(id: string): Promise<void> {
    await this.#backend.deleteFile(id);
    this.#gone(id);
  }

  /** The earlier versions of a file, newest first. Throws `RequestError`. */
  readVersions(id: string): Promise<CodeFileVersion[]> {
    return this.#backend.readVersions(id);
  }

  /** The content of a version. Throws `RequestError`. */
  readVersion(versionId: number): Promise<string> {
    return this.#backend.readVersion(versionId);
  }

  /** What is known of the files, by path. */
  list(): CodeFile[] {
    return [...this.#files.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** Takes a row from wherever it came. */
  merge(row: CodeFileRow, conflict = false): void {
    if (this.#deleted.has(row.id)) return;
    this.#files.set(row.id, mergeFile(this.#files.get(row.id), row, conflict));
  }

  /** Takes the ids of deleted files. */
  forget(ids: readonly string[]): void {
    for (const id of ids) {
      this.#deleted.add(id);
      this.#files.delete(id);
    }
  }

  /** Reads all files. Throws `RequestError`. */
  async read(): Promise<void> {
    const gone = new Set(this.#files.keys());
    for (const row of await this.#backend.readFiles(this.#sessionId)) {
      this.merge(row);
      gone.delete(row.id);
    }
    for (const id of gone) this.#files.delete(id);
  }

  #keep(row: CodeFileRow): CodeFileRow {
    this.merge(row);
    this.#changed();
    return row;
  }

  #gone(id: string): void {
    this.forget([id]);
    this.#changed();
  }
}
