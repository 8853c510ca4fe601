import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { ChatSession } from "../src/session.ts";
import { RequestError, type SaveOutcome } from "../src/types.ts";
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

test("a conversation from the question to the end of the reply", async () => {
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
  expect(supabase.reads).toBe(reads); // a session at rest asks for nothing
});

test("the snapshot is the same object until something changes", async () => {
  supabase.set(question());
  await open();
  const heard = vi.fn();
  session.subscribe(heard);
  const before = session.getSnapshot();
  supabase.send("presence", {});
  supabase.send("delta", { message_id: 7 });
  supabase.send("message", null as never);
  expect(session.getSnapshot()).toBe(before);
  supabase.set(reply({ updated_at: timeAt(1) }));
  supabase.delta(1, "a");
  expect(heard).toHaveBeenCalledTimes(2);
  expect(session.getSnapshot()).not.toBe(before);
  expect(session.getSnapshot().messages[0]).toBe(before.messages[0]);
});

describe("what events do not bring is read", () => {
  beforeEach(async () => {
    supabase.set(question({ status: "running" }));
    supabase.set(reply());
    await open();
  });

  test("a lost delta: once an interval until the row reaches the buffer", async () => {
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

  test("silence while a reply runs", async () => {
    supabase.set(reply({ status: "done", seq: 1, content: "all of it", updated_at: timeAt(1) }), false);
    supabase.set(question({ status: "done", updated_at: timeAt(1) }), false);
    await vi.advanceTimersByTimeAsync(4_900);
    expect(last()?.status).toBe("running");
    await vi.advanceTimersByTimeAsync(200);
    expect(last()).toMatchObject({ status: "done", content: "all of it" });
  });

  test("a row too large for an event", async () => {
    const large = reply({ status: "done", seq: 4, content: "x".repeat(40_000), updated_at: timeAt(3) });
    supabase.set(large, false);
    const { content, ...rest } = large;
    supabase.send("message", { ...rest, omitted: ["content"] });
    await vi.advanceTimersByTimeAsync(1_000);
    expect(last()).toMatchObject({ content, status: "done" });
  });

  test("a file too large for an event, and files that are gone", async () => {
    supabase.send("file", file({ id: "gone", path: "gone.py" }));
    supabase.files = [file({ content: "long" })];
    const { content: _, ...rest } = file();
    supabase.send("file", { ...rest, omitted: ["content"] });
    await vi.advanceTimersByTimeAsync(1_000);
    expect(session.getSnapshot().files.map(({ path, content }) => [path, content])).toEqual([["main.py", "long"]]);
  });

  test("all that happened while the connection was lost", async () => {
    supabase.delta(1, "a");
    supabase.listener?.onConnection("offline");
    expect(session.getSnapshot().connection).toBe("offline");
    supabase.set(reply({ status: "done", seq: 9, content: "a to z", updated_at: timeAt(5) }), false);
    supabase.set(question({ id: "q2", ordinal: 4, content: "another tab", updated_at: timeAt(6) }), false);
    supabase.listener?.onConnection("live");
    await vi.advanceTimersByTimeAsync(0);
    expect(texts()).toEqual(["Hello?", "a to z", "another tab"]);
  });

  test("deltas of a reply whose row was never announced; and of none at all", async () => {
    supabase.set(reply({ id: "r2", ordinal: 5, reply_to: "q2", seq: 1, content: "one ", updated_at: timeAt(1) }), false);
    supabase.delta(2, "two", { message_id: "r2", reply_to: "q2" });
    supabase.delta(2, "nobody", { message_id: "r3", reply_to: "q3" });
    await vi.advanceTimersByTimeAsync(0); // nothing of it is shown yet: it is read at once
    expect(last()?.content).toBe("one two");
    await vi.advanceTimersByTimeAsync(1_000);
    const reads = supabase.reads;
    await vi.advanceTimersByTimeAsync(3_000);
    expect(supabase.reads).toBe(reads);
  });

  test("files, when the first reading of them fails", async () => {
    const { content: _, ...rest } = file();
    supabase.files = [file()];
    supabase.refuse = new RequestError("The server could not be reached.");
    supabase.send("file", { ...rest, omitted: ["content"] });
    await vi.advanceTimersByTimeAsync(0);
    supabase.refuse = null;
    await vi.advanceTimersByTimeAsync(2_000);
    expect(session.getSnapshot()).toMatchObject({ error: null, files: [{ path: "main.py" }] });
  });

  test("by one request at a time, however slow", async () => {
    supabase.answers = [{ delay: 10_000, lost: false }];
    const { reads } = supabase;
    for (let seq = 2; seq < 12; seq++) {
      supabase.delta(seq, "x");
      await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(supabase.reads).toBe(reads + 1);
  });

  test("with failures in between: fewer and fewer requests, then whole again", async () => {
    supabase.refuse = new RequestError("The server could not be reached.");
    supabase.delta(2, "b");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(session.getSnapshot().error).toBe("The server could not be reached.");
    expect(supabase.reads).toBeLessThan(12);
    supabase.refuse = null;
    supabase.set(reply({ seq: 1, content: "a", updated_at: timeAt(1) }), false);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(session.getSnapshot().error).toBeNull();
    expect(last()?.content).toBe("ab");
  });

  test("at once when events arrive again, however long nothing could be read", async () => {
    supabase.listener?.onConnection("offline");
    supabase.refuse = new RequestError("The server could not be reached.");
    supabase.delta(2, "b");
    await vi.advanceTimersByTimeAsync(3_600_000);
    supabase.refuse = null;
    supabase.set(reply({ seq: 2, content: "ab", updated_at: timeAt(1) }), false);
    await vi.advanceTimersByTimeAsync(1); // somewhere in a pause
    supabase.listener?.onConnection("live");
    await vi.advanceTimersByTimeAsync(0);
    expect(last()?.content).toBe("ab");
    expect(session.getSnapshot().error).toBeNull();
  });
});

test("a clock that is set back holds nothing up", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  vi.setSystemTime(Date.now() - 3_600_000);
  supabase.delta(2, "b");
  supabase.set(reply({ seq: 1, content: "a", updated_at: timeAt(1) }), false);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(last()?.content).toBe("ab");
});

test("a conversation that was deleted goes, and is asked for no more", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  supabase.rows.clear();
  supabase.delta(2, "b");
  await vi.advanceTimersByTimeAsync(4_000); // what was just announced may not be there to be read yet
  expect(session.getSnapshot().messages).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(session.getSnapshot()).toMatchObject({ messages: [], busy: false, error: null });
  const reads = supabase.reads;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(supabase.reads).toBe(reads);
});

test("what a reading could not do is told no longer than it is true", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  supabase.refuse = new RequestError("The server could not be reached.");
  supabase.delta(2, "b");
  await vi.advanceTimersByTimeAsync(1_000);
  supabase.refuse = null;
  supabase.delta(1, "a");
  supabase.set(reply({ status: "done", seq: 3, content: "ab.", updated_at: timeAt(1) }));
  supabase.set(question({ status: "done", updated_at: timeAt(1) }));
  expect(session.getSnapshot().error).toBe("The server could not be reached.");
  await vi.advanceTimersByTimeAsync(2_000);
  expect(session.getSnapshot().error).toBeNull();
});

test("a new attempt replaces the text when it begins to write", async () => {
  supabase.set(question({ status: "running" }));
  supabase.set(reply());
  await open();
  supabase.delta(1, "first try");
  supabase.delta(1, "second", { attempt: 2 });
  supabase.delta(2, " of the first", { attempt: 1 });
  expect(last()).toMatchObject({ content: "second", attempt: 2 });
});

describe("a message that is not sent", () => {
  test("says why and can be sent again with the same id", async () => {
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

  test("counts as sent when its row turns up", async () => {
    await open();
    supabase.refuse = new RequestError("The server could not be reached.");
    await session.send("Hello?");
    supabase.set(question({ id: last()!.id }));
    expect(session.getSnapshot().messages).toHaveLength(1);
    expect(last()?.status).toBe("queued");
  });

  test("counts as sent when its row turned up before the insert failed", async () => {
    await open();
    supabase.delays = [100];
    supabase.refuse = new RequestError("The server could not be reached.");
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

test("messages are sent one after another", async () => {
  await open();
  supabase.delays = [300, 200, 100];
  const sent = [session.send("1"), session.send("2"), session.send("3")];
  expect(texts()).toEqual(["1", "2", "3"]);
  await vi.advanceTimersByTimeAsync(600);
  await Promise.all(sent);
  expect(supabase.calls).toEqual(["insert 1", "insert 2", "insert 3"]);
  expect(texts()).toEqual(["1", "2", "3"]);
});

test("cancel and retry show their effect without any event", async () => {
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

test("a retry that arrived is none that failed because its effect cannot be read yet", async () => {
  supabase.set(question({ status: "failed" }));
  supabase.set(reply({ status: "failed", error: { code: "model", message: "No." } }));
  await open();
  supabase.set(reply({ status: "queued", updated_at: timeAt(1) }), false);
  supabase.refuseReads = new RequestError("The server could not be reached.");
  await session.retry("r");
  expect(last()?.status).toBe("failed");
  supabase.refuseReads = null;
  await vi.advanceTimersByTimeAsync(1_000);
  expect(last()?.status).toBe("queued");
});

test("a long session opens with its newest page; older ones come on demand", async () => {
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

test("a page is no larger than PostgREST's answer, or older messages would seem not to be", async () => {
  for (let at = 1; at <= 1_001; at++) {
    supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }));
  }
  await open(5_000);
  expect(session.getSnapshot()).toMatchObject({ hasOlder: true });
  expect(texts()).toHaveLength(1_000);
  await session.loadOlder();
  expect(texts()[0]).toBe("1");
});

test("after an absence longer than a page there is no hole in what is shown", async () => {
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

test("older messages stay when the newest are read again", async () => {
  for (let at = 1; at <= 5; at++) supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }));
  await open(2);
  await session.loadOlder();
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
  expect(texts()).toEqual(["2", "3", "4", "5"]);
});

test("an older page that comes after a long absence makes no hole", async () => {
  const add = (at: number, announced = false) =>
    supabase.set(question({ id: `q${at}`, ordinal: 2 * at, content: `${at}`, status: "done" }), announced);
  for (let at = 1; at <= 4; at++) add(at);
  await open(2);
  supabase.answers = [{ delay: 1_000, lost: false }];
  const older = session.loadOlder();
  for (let at = 5; at <= 8; at++) add(at);
  supabase.listener?.onConnection("live");
  await vi.advanceTimersByTimeAsync(1_000);
  await older;
  expect(texts()).toEqual(["7", "8"]);
});

test("a closed session is silent", async () => {
  supabase.set(question({ status: "running" }));
  await open();
  const reads = supabase.reads;
  session.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(supabase.reads).toBe(reads);
  expect(supabase.listener).toBeNull();
});

test("a question asked in other words is a new one, sent when the old one's reply has been stopped", async () => {
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

test.each(["arrive", "be heeded"])("a stop that does not %s keeps nobody from asking in other words", async (what) => {
  supabase.set(question({ id: "q", status: "running" }));
  await open();
  if (what === "arrive") supabase.cancelMessage = () => Promise.reject(new RequestError("The server could not be reached."));
  const asked = session.edit("q", "Hello again?");
  await vi.advanceTimersByTimeAsync(3_000);
  expect(await asked).toBe(true);
  expect(last()).toMatchObject({ content: "Hello again?", status: "queued" });
});

test("a question whose reply has ended is asked again without a stop", async () => {
  supabase.set(question({ id: "q", status: "done" }));
  await open();
  expect(await session.edit("q", "In other words")).toBe(true);
  expect(supabase.calls).toEqual(["insert In other words"]);
});

test.each([
  ["a stop", () => session.cancel(last()!.id), ["insert Helo", "cancel"]],
  ["other words", () => session.edit(last()!.id, "Hello"), ["insert Helo", "cancel", "insert Hello"]],
])("%s for a message that is being sent: once it is there", async (_what, act, expected) => {
  await open();
  supabase.delays = [200];
  void session.send("Helo");
  const acted = act();
  await vi.advanceTimersByTimeAsync(10_000);
  await acted;
  expect(supabase.calls.map((call) => call.replace(/^cancel .*/, "cancel"))).toEqual(expected);
});

test("a stop of a message that is not sent has nothing to do", async () => {
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

test("an unsent message that is edited is replaced", async () => {
  await open();
  supabase.refuse = new RequestError("no");
  await session.send("Helo", { tone: "dry" });
  supabase.refuse = null;
  expect(await session.edit(last()!.id, "Hello")).toBe(true);
  expect(texts()).toEqual(["Hello"]);
  expect(last()).toMatchObject({ data: { tone: "dry" } });
});

describe("code files", () => {
  test("an edit is saved at the revision it was begun from", async () => {
    supabase.files = [file()];
    await open();
    const outcome = await session.files.save("f", "print(1)", 1);
    expect(outcome).toMatchObject({ saved: true, file: { revision: 2 } });
    expect(session.getSnapshot().files).toMatchObject([{ content: "print(1)", revision: 2 }]);
  });

  test("an edit of a file that has changed is not saved, and what is there now is shown", async () => {
    supabase.files = [file()];
    await open();
    supabase.files = [file({ content: "the reply's", revision: 2, updated_at: timeAt(3) })];
    const outcome: SaveOutcome = await session.files.save("f", "mine", 1);
    expect(outcome).toMatchObject({ saved: false, file: { content: "the reply's", revision: 2 } });
    expect(session.getSnapshot().files).toMatchObject([{ content: "the reply's", revision: 2 }]);
    expect(await session.files.save("f", "mine", 2)).toMatchObject({ saved: true });
  });

  test("an edit of a file that is gone says so", async () => {
    supabase.files = [file()];
    await open();
    supabase.files = [];
    expect(await session.files.save("f", "mine", 1)).toEqual({ saved: false, file: null });
    expect(session.getSnapshot().files).toEqual([]);
  });

  test("that are deleted elsewhere are gone, also for an answer that was under way", async () => {
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

  test("that are deleted in too large a number to be named are read", async () => {
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
