import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { ChatSession } from "../src/session.ts";
import { RequestError, type Part, type SaveOutcome } from "../src/types.ts";
import { Supabase } from "./stand-in.ts";
import { file, question, reply, timeAt } from "./world.ts";

let supabase: Supabase;
let session: ChatSession;

beforeEach(() => {
  vi.useFakeTimers();
  supabase = new Supabase();
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

async function open(pageSize = 200): Promise<void> {
  session = new ChatSession("s", supabase, { pageSize });
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
}

const texts = () => session.getSnapshot().messages.map(({ content }) => content);
const last = () => session.getSnapshot().messages.at(-1);

test("a conversation streams from the question to the end of the reply", async () => {
  await open();
  expect(session.getSnapshot()).toMatchObject({ ready: true, connection: "live", busy: false, messages: [] });

  const sent = session.send("Hello?");
  expect(last()).toMatchObject({ content: "Hello?", status: "sending", role: "user" });
  const { id } = last()!;
  expect(await sent).toBe(true);
  expect(session.getSnapshot().messages).toHaveLength(1);
  expect(last()).toMatchObject({ id, status: "queued" });
  expect(session.getSnapshot().busy).toBe(true);

  const running = reply({ reply_to: id, updated_at: timeAt(1) });
  supabase.set({ ...supabase.rows.get(id)!, status: "running", updated_at: timeAt(1) });
  supabase.set(running);
  supabase.delta(1, "Good ");
  supabase.delta(2, "morning");
  expect(last()).toMatchObject({ content: "Good morning", status: "running" });

  supabase.send("file", file());
  expect(session.getSnapshot().files).toMatchObject([{ path: "main.py", conflict: false }]);

  supabase.set({ ...running, status: "done", seq: 3, content: "Good morning.", updated_at: timeAt(2) });
  supabase.set({ ...supabase.rows.get(id)!, status: "done", updated_at: timeAt(2) });
  expect(texts()).toEqual(["Hello?", "Good morning."]);
  expect(session.getSnapshot().busy).toBe(false);

  const reads = supabase.reads;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(supabase.reads).toBe(reads); // an idle session makes no requests
});

test("the snapshot is the same object until something changes", async () => {
  supabase.set(question());
  await open();
  const listener = vi.fn();
  session.subscribe(listener);
  const before = session.getSnapshot();
  supabase.send("presence", {});
  supabase.send("delta", { message_id: 7 });
  supabase.send("message", null as never);
  expect(session.getSnapshot()).toBe(before);
  supabase.set(reply({ updated_at: timeAt(1) }));
  supabase.delta(1, "a");
  expect(listener).toHaveBeenCalledTimes(2);
  expect(session.getSnapshot()).not.toBe(before);
  expect(session.getSnapshot().messages[0]).toBe(before.messages[0]);
});

describe("reads", () => {
  beforeEach(async () => {
    supabase.set(question({ status: "running" }));
    supabase.set(reply());
    await open();
  });

  test("after a lost delta repeat every interval until the row has caught up", async () => {
    supabase.delta(1, "a");
    supabase.delta(3, "c");
    const reads = supabase.reads;
    await vi.advanceTimersByTimeAsync(1_000);
    expect(supabase.reads).toBe(reads + 1);
    expect(last()?.content).toBe("a");
    supabase.set(reply({ seq: 2, content: "ab", updated_at: timeAt(1) }), false);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(supabase.reads).toBe(reads + 2);
    expect(last()?.content).toBe("abc");
    await vi.advanceTimersByTimeAsync(2_000);
    expect(supabase.reads).toBe(reads + 2);
  });

  test("follow a silence while a reply runs", async () => {
    supabase.set(reply({ status: "done", seq: 1, content: "complete", updated_at: timeAt(1) }), false);
    supabase.set(question({ status: "done", updated_at: timeAt(1) }), false);
    await vi.advanceTimersByTimeAsync(4_900);
    expect(last()?.status).toBe("running");
    await vi.advanceTimersByTimeAsync(200);
    expect(last()).toMatchObject({ status: "done", content: "complete" });
  });

  test("complete a row that is too large for an event", async () => {
    const large = reply({ status: "done", seq: 4, content: "x".repeat(40_000), updated_at: timeAt(3) });
    supabase.set(large, false);
    const { content, ...rest } = large;
    supabase.send("message", { ...rest, omitted: ["content"] });
    await vi.advanceTimersByTimeAsync(1_000);
    expect(last()).toMatchObject({ content, status: "done" });
  });

  test("complete a file that is too large for an event, and remove deleted files", async () => {
    supabase.send("file", file({ id: "deleted", path: "deleted.py" }));
    supabase.files = [file({ content: "long" })];
    const { content: _, ...rest } = file();
    supabase.send("file", { ...rest, omitted: ["content"] });
    await vi.advanceTimersByTimeAsync(1_000);
    expect(session.getSnapshot().files.map(({ path, content }) => [path, content])).toEqual([["main.py", "long"]]);
  });

  test("catch up after a lost connection", async () => {
    supabase.delta(1, "a");
    supabase.listener?.onConnection("offline");
    expect(session.getSnapshot().connection).toBe("offline");
    supabase.set(reply({ status: "done", seq: 9, content: "a to z", updated_at: timeAt(5) }), false);
    supabase.set(question({ id: "q2", ordinal: 4, content: "another tab", updated_at: timeAt(6) }), false);
    supabase.listener?.onConnection("live");
    await vi.advanceTimersByTimeAsync(0);
    expect(texts()).toEqual(["Hello?", "a to z", "another tab"]);
  });

  test("find the row of unknown deltas, and give up if there is none", async () => {
    supabase.set(reply({ id: "r2", ordinal: 5, reply_to: "q2", seq: 1, content: "one ", updated_at: timeAt(1) }), false);
    supabase.delta(2, "two", { message_id: "r2", reply_to: "q2" });
    supabase.delta(2, "orphan", { message_id: "r3", reply_to: "q3" });
    await vi.advanceTimersByTimeAsync(0); // an unknown reply is read at once
    expect(last()?.content).toBe("one two");
    await vi.advanceTimersByTimeAsync(1_000);
    const reads = supabase.reads;
    await vi.advanceTimersByTimeAsync(3_000);
    expect(supabase.reads).toBe(reads);
  });

  test("of files are retried after a failure", async () => {
    const { content: _, ...rest } = file();
    supabase.files = [file()];
    supabase.refuse = new RequestError("Could not reach the server.");
    supabase.send("file", { ...rest, omitted: ["content"] });
    await vi.advanceTimersByTimeAsync(0);
    supabase.refuse = null;
    await vi.advanceTimersByTimeAsync(2_000);
    expect(session.getSnapshot()).toMatchObject({ error: null, files: [{ path: "main.py" }] });
  });

  test("never overlap, even when they are slow", async () => {
    supabase.responses = [{ delay: 10_000, lost: false }];
    const { reads } = supabase;
    for (let seq = 2; seq < 12; seq++) {
      supabase.delta(seq, "x");
      await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(supabase.reads).toBe(reads + 1);
  });

  test("back off after failures and recover", async () => {
    supabase.refuse = new RequestError("Could not reach the server.");
    supabase.delta(2, "b");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(session.getSnapshot().error).toBe("Could not reach the server.");
    expect(supabase.reads).toBeLessThan(12);
    supabase.refuse = null;
    supabase.set(reply({ seq: 1, content: "a", updated_at: timeAt(1) }), false);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(session.getSnapshot().error).toBeNull();
    expect(last()?.content).toBe("ab");
  });

  test("start at once when the connection is back, even after long failures", async () => {
    supabase.listener?.onConnection("offline");
    supabase.refuse = new RequestError("Could not reach the server.");
    supabase.delta(2, "b");
    await vi.advanceTimersByTimeAsync(3_600_000);
    supabase.refuse = null;
    supabase.set(reply({ seq: 2, content: "ab", updated_at: timeAt(1) }), false);
    await vi.advanceTimersByTimeAsync(1); // in the middle of a backoff
    supabase.listener?.onConnection("live");
    await vi.advanceTimersByTimeAsync(0);
    expect(last()?.content).toBe("ab");
    expect(session.getSnapshot().error).toBeNull();
  });
});

test("setting the clock back does not delay reads", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  vi.setSystemTime(Date.now() - 3_600_000);
  supabase.delta(2, "b");
  supabase.set(reply({ seq: 1, content: "a", updated_at: timeAt(1) }), false);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(last()?.content).toBe("ab");
});

test("a deleted conversation disappears and is no longer read", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  supabase.rows.clear();
  supabase.delta(2, "b");
  await vi.advanceTimersByTimeAsync(4_000); // a row may not be readable right after its event
  expect(session.getSnapshot().messages).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(session.getSnapshot()).toMatchObject({ messages: [], busy: false, error: null });
  const reads = supabase.reads;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(supabase.reads).toBe(reads);
});

test("the error of a read is cleared by the next successful one", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  supabase.refuse = new RequestError("Could not reach the server.");
  supabase.delta(2, "b");
  await vi.advanceTimersByTimeAsync(1_000);
  supabase.refuse = null;
  supabase.delta(1, "a");
  supabase.set(reply({ status: "done", seq: 3, content: "ab.", updated_at: timeAt(1) }));
  supabase.set(question({ status: "done", updated_at: timeAt(1) }));
  expect(session.getSnapshot().error).toBe("Could not reach the server.");
  await vi.advanceTimersByTimeAsync(2_000);
  expect(session.getSnapshot().error).toBeNull();
});

test("a new attempt replaces the text with its first delta", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  supabase.delta(1, "first try");
  supabase.delta(1, "second", { attempt: 2 });
  supabase.delta(2, " of the first", { attempt: 1 });
  expect(last()).toMatchObject({ content: "second", attempt: 2 });
});

describe("an unsent message", () => {
  test("has the reason and can be resent with the same id", async () => {
    await open();
    supabase.refuse = new RequestError("The message is too long.", "23514");
    expect(await session.send("Hello?", { depth: 2 })).toBe(false);
    const failed = last()!;
    expect(failed).toMatchObject({ status: "not_sent", error: { message: "The message is too long." } });
    supabase.refuse = null;
    expect(await session.resend(failed.id)).toBe(true);
    expect(session.getSnapshot().messages).toHaveLength(1);
    expect(last()).toMatchObject({ id: failed.id, status: "queued", data: { depth: 2 } });
  });

  test("counts as sent when its row appears", async () => {
    await open();
    supabase.refuse = new RequestError("Could not reach the server.");
    await session.send("Hello?");
    supabase.set(question({ id: last()!.id }));
    expect(session.getSnapshot().messages).toHaveLength(1);
    expect(last()?.status).toBe("queued");
  });

  test("counts as sent when its row appeared before the insert failed", async () => {
    await open();
    supabase.delays = [100];
    supabase.refuse = new RequestError("Could not reach the server.");
    const sent = session.send("Hello?");
    supabase.set(question({ id: last()!.id }));
    await vi.advanceTimersByTimeAsync(100);
    expect(await sent).toBe(true);
    expect(session.getSnapshot().messages).toMatchObject([{ status: "queued" }]);
  });

  test("can be discarded", async () => {
    await open();
    supabase.refuse = new RequestError("No.");
    await session.send("Hello?");
    session.discard(last()!.id);
    expect(session.getSnapshot().messages).toEqual([]);
  });
});

test("an option that is undefined has its default", async () => {
  for (let at = 1; at <= 3; at++) supabase.set(question({ id: `${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }), false);
  supabase.set(reply({ reply_to: "3", ordinal: 7 }), false);
  const options = { pageSize: undefined, gapMs: undefined, silenceMs: undefined } as object;
  session = new ChatSession("s", supabase, options);
  await vi.advanceTimersByTimeAsync(4_900);
  expect(texts()).toEqual(["1", "2", "3", ""]);
  expect(supabase.reads).toBe(1); // a silent reply is read after 5 s
});

test("messages are sent one at a time", async () => {
  await open();
  supabase.delays = [300, 200, 100];
  const sent = [session.send("1"), session.send("2"), session.send("3")];
  expect(texts()).toEqual(["1", "2", "3"]);
  await vi.advanceTimersByTimeAsync(600);
  await Promise.all(sent);
  expect(supabase.calls).toEqual(["insert 1", "insert 2", "insert 3"]);
  expect(texts()).toEqual(["1", "2", "3"]);
});

test("cancel and retry take effect without events", async () => {
  supabase.set(question({ status: "failed" }));
  supabase.set(reply({ status: "failed", error: { code: "model", message: "No." } }));
  await open();
  supabase.set(reply({ status: "queued", updated_at: timeAt(1) }), false);
  supabase.set(question({ status: "queued", updated_at: timeAt(1) }), false);
  await session.retry("r");
  expect(session.getSnapshot().messages.map(({ status }) => status)).toEqual(["queued", "queued"]);
  supabase.refuse = new RequestError("Not yours.");
  await expect(session.cancel("r")).rejects.toThrow("Not yours.");
});

test("a retry succeeds even if its effect cannot be read yet", async () => {
  supabase.set(question({ status: "failed" }));
  supabase.set(reply({ status: "failed", error: { code: "model", message: "No." } }));
  await open();
  supabase.set(reply({ status: "queued", updated_at: timeAt(1) }), false);
  supabase.refuseReads = new RequestError("Could not reach the server.");
  await session.retry("r");
  expect(last()?.status).toBe("failed");
  supabase.refuseReads = null;
  await vi.advanceTimersByTimeAsync(1_000);
  expect(last()?.status).toBe("queued");
});

test("a long session opens with its newest page and loads older ones on demand", async () => {
  for (let at = 1; at <= 25; at++) {
    supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }));
  }
  await open(10);
  expect(texts()).toEqual(["16", "17", "18", "19", "20", "21", "22", "23", "24", "25"]);
  expect(session.getSnapshot().hasOlder).toBe(true);
  await session.loadOlder();
  await session.loadOlder();
  expect(texts()).toHaveLength(25);
  expect(session.getSnapshot().hasOlder).toBe(false);
});

test("a page is never larger than PostgREST's row limit", async () => {
  for (let at = 1; at <= 1_001; at++) {
    supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }));
  }
  await open(5_000);
  expect(session.getSnapshot()).toMatchObject({ hasOlder: true });
  expect(texts()).toHaveLength(1_000);
  await session.loadOlder();
  expect(texts()[0]).toBe("1");
});

test("an absence longer than a page leaves no gap between messages", async () => {
  supabase.set(question({ id: "q1", content: "1", status: "done" }));
  await open(2);
  for (let at = 2; at <= 5; at++) {
    supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }), at === 5);
  }
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
  expect(texts()).toEqual(["4", "5"]);
  await session.loadOlder();
  expect(texts()).toEqual(["2", "3", "4", "5"]);
});

test("older messages stay when the newest page is read again", async () => {
  for (let at = 1; at <= 5; at++) supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }));
  await open(2);
  await session.loadOlder();
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
  expect(texts()).toEqual(["2", "3", "4", "5"]);
});

test("an older page that arrives after a long absence leaves no gap", async () => {
  const add = (at: number, announced = false) =>
    supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }), announced);
  for (let at = 1; at <= 4; at++) add(at);
  await open(2);
  supabase.responses = [{ delay: 1_000, lost: false }];
  const older = session.loadOlder();
  for (let at = 5; at <= 8; at++) add(at);
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(1_000);
  await older;
  expect(texts()).toEqual(["7", "8"]);
});

test("a closed session makes no requests", async () => {
  supabase.set(question({ status: "running" }));
  await open();
  const reads = supabase.reads;
  session.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(supabase.reads).toBe(reads);
  expect(supabase.listener).toBeNull();
});

test("an edited question is a new one, sent once the old reply has stopped", async () => {
  supabase.set(question({ id: "q", status: "running", data: { tone: "dry" } }));
  supabase.set(reply({ updated_at: timeAt(1) }));
  await open();
  const asked = session.edit("q", "Hello again?");
  await vi.advanceTimersByTimeAsync(1_000);
  expect(supabase.calls).toEqual(["cancel q"]);
  expect(last()).toMatchObject({ content: "Hello again?", status: "sending" });
  supabase.set(reply({ status: "cancelled", updated_at: timeAt(2) }));
  supabase.set(question({ id: "q", status: "cancelled", updated_at: timeAt(2) }));
  expect(await asked).toBe(true);
  expect(supabase.calls).toEqual(["cancel q", "insert Hello again?"]);
  expect(texts()).toEqual(["Hello?", "", "Hello again?"]);
  expect(last()).toMatchObject({ data: { tone: "dry" }, status: "queued" });
});

test.each(["is lost", "is ignored"])("an edited question is sent even if the stop %s", async (what) => {
  supabase.set(question({ id: "q", status: "running" }));
  await open();
  if (what === "is lost") supabase.cancelMessage = () => Promise.reject(new RequestError("Could not reach the server."));
  const asked = session.edit("q", "Hello again?");
  await vi.advanceTimersByTimeAsync(3_000);
  expect(await asked).toBe(true);
  expect(last()).toMatchObject({ content: "Hello again?", status: "queued" });
});

test("editing a question whose reply has ended stops nothing", async () => {
  supabase.set(question({ id: "q", status: "done" }));
  await open();
  expect(await session.edit("q", "Edited")).toBe(true);
  expect(supabase.calls).toEqual(["insert Edited"]);
});

test.each([
  ["a cancel", () => session.cancel(last()!.id), ["insert Helo", "cancel"]],
  ["an edit", () => session.edit(last()!.id, "Hello"), ["insert Helo", "cancel", "insert Hello"]],
])("%s of a message that is being sent waits until it has arrived", async (_what, act, expected) => {
  await open();
  supabase.delays = [200];
  void session.send("Helo");
  const acted = act();
  await vi.advanceTimersByTimeAsync(10_000);
  await acted;
  expect(supabase.calls.map((call) => call.replace(/^cancel .*/, "cancel"))).toEqual(expected);
});

test("cancelling an unsent message does nothing", async () => {
  await open();
  supabase.delays = [200];
  supabase.refuse = new RequestError("no");
  void session.send("Helo");
  const stopped = session.cancel(last()!.id);
  await vi.advanceTimersByTimeAsync(10_000);
  await stopped;
  expect(supabase.calls).toEqual(["insert Helo"]);
  expect(last()?.status).toBe("not_sent");
});

test("editing an unsent message replaces it", async () => {
  await open();
  supabase.refuse = new RequestError("no");
  await session.send("Helo", { tone: "dry" });
  supabase.refuse = null;
  expect(await session.edit(last()!.id, "Hello")).toBe(true);
  expect(texts()).toEqual(["Hello"]);
  expect(last()).toMatchObject({ data: { tone: "dry" } });
});

describe("code files", () => {
  test("are saved at the revision the edit started from", async () => {
    supabase.files = [file()];
    await open();
    const outcome = await session.files.save("f", "print(1)", 1);
    expect(outcome).toMatchObject({ saved: true, file: { revision: 2 } });
    expect(session.getSnapshot().files).toMatchObject([{ content: "print(1)", revision: 2 }]);
  });

  test("that have changed are not saved, and the current version is shown", async () => {
    supabase.files = [file()];
    await open();
    supabase.files = [file({ content: "the reply's", revision: 2, updated_at: timeAt(3) })];
    const outcome: SaveOutcome = await session.files.save("f", "mine", 1);
    expect(outcome).toMatchObject({ saved: false, file: { content: "the reply's", revision: 2 } });
    expect(session.getSnapshot().files).toMatchObject([{ content: "the reply's", revision: 2 }]);
    expect(await session.files.save("f", "mine", 2)).toMatchObject({ saved: true });
  });

  test("that were deleted are not saved", async () => {
    supabase.files = [file()];
    await open();
    supabase.files = [];
    expect(await session.files.save("f", "mine", 1)).toEqual({ saved: false, file: null });
    expect(session.getSnapshot().files).toEqual([]);
  });

  test("that were deleted stay deleted when a late response has them", async () => {
    supabase.files = [file(), file({ id: "g", path: "other.py" }), file({ id: "h", path: "third.py" })];
    await open();
    const paths = () => session.getSnapshot().files.map(({ path }) => path);
    const reading = session.files.read();
    supabase.send("files_deleted", { ids: ["f", "h", "unknown", 7] });
    expect(paths()).toEqual(["other.py"]);
    await reading;
    supabase.send("file", file({ revision: 2, updated_at: timeAt(1) }));
    expect(paths()).toEqual(["other.py"]);
    supabase.send("files_deleted", { ids: "g" });
    expect(paths()).toEqual(["other.py"]);
  });

  test("are read again when too many were deleted to list", async () => {
    supabase.files = [file(), file({ id: "g", path: "other.py" })];
    await open();
    supabase.files = [];
    supabase.send("files_deleted", { omitted: ["ids"] });
    await vi.advanceTimersByTimeAsync(1_000);
    expect(session.getSnapshot().files).toEqual([]);
  });

  test("are added and removed", async () => {
    await open();
    const added = await session.files.add("a.py", "x = 1", "python");
    expect(session.getSnapshot().files).toMatchObject([{ path: "a.py", language: "python" }]);
    await session.files.remove(added.id);
    expect(session.getSnapshot().files).toEqual([]);
  });
});

describe("a reply that waits", () => {
  const ask = { type: "dynamic-tool", toolName: "ask", toolCallId: "send", input: { title: "Send it?" } } as const;
  const parts: Part[] = [{ type: "text", text: "May I? " }, { ...ask, state: "approval-requested", approval: { id: "send" } }];

  beforeEach(async () => {
    supabase.set(question({ status: "running" }));
    supabase.set(reply());
    await open();
    supabase.delta(1, "May I? ");
    supabase.send("delta", { message_id: "r", reply_to: "q", attempt: 1, seq: 2, part: parts[1] });
    expect(session.getSnapshot().asks).toEqual([]); // it cannot be answered yet
    supabase.change("r", { status: "waiting", seq: 2, content: "May I? ", parts });
  });

  test("shows its parts, and what it asks until there is an answer", async () => {
    expect(session.getSnapshot()).toMatchObject({ busy: true, asks: [{ messageId: "r", name: "send", input: ask.input }] });
    expect(last()).toMatchObject({ status: "waiting", content: "May I? ", parts });
    expect(await session.answer("r", "send", { approved: true })).toBe("taken");
    expect(supabase.calls.at(-1)).toBe('answer r send {"approved":true}');
    expect(session.getSnapshot()).toMatchObject({ busy: true, asks: [] });
    expect(last()).toMatchObject({ status: "queued", parts: [parts[0], { state: "approval-responded" }] });
    expect(await session.answer("r", "send", { approved: false })).toBe("answered");

    supabase.change("r", { status: "running", attempt: 2, seq: 1 });
    supabase.delta(2, "Sent", { attempt: 2 });
    supabase.delta(3, ".", { attempt: 2 });
    expect(last()).toMatchObject({ content: "May I? Sent.", parts: [parts[0], { toolCallId: "send" }, { text: "Sent." }] });
  });

  test("has its answer shown although no event comes and the read fails", async () => {
    supabase.listener = null;
    supabase.refuseReads = new RequestError("Could not reach the server.", null, true);
    expect(await session.answer("r", "send", { approved: true })).toBe("taken");
    expect(last()?.status).toBe("waiting");
    supabase.refuseReads = null;
    await vi.advanceTimersByTimeAsync(1_000);
    expect(last()?.status).toBe("queued");
  });

  test("rejects an answer to what was not asked", async () => {
    await expect(session.answer("r", "another", {})).rejects.toMatchObject({ code: "PT404" });
  });

  test("is read seldom, however long it waits, and often again when it runs", async () => {
    const { reads } = supabase;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(supabase.reads - reads).toBeLessThan(6);
    expect(supabase.reads - reads).toBeGreaterThan(2);
    await vi.advanceTimersByTimeAsync(24 * 3_600_000);
    expect(supabase.reads - reads).toBeLessThan(300);
    supabase.change("r", { status: "running", attempt: 2, seq: 1 });
    supabase.rows.set("r", { ...supabase.rows.get("r")!, seq: 2, content: "May I? Sent", updated_at: timeAt(2_000) });
    await vi.advanceTimersByTimeAsync(5_000);
    expect(last()?.content).toBe("May I? Sent");
  });

  test("that goes on unheard is found within five minutes", async () => {
    await vi.advanceTimersByTimeAsync(3_600_000);
    supabase.set({ ...supabase.rows.get("r")!, status: "done", content: "May I? Sent.", updated_at: timeAt(3_000) }, false);
    await vi.advanceTimersByTimeAsync(300_000);
    expect(last()?.status).toBe("done");
  });

  test("does not slow the reads of a reply that runs before it", async () => {
    supabase.set(question({ id: "q0", ordinal: 0, status: "running" }));
    const { reads } = supabase;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(supabase.reads - reads).toBeGreaterThan(10);
  });
});
