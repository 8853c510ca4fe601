/** Files in a `Chat` of the AI SDK: uploads, names of what is there, and URLs to show. */

import { Chat } from "@ai-sdk/react";
import type { FileUIPart, UIMessage } from "ai";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { SupabaseChatTransport, readUIMessages, signParts, toUIMessage } from "../src/ai.ts";
import { ChatFiles } from "../src/chatfiles.ts";
import { RequestError, newId, type AnySupabaseClient, type Attachment, type ChatSession } from "../src/index.ts";
import { Objects } from "./objects.ts";
import { SESSION } from "./rest.ts";
import { Supabase } from "./stand-in.ts";
import { question, reply, timeAt } from "./world.ts";

let supabase: Supabase;
vi.mock("../src/backend.ts", async (importOriginal) => ({
  ...(await importOriginal<typeof import("../src/backend.ts")>()),
  supabaseBackend: () => supabase,
}));

const NO_LINE = new RequestError("Could not reach the server.", "x");
const until = (check: () => void) => vi.waitFor(check, { timeout: 3_000, interval: 5 });
const dataOf = (text: string, type = "image/png"): string => `data:${type};base64,${btoa(text)}`;
const filePart = (text: string, filename = `${text}.png`): FileUIPart => ({ type: "file", mediaType: "image/png", filename, url: dataOf(text) });
const rows = () => [...supabase.rows.values()];
const uploads = () => supabase.calls.filter((call) => call.startsWith("upload"));

let transport: SupabaseChatTransport;
let model: string | null;

beforeEach(() => {
  supabase = new Supabase();
  supabase.listen = (_, listener) => {
    supabase.listener = listener;
    return () => (supabase.listener = null);
  };
  model = null;
  transport = new SupabaseChatTransport({} as AnySupabaseClient, { model: () => model });
});

afterEach(() => transport.close());

const chatOf = (messages: UIMessage[] = []) => new Chat<UIMessage>({ id: SESSION, transport, messages, generateId: newId });

/** Sends, and lets a worker answer. */
async function ask(chat: Chat<UIMessage>, ...message: Parameters<typeof chat.sendMessage>): Promise<void> {
  const count = rows().length;
  const sent = chat.sendMessage(...message);
  await until(() => expect(rows()).toHaveLength(count + 1));
  answer(rows()[count]!.id);
  await sent;
  expect(chat.error).toBeUndefined();
}

function answer(questionId: string): void {
  const id = newId();
  supabase.set(reply({ id, reply_to: questionId, ordinal: 2 * rows().length + 1, updated_at: timeAt(1) }));
  supabase.change(id, { status: "done", content: "Nice." });
}

test("files are uploaded and named by the question, without a text too", async () => {
  const chat = chatOf();
  await ask(chat, { files: [filePart("a"), filePart("b", "b/c.png")] });
  const [row] = rows();
  expect(row).toMatchObject({ content: "", attachments: [{ name: "a.png" }, { name: "bc.png" }], model: null });
  const texts = await Promise.all(row!.attachments!.map(({ path }) => supabase.objects.get(path)!.file.text()));
  expect(texts).toEqual(["a", "b"]);
  expect(supabase.objects.get(row!.attachments![0]!.path)!.type).toBe("image/png");
  const [asked] = await readUIMessages({} as AnySupabaseClient, SESSION);
  expect(asked!.parts).toEqual(row!.attachments!.map(({ path, name }) => ({ type: "file", mediaType: "image/png", filename: name, url: `attachments/${path}` })));
});

test("the model is the one of the moment", async () => {
  const chat = chatOf();
  await ask(chat, { text: "1" });
  model = "Big";
  await ask(chat, { text: "2" });
  expect(rows().filter(({ role }) => role === "user").map((row) => row.model)).toEqual([null, "Big"]);
});

test("what was uploaded is not uploaded again when the message is tried again", async () => {
  const chat = chatOf();
  let failures = 0;
  vi.spyOn(supabase, "upload").mockImplementation(async (path, file, type) => {
    if ((await file.text()) === "b" && failures++ === 0) throw NO_LINE;
    return Supabase.prototype.upload.call(supabase, path, file, type);
  });
  await chat.sendMessage({ text: "?", files: [filePart("a"), filePart("b")] });
  expect(chat.error?.message).toBe("Could not reach the server.");
  expect(rows()).toEqual([]);
  supabase.cancelMessage = () => Promise.reject(new RequestError("No such message.", "PT404")); // it never arrived
  vi.spyOn(supabase, "insertMessage").mockRejectedValueOnce(new RequestError("Not now.", "PT429"));
  await chat.regenerate();
  expect(chat.error?.message).toBe("Not now.");
  const again = chat.regenerate();
  await until(() => expect(rows()).toHaveLength(1));
  answer(rows()[0]!.id);
  await again;
  expect(chat.error).toBeUndefined();
  expect(uploads()).toHaveLength(2);
  expect(rows()[0]!.attachments).toHaveLength(2);
});

test("an edited message names what it had again, and uploads what is new", async () => {
  const chat = chatOf();
  await ask(chat, { text: "?", files: [filePart("a"), filePart("b"), filePart("d")] });
  const [first] = rows();
  const signed = { ...toUIMessage(first!).parts[1], url: `https://x.supabase.co/storage/v1/object/sign/attachments/${first!.attachments![1]!.path}?token=t` };
  await ask(chat, { messageId: chat.messages[0]!.id, parts: [filePart("c"), signed as FileUIPart, filePart("d"), { type: "text", text: "!" }] });
  const second = rows()[2]!;
  expect(second).toMatchObject({ content: "!", attachments: [{ name: "c.png" }, ...first!.attachments!.slice(1)] });
  expect(uploads()).toHaveLength(4);
});

test("the uploads of few messages are remembered", async () => {
  const attach = vi.fn(async () => ({}) as Attachment);
  const files = new ChatFiles();
  const send = (id: string) => files.attach({ attach } as unknown as ChatSession, { id, role: "user", parts: [filePart("a")] });
  for (let at = 0; at < 20; at++) await send(`${at}`);
  await send("12");
  expect(attach).toHaveBeenCalledTimes(20);
  await send("11");
  expect(attach).toHaveBeenCalledTimes(21);
});

test("a file that is elsewhere is refused, and nothing is sent", async () => {
  const chat = chatOf();
  await chat.sendMessage({ text: "?", files: [{ ...filePart("a"), url: "https://example.com/a.png" }] });
  expect(chat.error?.message).toBe("Only files of this device can be attached.");
  await chat.sendMessage({ text: "?", files: [{ ...filePart(""), filename: "a.png" }] });
  expect(chat.error?.message).toBe('"a.png" is empty.');
  expect(supabase.calls).toEqual([]);
});

test("a reply that goes on with signed parts takes nothing back", async () => {
  const path = `${SESSION}/${newId()}.png`;
  const file = { type: "file", id: "f", mediaType: "image/png", url: `attachments/${path}` } as const;
  const asked = { type: "dynamic-tool", toolName: "ask", toolCallId: "send", input: { title: "?" }, state: "approval-requested", approval: { id: "send" } } as const;
  supabase.set(question({ session_id: SESSION, status: "waiting" }));
  supabase.set(reply({ session_id: SESSION, status: "waiting", parts: [file, asked] }));
  const objects = new Objects();
  objects.stored.set(path, { type: "image/png", bytes: new Uint8Array(1) });
  const messages = await signParts(objects.client(), await readUIMessages({} as AnySupabaseClient, SESSION));
  const url = (messages[1]!.parts[0] as FileUIPart).url;
  expect(url).toMatch(/^http:\/\/localhost\/storage\/v1\/object\/sign\/attachments\/.*token/);
  const chat = chatOf(messages);
  await chat.addToolApprovalResponse({ id: "send", approved: true });
  const going = chat.sendMessage();
  await until(() => expect(supabase.calls).toContain('answer r send {"approved":true}'));
  supabase.change("r", { status: "done", content: "Sent." });
  await going;
  const shown = chat.messages[1]!.parts.filter(({ type }) => type !== "step-start");
  expect(shown).toMatchObject([{ url }, { state: "approval-responded" }, { text: "Sent." }]);
});

test("signing changes nothing else, and leaves what is gone", async () => {
  const objects = new Objects();
  const client = objects.client();
  const path = `${SESSION}/${newId()}.png`;
  objects.stored.set(path, { type: "image/png", bytes: new Uint8Array(1) });
  const part = (name: string): FileUIPart => ({ type: "file", mediaType: "image/png", url: `attachments/${name}` });
  const messages: UIMessage[] = [
    { id: "1", role: "user", parts: [part(path), filePart("a"), { type: "text", text: "?" }] },
    { id: "2", role: "assistant", parts: [part(`${SESSION}/${SESSION}.png`), { type: "text", text: "!" }] },
  ];
  const signed = await signParts(client, messages, 60);
  expect(signed[0]!.parts.slice(1)).toEqual(messages[0]!.parts.slice(1));
  expect((signed[0]!.parts[0] as FileUIPart).url).toContain(`/object/sign/attachments/${path}?token=`);
  expect(signed[1]).toBe(messages[1]);
  expect(await signParts(client, signed, 60)).toEqual(signed);
  expect(await signParts(client, [{ id: "3", role: "user", parts: [] }])).toHaveLength(1);
});

test("a data URL has the bytes of its file, whatever they are and however they are written", async () => {
  const attach = vi.fn<(file: Blob) => Promise<Attachment>>(async () => ({ path: "p", name: "n", type: "t", size: 1 }));
  const session = { attach } as unknown as ChatSession;
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.string({ unit: "grapheme" }), async (bytes, text) => {
      attach.mockClear();
      const base64 = btoa(String.fromCharCode(...bytes));
      const urls = [`data:audio/wav;base64,${base64}`, `data:text/plain;charset=utf-8,${encodeURIComponent(text)}`];
      const parts = urls.map((url) => ({ type: "file", mediaType: "", url }) as const);
      await new ChatFiles().attach(session, { id: newId(), role: "user", parts });
      const files = attach.mock.calls.map(([file]) => file);
      expect(files.map(({ type }) => type)).toEqual(["audio/wav", "text/plain;charset=utf-8"]);
      expect(new Uint8Array(await files[0]!.arrayBuffer())).toEqual(new Uint8Array(bytes));
      expect(await files[1]!.text()).toBe(text);
    }),
  );
});

test("where no blob is made of bytes, as in React Native, the URL is fetched", async () => {
  const attach = vi.fn(async () => ({}) as Attachment);
  vi.stubGlobal("Blob", class {
    constructor() {
      throw new Error("Creating blobs from 'ArrayBuffer' is not supported");
    }
  });
  const fetched = vi.spyOn(globalThis, "fetch").mockResolvedValue({ blob: async () => "blob" } as unknown as Response);
  await new ChatFiles().attach({ attach } as unknown as ChatSession, { id: "1", role: "user", parts: [filePart("a")] });
  vi.unstubAllGlobals();
  expect(fetched).toHaveBeenCalledWith(dataOf("a"));
  expect(attach).toHaveBeenCalledWith("blob", { name: "a.png", signal: undefined });
});
