/** Attachments and models against a running Supabase: what the client sends, its rules take. */

import type { SupabaseClient } from "@supabase/supabase-js";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import {
  ATTACHMENT_TYPES,
  MAX_ATTACHMENT_BYTES,
  newId,
  openSession,
  openSessionList,
  readModels,
  signAttachments,
  type Attachment,
  type ChatSession,
  type Database,
  type SessionList,
} from "../src/index.ts";
import { newPath } from "../src/attachments.ts";
import { upload } from "../src/storage.ts";
import { Worker, absent, signUp, until } from "./devstack.ts";

/** An `XMLHttpRequest` over `fetch`, with as much as the client uses. */
class Request {
  upload: { onprogress?: (event: { loaded: number; total: number }) => void } = {};
  onloadend = (): void => undefined;
  status = 0;
  responseText = "";
  readonly #headers = new Headers();
  #target!: [method: string, url: string];
  open(...target: [string, string]): void {
    this.#target = target;
  }
  setRequestHeader(name: string, value: string): void {
    this.#headers.set(name, value);
  }
  send(body: Blob): void {
    void (async () => {
      const response = await fetch(this.#target[1], { method: this.#target[0], headers: this.#headers, body });
      this.upload.onprogress?.({ loaded: body.size, total: body.size });
      this.status = response.status;
      this.responseText = await response.text();
      this.onloadend();
    })();
  }
  abort(): void {}
}

const TYPICAL: Record<string, number[]> = {
  "image/png": [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a],
  "image/jpeg": [0xff, 0xd8, 0xff, 0xe0],
  "audio/mpeg": [0x49, 0x44, 0x33, 4],
};
const fileOf = (type: string, name = ""): File => new File([new Uint8Array(TYPICAL[type] ?? [97, 98, 99])], name, { type });

describe.skipIf(absent)("with Supabase", () => {
  let client: SupabaseClient<Database>;
  let list: SessionList;
  let chat: ChatSession;
  let worker: Worker;
  const last = () => chat.getSnapshot().messages.at(-1)!;

  beforeAll(async () => {
    let userId: string;
    ({ client, userId } = await signUp());
    list = openSessionList(client, userId);
    worker = new Worker();
  });

  afterAll(async () => {
    await worker.setModels();
    list.close();
    await worker.stop();
    await client.removeAllChannels();
  });

  beforeEach(async () => {
    const { id } = await list.create();
    chat = openSession(client, id);
    await until(() => expect(chat.getSnapshot()).toMatchObject({ ready: true, connection: "live" }));
  });

  afterEach(async () => {
    chat.close();
    await list.remove(chat.id);
    vi.unstubAllGlobals();
  });

  test.each(["fetch", "XMLHttpRequest"])("files of every type are stored with %s, named and loaded", async (how) => {
    if (how === "XMLHttpRequest") vi.stubGlobal("XMLHttpRequest", Request);
    const files = ATTACHMENT_TYPES.map((type) => fileOf(type, "a/b\u202e.pdf"));
    const attachments: Attachment[] = [];
    const progress: number[] = [];
    for (const file of files) attachments.push(await chat.attach(file, { onProgress: (fraction) => progress.push(fraction) }));
    expect(progress.filter((fraction) => fraction === 1).length).toBe(files.length * (how === "fetch" ? 1 : 2));
    expect(await chat.send("", undefined, newId(), { attachments })).toBe(true);
    expect(last()).toMatchObject({ content: "", attachments }); // type and size, as the database has them
    const urls = await signAttachments(client, attachments.map(({ path }) => path));
    for (const [at, { path, type }] of attachments.entries()) {
      const response = await fetch(urls.get(path)!);
      expect(response.headers.get("content-type")).toBe(type);
      expect(await response.arrayBuffer()).toEqual(await files[at]!.arrayBuffer());
    }
  });

  test("a name of any characters and any length is taken", async () => {
    const names = ["x".repeat(300) + ".png", "字".repeat(100), " . ", "a\0b", "\ud83d.txt", "👨‍👩‍👧.PNG", "photo.jpeg", "c:\\d\\e.f"];
    const attachments = await Promise.all(names.map((name) => chat.attach(fileOf("image/png", name))));
    expect(await chat.send("?", undefined, newId(), { attachments })).toBe(true);
    expect(last().attachments.map(({ name }) => name)).toEqual(attachments.map(({ name }) => name));
  });

  test.each(["fetch", "XMLHttpRequest"])("an upload that has arrived may be sent again with %s", async (how) => {
    if (how === "XMLHttpRequest") vi.stubGlobal("XMLHttpRequest", Request);
    const path = newPath(chat.id, newId(), "text/plain");
    for (let times = 0; times < 2; times++) await upload(client, path, new Blob(["a"]), "text/plain", {});
    const attachment = { path, name: "a.txt", type: "text/plain", size: 1 };
    expect(await chat.send("?", undefined, newId(), { attachments: [attachment] })).toBe(true);
  });

  test.each(["fetch", "XMLHttpRequest"])("what Storage refuses is a sentence with %s", async (how) => {
    if (how === "XMLHttpRequest") vi.stubGlobal("XMLHttpRequest", Request);
    const store = (file: Blob, type: string, session = chat.id) => upload(client, newPath(session, newId(), "image/png"), file, type, {});
    await expect(store(fileOf("image/png"), "image/png", newId())).rejects.toMatchObject({ code: "403", message: /^You cannot attach files here/ });
    await expect(store(fileOf("image/png"), "image/heic")).rejects.toMatchObject({ code: "unsupported_type" });
    await expect(store(new Blob([new Uint8Array(MAX_ATTACHMENT_BYTES + 1)]), "image/png")).rejects.toMatchObject({ code: "too_large" });
  });

  test("another user can neither attach to a session nor load what it has", async () => {
    const attachment = await chat.attach(fileOf("image/png"));
    const stranger = (await signUp()).client;
    const theirs = openSession(stranger, chat.id);
    await expect(theirs.attach(fileOf("image/png"))).rejects.toMatchObject({ code: "403" });
    expect(await signAttachments(stranger, [attachment.path])).toEqual(new Map());
    theirs.close();
    await stranger.removeAllChannels();
  });

  test("too many, too large together, gone and elsewhere: the message is not sent, and says why", async () => {
    const large = new Blob([new Uint8Array(MAX_ATTACHMENT_BYTES).fill(97)], { type: "text/plain" });
    const [one, whole, gone] = [await chat.attach(fileOf("image/png")), await chat.attach(large), await chat.attach(fileOf("image/gif"))];
    await worker.removeObject(gone.path);
    expect(await signAttachments(client, [one.path, gone.path])).toEqual(new Map([[one.path, expect.stringMatching(/^http/)]]));
    const reasons: [Attachment[], RegExp][] = [
      [Array.from({ length: 65 }, () => one), /^Too many attachments: 65/],
      [[one, one], /is named twice/],
      [[one, whole], /^Attachments too large: /],
      [[gone], /^There is no upload/],
      [[{ ...one, path: one.path.replace(chat.id, newId()) }], /^The .*/], // what the client never sends
    ];
    for (const [attachments, reason] of reasons) {
      expect(await chat.send("?", undefined, newId(), { attachments })).toBe(false);
      expect(last().error?.message).toMatch(reason);
      expect(last()).toMatchObject({ status: "not_sent", attachments });
      chat.discard(last().id);
    }
    expect(await chat.send("?", undefined, newId(), { attachments: [one] })).toBe(true);
  });

  test("models are listed, chosen for a session or a message, and no others", async () => {
    await worker.setModels({ name: "Small", ordinal: 2 }, { name: "Big", title: "The big one", ordinal: 1 });
    expect(await readModels(client)).toEqual([{ name: "Big", title: "The big one" }, { name: "Small", title: "Small" }]);
    await list.update(chat.id, { model: "Small" });
    expect(list.getSnapshot().sessions.find(({ id }) => id === chat.id)!.model).toBe("Small");
    await expect(list.update(chat.id, { model: "openai/gpt-x" })).rejects.toThrow("This model is no longer there. Choose another one.");
    expect(await chat.send("?", undefined, newId(), { model: "Big" })).toBe(true);
    expect(last().model).toBe("Big");
    expect(await chat.send("?", undefined, newId(), { model: "openai/gpt-x" })).toBe(false);
    expect(last().error?.message).toBe("This model is no longer there. Choose another one.");
  });
});
