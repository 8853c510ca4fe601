import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MAX_PENDING, UNKNOWN, compareTimes, hasEnded, mergeDelta, mergeFile, mergeHint, mergeRow, needsRead } from "../src/merge.ts";
import type { Entry } from "../src/merge.ts";
import { partsOf } from "../src/parts.ts";
import type { Delta, Part } from "../src/types.ts";
import { ReplyLife, file, reply, step, timeAt, type Event } from "./world.ts";

function delta(seq: number, text: string, attempt = 1): Delta {
  return { message_id: "r", reply_to: "q", attempt, seq, text };
}

function feed(entry: Entry, ...deltas: Delta[]): Entry {
  return deltas.reduce(mergeDelta, entry);
}

describe("deltas", () => {
  const running = mergeRow(UNKNOWN, reply());

  test("in order are appended", () => {
    const entry = feed(running, delta(1, "a"), delta(2, "b"));
    expect(entry.message).toMatchObject({ content: "ab", seq: 2, status: "running" });
    expect(needsRead(entry)).toBe(false);
  });

  test("that are duplicated are applied once", () => {
    const entry = feed(running, delta(1, "a"), delta(1, "a"), delta(2, "b"), delta(1, "a"), delta(2, "b"));
    expect(entry.message?.content).toBe("ab");
    expect(mergeDelta(entry, delta(2, "b"))).toBe(entry);
  });

  test("out of order wait for the missing one", () => {
    const early = feed(running, delta(1, "a"), delta(3, "c"));
    expect(early.message?.content).toBe("a");
    expect(needsRead(early)).toBe(true);
    const whole = mergeDelta(early, delta(2, "b"));
    expect(whole.message?.content).toBe("abc");
    expect(needsRead(whole)).toBe(false);
  });

  test("after a lost one continue from the row that contains it", () => {
    const gap = feed(running, delta(1, "a"), delta(3, "c"), delta(4, "d"));
    const short = mergeRow(gap, reply({ seq: 1, content: "a", updated_at: timeAt(1) }));
    expect(short.message?.content).toBe("a");
    expect(needsRead(short)).toBe(true);
    const reached = mergeRow(short, reply({ seq: 3, content: "abc", updated_at: timeAt(2) }));
    expect(reached.message?.content).toBe("abcd");
    expect(needsRead(reached)).toBe(false);
  });

  test("before the row are kept until it is read", () => {
    const unknown = feed(UNKNOWN, delta(2, "b"), delta(3, "c"));
    expect(unknown.message).toBeNull();
    expect(needsRead(unknown)).toBe(true);
    expect(mergeRow(unknown, reply({ seq: 1, content: "a" })).message?.content).toBe("abc");
  });

  test("of a higher attempt replace the text from the first one on", () => {
    const first = feed(running, delta(1, "old"));
    const waiting = mergeDelta(first, delta(2, "w", 2));
    expect(waiting.message?.content).toBe("old");
    expect(mergeDelta(waiting, delta(2, "zombie"))).toBe(waiting);
    expect(mergeDelta(waiting, delta(1, "ne", 2)).message).toMatchObject({ content: "new", attempt: 2, seq: 2 });
  });

  test("of a lower attempt are ignored", () => {
    const second = mergeRow(feed(running, delta(1, "old")), reply({ attempt: 2, updated_at: timeAt(5) }));
    expect(second.message?.content).toBe("");
    expect(mergeDelta(second, delta(2, "zombie"))).toBe(second);
  });

  test("after the attempt are ignored, and need no reads", () => {
    const queued = mergeRow(feed(running, delta(1, "a")), reply({ status: "queued", seq: 1, content: "a", updated_at: timeAt(1) }));
    expect(mergeDelta(queued, delta(2, "b"))).toBe(queued);
    expect(needsRead(mergeRow(feed(UNKNOWN, delta(3, "c")), queued.message!))).toBe(false);
  });

  test("after the end are ignored", () => {
    const done = mergeRow(running, reply({ status: "done", seq: 2, content: "ab", updated_at: timeAt(1) }));
    expect(mergeDelta(done, delta(3, "c"))).toBe(done);
  });

  test("may hold the whole text or a structured result", () => {
    const content = feed(running, delta(1, "a"), { ...delta(2, ""), text: undefined as never, content: "B" });
    expect(content.message?.content).toBe("B");
    const data = mergeDelta(content, { message_id: "r", reply_to: "q", attempt: 1, seq: 3, data: { rows: [1] } });
    expect(data.message).toMatchObject({ content: "B", data: { rows: [1] }, seq: 3 });
  });

  test("that are too large to send wait for the row", () => {
    const first = feed(running, delta(1, "a"));
    const omitted = { message_id: "r", reply_to: "q", attempt: 1, seq: 2, omitted: ["content"] };
    expect(needsRead(mergeDelta(first, omitted))).toBe(true);
    const waiting = feed(first, omitted, delta(3, "c"));
    expect(waiting.message).toMatchObject({ content: "a", seq: 1 });
    expect(needsRead(waiting)).toBe(true);
    const read = mergeRow(waiting, reply({ seq: 2, content: "b", updated_at: timeAt(1) }));
    expect(read.message).toMatchObject({ content: "bc", seq: 3 });
    expect(needsRead(read)).toBe(false);
  });

  test("are kept up to a limit", () => {
    let entry = running;
    for (let seq = 2; seq < MAX_PENDING + 10; seq++) entry = mergeDelta(entry, delta(seq, "x"));
    expect(entry.pending.size).toBe(MAX_PENDING);
    expect(needsRead(entry)).toBe(true);
  });
});

describe("parts", () => {
  const call = { type: "dynamic-tool", toolName: "fetch", toolCallId: "fetch", input: {} } as const;
  const running: Part = { ...call, state: "input-available" };
  const ended: Part = { ...call, state: "output-available", output: 1 };
  const shown = (entry: Entry) => partsOf(entry.message!);

  test("close the text before them, and replace the one with their key", () => {
    let entry = feed(mergeRow(UNKNOWN, reply()), delta(1, "a"), { ...delta(2, ""), part: running }, delta(3, "b"));
    expect(shown(entry)).toEqual([{ type: "text", text: "a" }, running, { type: "text", text: "b" }]);
    entry = feed(entry, { ...delta(4, ""), part: ended }, { ...delta(5, ""), content: "acd" }, delta(6, "e"));
    expect(shown(entry)).toEqual([{ type: "text", text: "a" }, ended, { type: "text", text: "cde" }]);
    expect(entry.message).toMatchObject({ content: "acde", parts: [{ type: "text", text: "a" }, ended] });
  });

  test("of reasoning grow until something else comes", () => {
    const [hm, so] = [{ ...delta(1, ""), reasoning: "H" }, { ...delta(2, ""), reasoning: "m" }];
    const entry = feed(mergeRow(UNKNOWN, reply()), hm, so, delta(3, "a"), { ...delta(4, ""), reasoning: "So" });
    expect(shown(entry)).toEqual([{ type: "reasoning", text: "Hm" }, { type: "text", text: "a" }, { type: "reasoning", text: "So" }]);
  });

  test("that are too large to send wait for the row", () => {
    const entry = feed(mergeRow(UNKNOWN, reply()), { ...delta(1, ""), omitted: ["part"] }, delta(2, "b"));
    expect([needsRead(entry), shown(entry)]).toEqual([true, []]);
    expect(shown(mergeRow(entry, reply({ seq: 1, parts: [ended], updated_at: timeAt(1) })))).toEqual([ended, { type: "text", text: "b" }]);
  });

  test("are absent in rows of an older schema", () => {
    const row = reply({ content: "a", seq: 1 });
    delete row.parts;
    expect(shown(feed(mergeRow(UNKNOWN, row), delta(2, "b")))).toEqual([{ type: "text", text: "ab" }]);
    expect(shown(feed(mergeRow(UNKNOWN, row), { ...delta(2, ""), part: ended }))).toEqual([{ type: "text", text: "a" }, ended]);
  });

  describe("of finished steps are kept when another worker takes over", () => {
    const kept = { attempt: 2, seq: 1, content: "a", parts: [{ type: "text", text: "a" }, ended] as Part[], updated_at: timeAt(2) };
    const half = (): Entry => feed(mergeRow(UNKNOWN, reply()), delta(1, "a"), { ...delta(2, ""), part: ended }, delta(3, " half"));

    test("with the row first", () => {
      const entry = mergeRow(half(), reply(kept));
      expect(entry.message).toMatchObject({ content: "a", parts: kept.parts });
      expect(mergeDelta(entry, delta(2, " whole", 2)).message).toMatchObject({ content: "a whole", parts: kept.parts });
    });

    test("with a delta first: nothing is taken back before the row is read", () => {
      const early = mergeDelta(half(), delta(2, " whole", 2));
      expect([early.message?.content, needsRead(early)]).toEqual(["a half", true]);
      const entry = mergeRow(early, reply(kept));
      expect([entry.message?.content, needsRead(entry)]).toEqual(["a whole", false]);
      expect(shown(entry)).toEqual([...kept.parts, { type: "text", text: " whole" }]);
    });
  });
});

describe("rows", () => {
  test("behind the deltas update everything but the text", () => {
    const live = feed(mergeRow(UNKNOWN, reply()), delta(1, "a"), delta(2, "b"));
    const entry = mergeRow(live, reply({ seq: 1, content: "a", updated_at: timeAt(3) }));
    expect(entry.message).toMatchObject({ content: "ab", seq: 2, updated_at: timeAt(3) });
  });

  test("that end the reply replace it, even with less text", () => {
    const live = feed(mergeRow(UNKNOWN, reply()), delta(1, "a"), delta(2, "b"));
    const entry = mergeRow(live, reply({ status: "cancelled", seq: 1, content: "a", updated_at: timeAt(3) }));
    expect(entry.message).toMatchObject({ content: "a", status: "cancelled" });
  });

  test("that are read late do not replace newer ones", () => {
    const done = mergeRow(UNKNOWN, reply({ status: "done", seq: 2, content: "ab", updated_at: timeAt(9) }));
    expect(mergeRow(done, reply({ seq: 1, content: "a", updated_at: timeAt(5) }))).toBe(done);
    expect(mergeRow(done, reply({ seq: 1, content: "a", updated_at: timeAt(12) }))).toBe(done);
  });

  test("that are read again unchanged return the same entry", () => {
    const entry = mergeRow(UNKNOWN, reply({ seq: 1, content: "a" }));
    expect(mergeRow(entry, reply({ seq: 1, content: "a" }))).toBe(entry);
  });

  test("of a retry replace an ended reply", () => {
    const failed = mergeRow(UNKNOWN, reply({ status: "failed", updated_at: timeAt(1) }));
    const queued = mergeRow(failed, reply({ status: "queued", updated_at: timeAt(2) }));
    expect(queued.message?.status).toBe("queued");
    const again = mergeRow(queued, reply({ attempt: 2, updated_at: timeAt(3) }));
    expect(mergeDelta(again, delta(1, "a", 2)).message).toMatchObject({ content: "a", status: "running" });
  });

  test("announced with fields left out must be read", () => {
    const live = feed(mergeRow(UNKNOWN, reply()), delta(1, "a"));
    const hinted = mergeHint(live, { attempt: 1, updated_at: timeAt(4) });
    expect(needsRead(hinted)).toBe(true);
    expect(hinted.message).toBe(live.message);
    const early = mergeRow(hinted, reply({ seq: 1, content: "a", updated_at: timeAt(2) }));
    expect(needsRead(early)).toBe(true);
    const read = mergeRow(early, reply({ status: "done", seq: 2, content: "ab", updated_at: timeAt(4) }));
    expect(needsRead(read)).toBe(false);
    expect(mergeHint(read, { attempt: 1, updated_at: timeAt(4) })).toBe(read);
  });

  test("announced late do not lower the version that must be read", () => {
    const newest = mergeHint(mergeRow(UNKNOWN, reply()), { attempt: 1, updated_at: timeAt(4) });
    const late = mergeHint(newest, { attempt: 1, updated_at: timeAt(2) });
    expect(needsRead(mergeRow(late, reply({ updated_at: timeAt(3) })))).toBe(true);
  });
});

describe("files", () => {
  test("the higher revision wins, then the later change", () => {
    const known = mergeFile(undefined, file({ revision: 2, content: "2" }));
    expect(mergeFile(known, file({ revision: 1, content: "1" }))).toBe(known);
    expect(mergeFile(known, file({ revision: 3, content: "3" })).content).toBe("3");
    expect(mergeFile(known, file({ revision: 2, path: "b.py", updated_at: timeAt(1) })).path).toBe("b.py");
  });

  test("a conflict is shown until the file changes", () => {
    const known = mergeFile(undefined, file({ revision: 2 }));
    const conflict = mergeFile(known, file({ revision: 2 }), true);
    expect(conflict.conflict).toBe(true);
    expect(mergeFile(conflict, file({ revision: 2 }))).toBe(conflict);
    expect(mergeFile(conflict, file({ revision: 3 })).conflict).toBe(false);
  });
});

test("timestamps are compared to the microsecond in every format", () => {
  const steps = fc.nat(3_000_000);
  fc.assert(fc.property(steps, steps, (a, b) => Math.sign(compareTimes(timeAt(a), timeAt(b))) === Math.sign(a - b)));
});

describe("with random histories and deliveries", () => {
  const life = fc.array(step, { maxLength: 60 }).map((steps) => new ReplyLife(steps));
  // indices into the events: absent ones are lost, repeated ones are duplicated, the order is random
  const delivery = fc.array(fc.nat(), { maxLength: 120 });
  // the usual case: nearly in order, with a few lost
  const mostly = fc.tuple(fc.array(fc.nat(), { maxLength: 6 }), fc.array(fc.nat(), { maxLength: 6 }));

  function deliver(entry: Entry, event: Event): Entry {
    if ("delta" in event) return mergeDelta(entry, event.delta);
    return "hint" in event ? mergeHint(entry, event.hint) : mergeRow(entry, event.row);
  }

  function run({ events, states, kept, row }: ReplyLife, order: readonly number[]): void {
    let entry = UNKNOWN;
    const rows = new Map(events.flatMap((event) => ("row" in event ? [[event.row.updated_at, event.row]] : [])));
    const check = (next: Entry): void => {
      const before = entry.message;
      const after = next.message;
      if (after !== null) {
        const { content, data, attempt, seq } = after;
        expect(states.get(`${attempt}:${seq}`)).toContainEqual({ content, data, parts: partsOf(after) });
        if (!hasEnded(after)) expect(after.content.startsWith(kept.get(attempt)?.content ?? "")).toBe(true);
        if (hasEnded(after)) expect(after).toEqual(rows.get(after.updated_at));
        if (before !== null) {
          expect(after.attempt).toBeGreaterThanOrEqual(before.attempt);
          if (after.attempt === before.attempt) {
            // the last row may have less text than the deltas
            if (!hasEnded(after)) expect(after.seq).toBeGreaterThanOrEqual(before.seq);
            expect(hasEnded(before) && after.status === "running").toBe(false);
          }
        }
      }
      entry = next;
    };
    for (const index of order) check(deliver(entry, events[index % events.length]!));
    check(mergeRow(entry, row));
    expect(entry.message).toEqual(row);
    expect(needsRead(entry)).toBe(false);
    const final = entry;
    for (const index of order) check(deliver(entry, events[index % events.length]!));
    expect(entry).toBe(final);
  }

  test("the entry ends with the row and never takes text back within an attempt", () => {
    fc.assert(fc.property(life, delivery, run), { numRuns: 3_000 });
  });

  test("the same holds when events are nearly in order", () => {
    const property = fc.property(life, mostly, (history, [lost, doubled]) => {
      const order = history.events.map((_, index) => index);
      for (const at of lost) order.splice(at % (order.length + 1), 1);
      for (const at of doubled) order.splice(at % (order.length + 1), 0, at);
      run(history, order);
    });
    fc.assert(property, { numRuns: 3_000 });
  });

  test("events in order need no reads", () => {
    const property = fc.property(fc.array(fc.string({ minLength: 1 }), { maxLength: 40 }), (texts) => {
      const { events } = new ReplyLife(texts.map((piece) => ({ do: "delta", text: piece })));
      let entry = UNKNOWN;
      let written = "";
      for (const event of events) {
        entry = deliver(entry, event);
        if ("delta" in event) expect(entry.message?.content).toBe((written += event.delta.text));
        expect(needsRead(entry)).toBe(false);
      }
    });
    fc.assert(property);
  });
});
