/** Sessions under random network faults: they end with the rows, and never show anything that was not true. */

import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { hasEnded } from "../src/merge.ts";
import { partsOf } from "../src/parts.ts";
import { ChatSession } from "../src/session.ts";
import type { Message } from "../src/types.ts";
import { Supabase } from "./stand-in.ts";
import { ReplyLife, question, step, type Event, type Step } from "./world.ts";

/** How an event is delivered: the pause before it, the number of copies, and the delay. */
const fate = fc.record({
  pause: fc.oneof({ weight: 6, arbitrary: fc.constantFrom(0, 20, 50) }, { weight: 1, arbitrary: fc.nat(7_000) }),
  copies: fc.oneof({ weight: 8, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.constantFrom(0, 0, 2) }),
  late: fc.oneof({ weight: 8, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(3_000) }),
});
/** A lost connection, which the session is notified of, from event `at` on. */
const outage = fc.record({ at: fc.nat(60), events: fc.integer({ min: 1, max: 12 }) });
const response = fc.record({
  delay: fc.oneof({ weight: 3, arbitrary: fc.nat(80) }, { weight: 1, arbitrary: fc.nat(4_000) }),
  lost: fc.integer({ min: 0, max: 3 }).map((n) => n === 0),
});
const life = fc.array(step, { maxLength: 25 });

test("a session converges on the rows and never takes text back", { timeout: 120_000 }, async () => {
  const property = fc.asyncProperty(
    life,
    life,
    fc.array(fate, { minLength: 1, maxLength: 80 }),
    fc.array(outage, { maxLength: 3 }),
    fc.array(response, { maxLength: 20 }),
    play,
  );
  await fc.assert(property, { numRuns: 400 });
});

async function play(
  first: Step[],
  second: Step[],
  fates: { pause: number; copies: number; late: number }[],
  outages: { at: number; events: number }[],
  responses: { delay: number; lost: boolean }[],
): Promise<void> {
  vi.useFakeTimers();
  const lives = [
    new ReplyLife(first, { id: "r", reply_to: "q", ordinal: 3 }),
    new ReplyLife(second, { id: "r2", reply_to: "q2", ordinal: 5 }),
  ];
  const supabase = new Supabase();
  supabase.responses = [...responses];
  supabase.set(question({ id: "q", ordinal: 2 }), false);
  supabase.set(question({ id: "q2", ordinal: 4 }), false);
  const session = new ChatSession("s", supabase);
  try {
    const states = new Map(lives.map(({ row, states }) => [row.id, states]));
    let before = new Map<string, Message>();
    const check = (): void => {
      const { messages } = session.getSnapshot();
      const now = new Map(messages.map((message) => [message.id, message]));
      expect(now.size).toBe(messages.length);
      for (const [id, then] of before) {
        const message = now.get(id)!;
        expect(message).toBeDefined();
        expect(message.attempt).toBeGreaterThanOrEqual(then.attempt);
        if (message.attempt === then.attempt && !hasEnded(message)) expect(message.seq).toBeGreaterThanOrEqual(then.seq);
      }
      for (const { id, attempt, seq, content, data, parts } of messages) {
        if (states.has(id) && attempt > 0) expect(states.get(id)!.get(`${attempt}:${seq}`)).toContainEqual({ content, data, parts });
      }
      before = now;
    };
    session.subscribe(check);
    supabase.listener!.onConnection("live");

    let at = 0;
    let connected = true;
    const deliver = (event: string, payload: object, late: number): void => {
      if (!connected) return;
      if (late === 0) supabase.send(event, payload);
      else setTimeout(() => supabase.send(event, payload), late);
    };
    const happen = async (event: Event): Promise<void> => {
      const isOut = outages.some((one) => one.at <= at && at < one.at + one.events);
      if (isOut === connected) {
        connected = !isOut;
        supabase.listener!.onConnection(connected ? "live" : "offline");
      }
      const fate = fates[at++ % fates.length]!;
      await vi.advanceTimersByTimeAsync(fate.pause);
      for (let copy = 0; copy < fate.copies; copy++) announce(event, fate.late);
    };
    const announce = (event: Event, late: number): void => {
      if ("delta" in event) deliver("delta", event.delta, late);
      else if ("hint" in event) deliver("message", { ...withoutContent(event.row), omitted: ["content"] }, late);
      else if (event.announced) deliver("message", event.row, late);
    };
    for (const { events, row } of lives) {
      for (const event of events) {
        if ("row" in event) {
          supabase.set(event.row, false);
          // a question mirrors its reply
          const asked = supabase.rows.get(row.reply_to!)!;
          // an idle session does not poll: it learns of a retry by making the call itself
          if (hasEnded(asked) && event.row.status === "queued") void session.retry(asked.id);
          const mirrored = { ...asked, status: event.row.status, updated_at: event.row.updated_at };
          supabase.set(mirrored, false);
          if (asked.status !== mirrored.status) await happen({ row: mirrored, announced: true });
        }
        await happen(event);
      }
    }
    if (!connected) supabase.listener!.onConnection("live");
    supabase.responses = [];
    // the maximum backoff, the silence timeout, and the longest pause while a reply waits
    await vi.advanceTimersByTimeAsync(15_000 + 5_000 + 4_000 + 300_000);
    const rows = [...supabase.rows.values()].sort((a, b) => a.ordinal - b.ordinal);
    expect(session.getSnapshot()).toMatchObject({ error: null, busy: false, ready: true });
    expect(session.getSnapshot().messages).toEqual(rows.map((row) => ({ ...row, parts: partsOf(row), attachments: [] })));
    const { reads } = supabase; // an idle session makes no requests
    await vi.advanceTimersByTimeAsync(60_000);
    expect(supabase.reads).toBe(reads);
  } finally {
    session.close();
    vi.useRealTimers();
  }
}

function withoutContent({ content: _, ...row }: object & { content: string }): object {
  return row;
}
