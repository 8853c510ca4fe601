import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { SessionList } from "../src/sessions.ts";
import { RequestError } from "../src/types.ts";
import { Supabase } from "./stand-in.ts";
import { timeAt } from "./world.ts";

let supabase: Supabase;
let list: SessionList;

beforeEach(() => {
  vi.useFakeTimers();
  supabase = new Supabase();
  list = new SessionList("u", supabase);
});

afterEach(() => {
  list.close();
  vi.useRealTimers();
});

test("failed reads are retried with backoff, and events do not speed that up", async () => {
  supabase.refuse = new RequestError("No.", "XX000");
  supabase.listener!.onConnection("live");
  await vi.advanceTimersByTimeAsync(59_000);
  expect(list.getSnapshot()).toMatchObject({ ready: false, error: "No." });
  expect(supabase.reads).toBe(7); // at 0, 1, 3, 7, 15, 30 and 45 s

  supabase.send("session", { id: "s", omitted: ["title"] });
  await vi.advanceTimersByTimeAsync(100);
  supabase.refuse = null;
  await vi.advanceTimersByTimeAsync(15_000);
  expect(supabase.reads).toBe(8);
  expect(list.getSnapshot()).toMatchObject({ ready: true, error: null });

  await vi.advanceTimersByTimeAsync(60_000);
  supabase.send("session", { id: "s", omitted: ["title"] });
  await vi.advanceTimersByTimeAsync(0);
  expect(supabase.reads).toBe(9);
});

test("a new connection triggers a read at once, even after long failures", async () => {
  supabase.refuse = new RequestError("No.", "XX000");
  await vi.advanceTimersByTimeAsync(3_600_000);
  supabase.refuse = null;
  supabase.listener!.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
  expect(list.getSnapshot()).toMatchObject({ ready: true, error: null });
});

test("a session that changes while the list is read stays in it", async () => {
  const row = { id: "s", title: "old", updated_at: timeAt(1) };
  await vi.advanceTimersByTimeAsync(0);
  supabase.send("session", row);
  supabase.readSessions = () => {
    supabase.send("session", { ...row, title: "new", updated_at: timeAt(2) });
    return Promise.resolve([]);
  };
  supabase.listener!.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
  expect(list.getSnapshot().sessions).toMatchObject([{ title: "new" }]);
});

test("a session that a function has opened is not listed", async () => {
  await vi.advanceTimersByTimeAsync(0);
  supabase.send("session", { id: "own", title: null, parent: null, updated_at: timeAt(1) });
  supabase.send("session", { id: "inner", title: null, parent: "question", updated_at: timeAt(2) });
  await vi.advanceTimersByTimeAsync(0);
  expect(list.getSnapshot().sessions.map(({ id }) => id)).toEqual(["own"]);
});
