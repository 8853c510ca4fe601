/** Messages that find no connection: they are sent when it is back, in order and once. */

import fc from "fast-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { NewMessage } from "../src/backend.ts";
import { Outbox } from "../src/outbox.ts";
import { ChatSession } from "../src/session.ts";
import { RequestError, type MessageRow, type Question } from "../src/types.ts";
import { Supabase } from "./stand-in.ts";
import { question } from "./world.ts";

const NO_LINE = new RequestError("Could not reach the server.", null, true);

let supabase: Supabase;
let session: ChatSession;

beforeEach(async () => {
  vi.useFakeTimers();
  supabase = new Supabase();
  session = new ChatSession("s", supabase);
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

const shown = () => session.getSnapshot().messages.map(({ content, status, error }) => [content, status, error?.message]);
const last = () => session.getSnapshot().messages.at(-1)!;
const inserts = () => supabase.calls.filter((call) => call.startsWith("insert"));

/** The message has arrived, but its answer is lost. */
function loseAnswers(): void {
  supabase.insertMessage = async (message: NewMessage): Promise<MessageRow> => {
    await Supabase.prototype.insertMessage.call(supabase, message);
    throw NO_LINE;
  };
}

test("is sent when the connection is back, in order and once", async () => {
  supabase.refuse = NO_LINE;
  const sent = [session.send("1"), session.send("2"), session.send("3")];
  await vi.advanceTimersByTimeAsync(0);
  expect(shown()).toEqual([
    ["1", "sending", "Could not reach the server."],
    ["2", "sending", undefined],
    ["3", "sending", undefined],
  ]);
  expect(session.getSnapshot().busy).toBe(true);
  supabase.listener?.onConnection("offline");
  await vi.advanceTimersByTimeAsync(3_600_001); // in the middle of a pause
  supabase.refuse = null;
  supabase.calls = [];
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
  expect(await Promise.all(sent)).toEqual([true, true, true]);
  expect(inserts()).toEqual(["insert 1", "insert 2", "insert 3"]);
  expect(shown().map(([, status]) => status)).toEqual(["queued", "queued", "queued"]);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(inserts()).toHaveLength(3);
});

test("is sent again with a growing pause if nothing reports the connection", async () => {
  supabase.refuse = NO_LINE;
  const sent = session.send("Hello?");
  await vi.advanceTimersByTimeAsync(59_000);
  expect(inserts()).toHaveLength(7); // at 0, 1, 3, 7, 15, 30 and 45 s
  supabase.refuse = null;
  await vi.advanceTimersByTimeAsync(15_000);
  expect(await sent).toBe(true);
  expect(shown()).toEqual([["Hello?", "queued", undefined]]);
});

test("whose answer was lost is not sent twice", async () => {
  loseAnswers();
  const sent = session.send("Hello?");
  await vi.advanceTimersByTimeAsync(60_000);
  expect(await sent).toBe(true);
  expect(inserts()).toHaveLength(1); // its event came instead of the answer
  expect(shown()).toEqual([["Hello?", "queued", undefined]]);
});

test("that is rejected is not repeated, and those behind it are sent", async () => {
  supabase.refuse = NO_LINE;
  const sent = [session.send("1"), session.send("2")];
  await vi.advanceTimersByTimeAsync(0);
  supabase.refuse = new RequestError("The message is too long.", "PT413");
  await vi.advanceTimersByTimeAsync(1_000);
  supabase.refuse = null;
  expect(await sent[0]).toBe(false);
  expect(await session.send("3")).toBe(true);
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(60_000);
  expect(inserts()).toEqual(["insert 1", "insert 1", "insert 2", "insert 3"]);
  expect(shown()[1]).toEqual(["1", "not_sent", "The message is too long."]);
});

test("can be given up, and resent later", async () => {
  supabase.refuse = NO_LINE;
  const sent = [session.send("1"), session.send("2")];
  await vi.advanceTimersByTimeAsync(0);
  await session.cancel(last().id); // not tried yet
  await session.cancel(session.getSnapshot().messages[0]!.id);
  expect(await Promise.all(sent)).toEqual([false, false]);
  expect(shown()).toEqual([
    ["1", "not_sent", "Could not reach the server."],
    ["2", "not_sent", "Stopped."],
  ]);
  expect(session.getSnapshot().busy).toBe(false);
  supabase.refuse = null;
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(60_000);
  expect(inserts()).toEqual(["insert 1"]);
  expect(await session.resend(last().id)).toBe(true);
  expect(inserts()).toEqual(["insert 1", "insert 2"]);
});

test("that is given up on its way has arrived or is not sent", async () => {
  supabase.delays = [100];
  supabase.refuse = NO_LINE;
  const sent = session.send("Hello?");
  const stopped = session.cancel(last().id);
  await vi.advanceTimersByTimeAsync(60_000);
  await stopped;
  expect(await sent).toBe(false);
  expect(inserts()).toHaveLength(1);
  expect(last().status).toBe("not_sent");
});

test("can be discarded or edited while it waits", async () => {
  supabase.refuse = NO_LINE;
  const sent = session.send("1");
  await vi.advanceTimersByTimeAsync(0);
  session.discard(last().id);
  expect(await sent).toBe(false);
  expect(shown()).toEqual([]);
  void session.send("Helo", { tone: "dry" });
  await vi.advanceTimersByTimeAsync(0);
  const edited = session.edit(last().id, "Hello");
  supabase.refuse = null;
  await vi.advanceTimersByTimeAsync(15_000);
  expect(await edited).toBe(true);
  expect(shown()).toEqual([["Hello", "queued", undefined]]);
  expect(last().data).toEqual({ tone: "dry" });
});

test("that is discarded on its way is removed, or has arrived", async () => {
  supabase.delays = [100, 100, 100];
  supabase.refuse = NO_LINE;
  const lost = session.send("1");
  session.discard(last().id);
  await vi.advanceTimersByTimeAsync(100);
  expect(await lost).toBe(false);
  expect(shown()).toEqual([]);

  const repeated = session.send("2");
  await vi.advanceTimersByTimeAsync(100);
  supabase.refuse = null;
  supabase.listener?.onConnection("live"); // it is sent again
  await vi.advanceTimersByTimeAsync(0);
  session.discard(last().id);
  expect(shown()).toEqual([["2", "sending", "Could not reach the server."]]);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(await repeated).toBe(true);
  expect(shown()).toEqual([["2", "queued", undefined]]);
  expect(inserts()).toEqual(["insert 1", "insert 2", "insert 2"]);
});

test("that waits behind another can be discarded", async () => {
  supabase.refuse = NO_LINE;
  const sent = [session.send("1"), session.send("2")];
  await vi.advanceTimersByTimeAsync(0);
  session.discard(last().id);
  expect(shown().map(([content]) => content)).toEqual(["1"]);
  supabase.refuse = null;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(await Promise.all(sent)).toEqual([true, false]);
  expect(inserts()).toEqual(["insert 1", "insert 1"]);
});

test("is given up when the session closes", async () => {
  supabase.refuse = NO_LINE;
  const sent = session.send("Hello?");
  await vi.advanceTimersByTimeAsync(0);
  session.close();
  expect(await sent).toBe(false);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(inserts()).toHaveLength(1);
});

test("is given up when the session closes, and so are those behind it", async () => {
  supabase.refuse = NO_LINE;
  const sent = [session.send("1"), session.send("2"), session.send("3")];
  await vi.advanceTimersByTimeAsync(0);
  supabase.refuse = null;
  session.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(await Promise.all(sent)).toEqual([false, false, false]);
  expect(inserts()).toEqual(["insert 1"]);
});

test("that gets no answer after the session has closed is the last that is sent", async () => {
  supabase.delays = [100];
  supabase.refuse = NO_LINE;
  const sent = [session.send("1"), session.send("2")];
  session.close();
  await vi.advanceTimersByTimeAsync(99);
  expect(inserts()).toEqual([]);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(await Promise.all(sent)).toEqual([false, false]);
  expect(inserts()).toEqual(["insert 1"]);
});

test("is still sent after the session has closed if it does not wait, whatever was rejected before", async () => {
  supabase.refuse = new RequestError("The message is too long.", "PT413");
  expect(await session.send("1")).toBe(false);
  supabase.refuse = null;
  supabase.delays = [100];
  const sent = [session.send("2"), session.send("3")];
  session.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(await Promise.all(sent)).toEqual([true, true]);
  expect(inserts()).toEqual(["insert 1", "insert 2", "insert 3"]);
});

/** What happens to a request: an answer, none, or none although it has arrived. */
const fate = fc.constantFrom("ok", "ok", "rejected", "lost", "unanswered");
const IDS = ["1", "2", "3", "4"];
const time = fc.integer({ min: 0, max: 8_000 });
const history = fc.record({
  requests: fc.array(fc.record({ fate, ms: fc.integer({ min: 0, max: 2_000 }) }), { maxLength: 8 }),
  closed: time,
  discarded: fc.array(fc.record({ id: fc.constantFrom(...IDS), at: time }), { maxLength: 2 }),
});

test("never arrives before those before it, and is false only if it is not there, whenever the session closes", async () => {
  const play = async ({ requests, closed, discarded }: typeof history extends fc.Arbitrary<infer T> ? T : never) => {
    const left = [...requests];
    const arrived = new Set<string>();
    const mayBeFalse = new Set<string>();
    const outbox = new Outbox(
      async ({ id }) => {
        const { fate, ms } = left.shift() ?? { fate: "ok", ms: 0 };
        await new Promise((resolve) => setTimeout(resolve, ms));
        if (fate === "rejected") throw new RequestError("No.", "PT413");
        if (fate !== "lost") arrived.add(id);
        if (fate === "unanswered") mayBeFalse.add(id);
        if (fate !== "ok") throw NO_LINE;
      },
      () => undefined,
    );
    const sent = IDS.map((id) => outbox.send({ id, status: "sending", error: null } as Question));
    setTimeout(() => outbox.close(), closed);
    for (const { id, at } of discarded) setTimeout(() => outbox.discard(id), at);
    await vi.advanceTimersByTimeAsync(60_000);
    const outcomes = await Promise.all(sent);
    expect([...arrived]).toEqual([...arrived].sort());
    expect(outcomes).toEqual(IDS.map((id, at) => arrived.has(id) && (outcomes[at] || !mayBeFalse.has(id))));
    for (const { id, error } of outbox.list()) {
      if (error!.message !== "No.") expect([...arrived].filter((other) => other > id)).toEqual([]);
    }
  };
  await fc.assert(fc.asyncProperty(history, play), { numRuns: 500 });
});

test("counts as sent when its row appears while it waits", async () => {
  supabase.refuse = NO_LINE;
  const sent = session.send("Hello?");
  await vi.advanceTimersByTimeAsync(0);
  supabase.set(question({ id: last().id }));
  expect(await sent).toBe(true);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(inserts()).toHaveLength(1);
});

test("that is announced before its answer counts as sent with the answer", async () => {
  supabase.delays = [100];
  const settled = vi.fn();
  void session.send("Hello?").then(settled);
  supabase.set(question({ id: last().id }));
  await vi.advanceTimersByTimeAsync(50);
  expect(settled).not.toHaveBeenCalled(); // a row may be announced before it can be read
  expect(shown()).toEqual([["Hello?", "queued", undefined]]);
  await vi.advanceTimersByTimeAsync(50);
  expect(settled).toHaveBeenCalledWith(true);
});

test("that is sent twice under one id is one message", async () => {
  const id = "10000000-0000-4000-8000-000000000000";
  supabase.delays = [100];
  const sent = [session.send("Hello?", undefined, id), session.send("Hello?", undefined, id)];
  await vi.advanceTimersByTimeAsync(100);
  expect(await Promise.all(sent)).toEqual([true, true]);
  expect(await session.send("Hello?", undefined, id)).toBe(true);
  expect(shown()).toHaveLength(1);
});
