/** Messages with attachments and a model, from `send` to the row. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { NewMessage } from "../src/backend.ts";
import { ChatSession } from "../src/session.ts";
import { RequestError, newId, readModels, openSessionList, type Attachment } from "../src/index.ts";
import { Rest, SESSION, USER } from "./rest.ts";
import { Supabase } from "./stand-in.ts";

const NO_LINE = new RequestError("Could not reach the server.", null, true);

let supabase: Supabase;
let session: ChatSession;
/** What was sent to be inserted. */
let sent: NewMessage[];

beforeEach(async () => {
  vi.useFakeTimers();
  supabase = new Supabase();
  sent = [];
  vi.spyOn(supabase, "insertMessage").mockImplementation((message) => {
    sent.push(message);
    return Supabase.prototype.insertMessage.call(supabase, message);
  });
  session = new ChatSession("s", supabase);
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

const attach = (name = "a.png"): Promise<Attachment> => session.attach(new File([name], name, { type: "image/png" }));
const last = () => session.getSnapshot().messages.at(-1)!;

test("a message without them is sent as ever", async () => {
  await session.send("Hello?");
  expect(Object.keys(sent[0]!)).toEqual(["id", "session_id", "content", "data"]);
  expect(last()).toMatchObject({ attachments: [], model: null });
});

test("a message names what was attached, and shows it before it has arrived", async () => {
  const attachments = [await attach(), await attach("b.png")];
  supabase.delays = [100];
  const arrived = session.send("", undefined, newId(), { attachments, model: "Big" });
  expect(last()).toMatchObject({ status: "sending", content: "", parts: [], attachments, model: "Big" });
  await vi.advanceTimersByTimeAsync(100);
  expect(await arrived).toBe(true);
  expect(sent[0]).toMatchObject({ content: "", attachments: attachments.map(({ path, name }) => ({ path, name })), model: "Big" });
  const [row] = supabase.rows.values();
  expect(last()).toMatchObject({ status: "queued", attachments: row!.attachments, model: "Big" });
});

test("a name that the database would refuse is not sent", async () => {
  const [attachment] = [await attach()];
  await session.send("", undefined, newId(), { attachments: [{ ...attachment, name: "a\0/b.pdf" }] });
  expect(sent[0]!.attachments).toEqual([{ path: attachment.path, name: "ab.pdf.png" }]);
});

test("a message that waits for a connection keeps them, and so does one that is sent again", async () => {
  const options = { attachments: [await attach()], model: "Big" };
  supabase.refuse = NO_LINE;
  const arrived = session.send("1", undefined, newId(), options);
  await vi.advanceTimersByTimeAsync(0);
  supabase.refuse = new RequestError("Attachments too large.", "PT413");
  await vi.advanceTimersByTimeAsync(1_000);
  expect(await arrived).toBe(false);
  expect(last()).toMatchObject({ status: "not_sent", ...options, error: { message: "Attachments too large." } });
  supabase.refuse = null;
  expect(await session.resend(last().id)).toBe(true);
  expect(new Set(sent.map((message) => JSON.stringify(message))).size).toBe(1);
  expect(last()).toMatchObject({ status: "queued", model: "Big", attachments: [{ path: options.attachments[0]!.path }] });
});

test.each(["was sent", "was not sent"])("a question that %s is asked again with its own, or with others", async (how) => {
  const options = { attachments: [await attach()], model: "Big" };
  if (how === "was not sent") supabase.refuse = new RequestError("No.", "PT413");
  await session.send("1", undefined, newId(), options);
  supabase.refuse = null;
  const { id } = last();
  supabase.set({ ...(supabase.rows.get(id) ?? ({} as never)), status: "done" }, how === "was sent");
  await session.edit(id, "2");
  expect(sent[1]).toMatchObject({ content: "2", attachments: [{ path: options.attachments[0]!.path }], model: "Big" });
  const edited = last();
  supabase.set({ ...supabase.rows.get(edited.id)!, status: "done" });
  await session.edit(edited.id, "3", { attachments: [], model: null });
  expect(Object.keys(sent[2]!)).toEqual(["id", "session_id", "content", "data"]);
});

test("models are read in their order, with a title", async () => {
  const rest = new Rest();
  rest.tables.set("models", [{ name: "Big", title: "The big one", ordinal: 1 }, { name: "Small", title: null, ordinal: 2 }]);
  expect(await readModels(rest.client())).toEqual([{ name: "Big", title: "The big one" }, { name: "Small", title: "Small" }]);
  rest.answers = [Response.json({ code: "PGRST205", message: "Could not find the table" }, { status: 404 })];
  await expect(readModels(rest.client())).rejects.toMatchObject({ message: "The server is not set up for this." });
});

test("a session's model can be chosen and changed", async () => {
  const rest = new Rest();
  const list = openSessionList(rest.client(), USER);
  await list.create({ id: SESSION, model: "Big" });
  await list.update(SESSION, { model: null });
  expect(rest.bodies.map((body) => JSON.parse(body) as unknown)).toEqual([{ id: SESSION, model: "Big" }, { model: null }]);
  expect(list.getSnapshot().sessions).toMatchObject([{ id: SESSION, model: null }]);
  list.close();
});
