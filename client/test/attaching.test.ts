/** The uploads of a draft and of messages that wait for them, whatever happens in which order. */

import fc from "fast-check";
import { expect, test } from "vitest";
import { Uploads, type Upload } from "../../web/src/uploads.ts";
import type { AttachOptions, Attachment } from "../src/index.ts";

interface Request {
  name: string;
  options: AttachOptions;
  finish(): void;
  fail(message: string): void;
}

/** A session whose uploads end when a test says so. */
class Session {
  readonly requests: Request[] = [];

  attach(file: Blob, options: AttachOptions = {}): Promise<Attachment> {
    const name = options.name ?? "";
    const path = `session/${name}`;
    return new Promise((resolve, reject) => {
      const fail = (message: string): void => {
        this.#end(name);
        reject(new Error(message));
      };
      const finish = (): void => {
        this.#end(name);
        resolve({ path, name, type: "image/png", size: file.size });
      };
      options.signal?.addEventListener("abort", () => fail("stopped"));
      this.requests.push({ name, options, finish, fail });
    });
  }

  #end(name: string): void {
    const at = this.requests.findIndex((request) => request.name === name);
    if (at >= 0) this.requests.splice(at, 1);
  }

  of(name: string): Request {
    return this.requests.find((request) => request.name === name)!;
  }
}

const png = (name: string) => ({ file: new File(["x"], name), type: "image/png" });
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function begin(...names: string[]): { session: Session; uploads: Uploads; of(name: string): Upload } {
  const session = new Session();
  const uploads = new Uploads("id");
  uploads.add(names.map(png));
  uploads.open(session);
  return { session, uploads, of: (name) => uploads.getSnapshot().find((upload) => upload.name === name)! };
}

test("files wait for their session, and then a few at a time are uploaded", async () => {
  const uploads = new Uploads("id");
  uploads.add(["a", "b", "c", "d"].map(png));
  expect(uploads.getSnapshot().map(({ state }) => state)).toEqual(["waiting", "waiting", "waiting", "waiting"]);
  const session = new Session();
  uploads.open(session);
  expect(session.requests.map(({ name }) => name)).toEqual(["a", "b", "c"]);
  session.of("b").finish();
  await settled();
  expect(session.requests.map(({ name }) => name)).toEqual(["a", "c", "d"]);
});

test("a message gets the attachments in the order in which they were added", async () => {
  const { session, uploads, of } = begin("a", "b");
  uploads.give("message");
  uploads.add([png("later")]);
  const uploaded = uploads.uploaded("message", 2);
  session.of("b").finish();
  session.of("a").options.onProgress?.(0.5);
  await settled();
  expect(of("a").progress).toBe(0.5);
  session.of("a").finish();
  expect((await uploaded)?.map(({ name }) => name)).toEqual(["a", "b"]);
  uploads.arrived(new Set(["message"]));
  expect(uploads.getSnapshot().map(({ name }) => name)).toEqual(["later"]);
});

test("a message whose upload fails says which one, and why; the others stay", async () => {
  const { session, uploads, of } = begin("a", "b");
  uploads.give("message");
  const uploaded = uploads.uploaded("message", 2);
  session.of("a").finish();
  session.of("b").fail("The server is busy.");
  await expect(uploaded).rejects.toThrow("b could not be uploaded: The server is busy.");
  uploads.takeBack("message");
  expect(uploads.getSnapshot().every(({ inDraft }) => inDraft)).toBe(true);
  uploads.retry(of("b").id);
  session.of("b").finish();
  uploads.give("message");
  expect((await uploads.uploaded("message", 2))?.length).toBe(2);
});

test("a message whose attachments are taken back does not get them", async () => {
  const { uploads } = begin("a");
  uploads.give("message");
  const uploaded = uploads.uploaded("message", 1);
  uploads.takeBack("message");
  expect(await uploaded).toBeNull();
});

test("whoever signs out stops the uploads, and nobody sees what was attached", async () => {
  const { session, uploads } = begin("a");
  const { signal } = session.of("a").options;
  const preview = uploads.preview(uploads.getSnapshot()[0]!.id)!;
  uploads.close();
  await settled();
  expect(signal?.aborted).toBe(true);
  expect(uploads.getSnapshot()).toEqual([]);
  await expect(fetch(preview)).rejects.toThrow();
});

test("whatever happens, each file is uploaded, removed, or can be tried again", async () => {
  const action = fc.oneof(
    fc.record({ kind: fc.constantFrom("add", "give", "take back") }),
    fc.record({ kind: fc.constantFrom("remove", "retry", "finish", "fail"), which: fc.nat(10) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 40 }), async (actions) => {
      const session = new Session();
      const uploads = new Uploads("id");
      uploads.open(session);
      let added = 0;
      const removed = new Set<string>();
      for (const one of actions) {
        const all = uploads.getSnapshot();
        const upload = "which" in one ? all[one.which % Math.max(all.length, 1)] : undefined;
        const request = "which" in one ? session.requests[one.which % Math.max(session.requests.length, 1)] : undefined;
        if (one.kind === "add") uploads.add([png(`${added++}`)]);
        if (one.kind === "give") uploads.give("message");
        if (one.kind === "take back") uploads.takeBack("message");
        if (one.kind === "remove" && upload) {
          removed.add(upload.name);
          uploads.remove(upload.id);
        }
        if (one.kind === "retry" && upload?.state === "failed") uploads.retry(upload.id);
        if (one.kind === "finish") request?.finish();
        if (one.kind === "fail") request?.fail("Away");
        await settled();
        const now = uploads.getSnapshot();
        const running = now.filter(({ state }) => state === "uploading").map(({ name }) => name);
        expect(session.requests.map(({ name }) => name).sort()).toEqual([...running].sort());
        expect(running.length).toBeLessThanOrEqual(3);
        // nothing waits while there is room
        expect(running.length === 3 || now.every(({ state }) => state !== "waiting")).toBe(true);
        expect(new Set(now.map(({ id }) => id)).size).toBe(now.length);
        expect(now.map(({ name }) => name)).toEqual(
          Array.from({ length: added }, (_, name) => `${name}`).filter((name) => !removed.has(name)),
        );
      }
    }),
  );
});
