/** Uploads: each file is stored once, whatever happens to its requests, and nothing is sent that would be refused. */

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { ATTACHMENT_TYPES, MAX_ATTACHMENT_BYTES, RequestError, type Attachment } from "../src/index.ts";
import { supabaseBackend } from "../src/backend.ts";
import type { AttachOptions } from "../src/types.ts";
import { Uploads } from "../src/uploads.ts";
import { Objects, failure, stubXMLHttpRequest, type Fate } from "./objects.ts";
import { SESSION } from "./rest.ts";

const PATH = new RegExp(`^${SESSION}/[0-9a-f-]{36}\\.[a-z0-9]+$`);
const png = (bytes = [1, 2, 3]): File => new File([new Uint8Array(bytes)], "a.png", { type: "image/png" });

let objects: Objects;
let uploads: Uploads;

beforeEach(() => {
  vi.useFakeTimers();
  objects = new Objects();
  uploads = new Uploads(SESSION, supabaseBackend(objects.client()));
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

/** Uploads, and lets the time pass that it takes. */
async function attach(file: Blob, options: AttachOptions = {}): Promise<Attachment | RequestError> {
  const outcome = uploads.add(file, options).catch((error: RequestError) => error);
  await vi.advanceTimersByTimeAsync(1_000_000);
  return outcome;
}

describe.each(["fetch", "XMLHttpRequest"])("with %s", (how) => {
  beforeEach(() => {
    if (how === "XMLHttpRequest") stubXMLHttpRequest(objects);
  });

  test("a file is stored under its path and type", async () => {
    const file = new File(["# Hi"], "notes.md", { type: "text/markdown" });
    const stored = await attach(file);
    expect(stored).toEqual({ path: expect.stringMatching(PATH), name: "notes.md", type: "text/plain", size: 4 });
    const { path } = stored as Attachment;
    expect(path.endsWith(".txt")).toBe(true);
    expect([...objects.stored]).toEqual([[path, { type: "text/plain", bytes: new TextEncoder().encode("# Hi") }]]);
  });

  test("a blob without a name gets one", async () => {
    expect(await attach(new Blob([new Uint8Array(3)], { type: "audio/mp3" }))).toMatchObject({ name: "attachment.mp3", type: "audio/mpeg" });
    expect(await attach(png(), { name: "b/c.png" })).toMatchObject({ name: "bc.png" });
  });

  test("the same file twice makes two objects", async () => {
    const file = png();
    const both = (await Promise.all([attach(file), attach(file)])) as Attachment[];
    both.push((await attach(file)) as Attachment);
    expect(new Set(both.map(({ path }) => path)).size).toBe(3);
    expect(objects.stored.size).toBe(3);
  });

  test("the same file twice makes two objects, after a failure too", async () => {
    const file = png();
    objects.fates = Array<Fate>(3).fill("lost");
    expect(await attach(file)).toBeInstanceOf(RequestError);
    const both = (await Promise.all([attach(file), attach(file)])) as Attachment[];
    expect([...objects.stored.keys()].sort()).toEqual(both.map(({ path }) => path).sort());
    expect(objects.stored.size).toBe(2);
  });

  const fates = fc.array(fc.constantFrom<Fate>("ok", "lost", "unanswered", "502"), { maxLength: 12 });
  test("it is stored once, whatever happens to its requests", async () => {
    await fc.assert(
      fc.asyncProperty(fates, async (fates) => {
        objects.stored.clear();
        objects.fates = [...fates];
        const file = png();
        let outcome = await attach(file);
        for (let tries = 0; outcome instanceof RequestError && tries < 12; tries++) {
          expect(outcome.isRetryable).toBe(true);
          expect(outcome.message).toMatch(/^(Could not reach|The server failed)/);
          outcome = await attach(file); // as the user tries again
        }
        expect([...objects.stored.keys()]).toEqual([(outcome as Attachment).path]);
      }),
      { numRuns: 100 },
    );
  });

  test.each<[number, string, string, string]>([
    [401, "Any", "Unauthorized", "You are not signed in. Sign in again."],
    [403, "403", "Unauthorized", "You cannot attach files here: this session is not yours, was deleted, or has too many files."],
    [404, "404", "Bucket not found", "The server is not set up for attachments."],
    [413, "too_large", "Payload too large", "This file is too large."],
    [415, "unsupported_type", "invalid_mime_type", "Files of this type cannot be attached."],
    [429, "Any", "SlowDown", "Too many requests. Try again in a moment."],
    [400, "Any", "InvalidKey", "Invalid key: x"],
  ])("a refusal %i is a sentence, and is not repeated", async (status, code, error, message) => {
    objects.refusal = failure(status, error, "Any", status === 400 ? message : "new row violates row-level security policy");
    expect(await attach(png())).toMatchObject({ name: "RequestError", code, message, isRetryable: false });
    expect(objects.requests).toHaveLength(1);
  });

  test("an expired token is said to be one", async () => {
    objects.refusal = failure(403, "Unauthorized", "AccessDenied", '"exp" claim timestamp check failed');
    expect(await attach(png())).toMatchObject({ message: "You are not signed in. Sign in again.", isRetryable: false });
  });

  test("a page of another network is no success", async () => {
    objects.refusal = { status: 200, body: "<html>Sign in</html>" };
    expect(await attach(png())).toMatchObject({ message: "Could not reach the server.", isRetryable: true });
  });

  test("what gets no answer at all ends", async () => {
    objects.gate = new Promise(() => undefined);
    expect(await attach(png())).toMatchObject({ message: "Could not reach the server.", isRetryable: true });
  });

  test("it can be stopped, and goes on at the same path", async () => {
    let open!: () => void;
    objects.gate = new Promise((resolve) => (open = resolve));
    const controller = new AbortController();
    const file = png();
    const stopped = uploads.add(file, { signal: controller.signal });
    const outcome = expect(stopped).rejects.toBe("enough");
    await vi.advanceTimersByTimeAsync(10);
    controller.abort("enough");
    await outcome;
    open();
    await vi.advanceTimersByTimeAsync(10);
    const again = (await attach(file)) as Attachment;
    expect([...objects.stored.keys()]).toEqual([again.path]);
  });

  test("it can be stopped between two tries, and before the first", async () => {
    objects.fates = ["lost"];
    const controller = new AbortController();
    const stopped = uploads.add(png(), { signal: controller.signal });
    const outcome = expect(stopped).rejects.toThrow("aborted");
    await vi.advanceTimersByTimeAsync(500);
    controller.abort();
    await outcome;
    expect(objects.requests).toHaveLength(1);
    await expect(uploads.add(png(), { signal: controller.signal })).rejects.toThrow("aborted");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(objects.requests).toHaveLength(1);
  });

  test("progress ends at 1", async () => {
    const seen: number[] = [];
    await attach(png(), { onProgress: (fraction) => seen.push(fraction) });
    expect(seen).toEqual(how === "fetch" ? [1] : [0.5, 1]);
  });
});

test("an upload that stands still is ended, and tried again", async () => {
  stubXMLHttpRequest(objects);
  const onProgress = (): void => {
    if (objects.requests.length > 1) return;
    objects.gate = new Promise(() => undefined); // of this request, not of those after it
    setTimeout(() => (objects.gate = null), 1_000);
  };
  expect(await attach(png(), { onProgress })).toMatchObject({ type: "image/png" });
  expect(objects.requests.map((request) => request.split(" ")[0])).toEqual(["POST", "PUT", "POST", "PUT"]);
  expect(objects.stored.size).toBe(1);
});

test.each([
  [new File([], "a.png", { type: "image/png" }), "empty_file", '"a.png" is empty.'],
  [{ name: "a.png", type: "image/png", size: MAX_ATTACHMENT_BYTES + 1 }, "too_large", '"a.png" is larger than 10 MiB.'],
  [new File(["\0"], "a.zip", { type: "application/zip" }), "unsupported_type", '"a.zip" cannot be attached. These can: PNG, JPEG, GIF, WebP, PDF, MP3, WAV, text (UTF-8).'],
  [new Blob(["\0"]), "unsupported_type", "This file cannot be attached. These can: PNG, JPEG, GIF, WebP, PDF, MP3, WAV, text (UTF-8)."],
  [{ name: "a.md", type: "", size: 1, arrayBuffer: () => Promise.reject(new Error("gone")) }, "unreadable_file", '"a.md" cannot be read.'],
])("what cannot be accepted is not sent: %#", async (file, code, message) => {
  expect(await attach(file as Blob)).toMatchObject({ name: "RequestError", code, message, isRetryable: false });
  expect(objects.requests).toEqual([]);
});

test("only what the function accepts is sent", async () => {
  const accepts = ["image/png", "text/plain"];
  expect(await attach(png(), { accepts })).toMatchObject({ type: "image/png" });
  const gif = new File(["GIF89a"], "a.gif", { type: "image/gif" });
  expect(await attach(gif, { accepts })).toMatchObject({ message: '"a.gif" cannot be attached. These can: PNG, text (UTF-8).' });
  expect(await attach(gif, { accepts: [] })).toMatchObject({ message: '"a.gif" cannot be attached.', code: "unsupported_type" });
  expect(objects.requests).toHaveLength(1);
});

test("a file of the largest size is stored, of every type", async () => {
  for (const type of ATTACHMENT_TYPES) {
    const file = new Blob([new Uint8Array(MAX_ATTACHMENT_BYTES).fill(97)], { type });
    expect(await attach(file)).toMatchObject({ type, size: MAX_ATTACHMENT_BYTES });
  }
  expect([...objects.stored.values()].map(({ type }) => type)).toEqual(ATTACHMENT_TYPES);
});
