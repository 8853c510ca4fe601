/** The code files of one session. */

import type { Backend } from "./backend.ts";
import { canonicalId } from "./id.ts";
import { mergeFile } from "./merge.ts";
import type { CodeFile, CodeFileRow, CodeFileVersion, SaveOutcome } from "./types.ts";

export class CodeFiles {
  readonly #sessionId: string;
  readonly #backend: Backend;
  readonly #changed: () => void;
  readonly #files = new Map<string, CodeFile>();
  /** Ids are never reused, so a late response cannot bring a deleted file back. */
  readonly #deleted = new Set<string>();

  /** `changed` is called after each edit. */
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
   * Saves an edit that started from `revision` of a file. If the file has changed since then, nothing is written and
   * the outcome holds the current file: show both texts, then save again at its revision. Throws `RequestError`.
   */
  async save(id: string, content: string, revision: number): Promise<SaveOutcome> {
    const own = canonicalId(id);
    const written = await this.#backend.updateFile(own, revision, content);
    if (written !== null) return { saved: true, file: this.#keep(written) };
    const file = await this.#backend.readFile(own);
    if (file !== null) this.#keep(file);
    else this.#drop(own);
    return { saved: false, file };
  }

  /** Deletes a file and its versions. Throws `RequestError`. */
  async remove(id: string): Promise<void> {
    await this.#backend.deleteFile(canonicalId(id));
    this.#drop(canonicalId(id));
  }

  /** The newest 100 versions of a file, newest first. Throws `RequestError`. */
  readVersions(id: string): Promise<CodeFileVersion[]> {
    return this.#backend.readVersions(canonicalId(id));
  }

  /** The content of a version. Throws `RequestError`. */
  readVersion(versionId: number): Promise<string> {
    return this.#backend.readVersion(versionId);
  }

  /** The known files, by path. */
  list(): CodeFile[] {
    return [...this.#files.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** Merges a row that was read or announced. */
  merge(row: CodeFileRow, conflict = false): void {
    if (this.#deleted.has(row.id)) return;
    this.#files.set(row.id, mergeFile(this.#files.get(row.id), row, conflict));
  }

  /** Removes files that were deleted. */
  forget(ids: readonly string[]): void {
    for (const id of ids) {
      this.#deleted.add(id);
      this.#files.delete(id);
    }
  }

  /** Reads all files. Throws `RequestError`. */
  async read(): Promise<void> {
    const missing = new Set(this.#files.keys());
    for (const row of await this.#backend.readFiles(this.#sessionId)) {
      this.merge(row);
      missing.delete(row.id);
    }
    for (const id of missing) this.#files.delete(id);
  }

  #keep(row: CodeFileRow): CodeFileRow {
    this.merge(row);
    this.#changed();
    return row;
  }

  #drop(id: string): void {
    this.forget([id]);
    this.#changed();
  }
}
