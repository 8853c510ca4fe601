/** The list of sessions over supabase-js, whose requests a test answers. */

import { createClient } from "@supabase/supabase-js";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import WebSocket from "ws";
import type { TopicListener } from "../src/topic.ts";
import { openSessionList, type SessionList } from "../src/sessions.ts";

let listener: TopicListener;
vi.mock("../src/topic.ts", () => ({
  listen: (_client: unknown, _topic: string, heard: TopicListener) => {
    listener = heard;
    return () => undefined;
  },
}));

let requests: string[];
let answer: () => Response;
let list: SessionList;

const refused = (status: number, code: string) => Response.json({ code, message: "No." }, { status });

beforeEach(() => {
  vi.useFakeTimers();
  requests = [];
  answer = () => Response.json([]);
  const fetch = async (_: unknown, init?: RequestInit): Promise<Response> => {
    requests.push(init?.method ?? "GET");
    return answer();
  };
  const client = createClient("http://127.0.0.1:1", "key", {
    auth: { persistSession: false, autoRefreshToken: false },
    global: { fetch },
    realtime: { transport: WebSocket as never }, // Node 20 has none of its own
  });
  list = openSessionList(client, "u");
});

afterEach(() => {
  list.close();
  vi.useRealTimers();
});

test("what cannot be read is read again, ever less often, whatever happens meanwhile", async () => {
  answer = () => refused(500, "XX000");
  listener.onConnection("live");
  await vi.advanceTimersByTimeAsync(59_000);
  expect(list.getSnapshot()).toMatchObject({ ready: false, error: "No." });
  expect(requests).toHaveLength(7); // at 0, 1, 3, 7, 15, 30 and 45 s

  listener.onEvent("session", { id: "s", omitted: ["title"] });
  await vi.advanceTimersByTimeAsync(100);
  answer = () => Response.json([]);
  await vi.advanceTimersByTimeAsync(15_000);
  expect(requests).toHaveLength(8);
  expect(list.getSnapshot()).toMatchObject({ ready: true, error: null });

  await vi.advanceTimersByTimeAsync(60_000);
  listener.onEvent("session", { id: "s", omitted: ["title"] });
  await vi.advanceTimersByTimeAsync(0);
  expect(requests).toHaveLength(9);
});

test("when events arrive again it is read at once, however long that failed", async () => {
  answer = () => refused(500, "XX000");
  await vi.advanceTimersByTimeAsync(3_600_000);
  answer = () => Response.json([]);
  listener.onConnection("live");
  await vi.advanceTimersByTimeAsync(0);
  expect(list.getSnapshot()).toMatchObject({ ready: true, error: null });
});
