import { expect, test } from "vitest";
import { Subscribable } from "../src/subscribable.ts";
import { withTimeout } from "../src/timeout.ts";

class Counter extends Subscribable<number> {
  #value = 0;

  set(value: number): void {
    this.#value = value;
    this.changed();
  }

  protected override render(): number {
    return this.#value;
  }
}

test("waitFor resolves to the first matching snapshot, including the current one", async () => {
  const counter = new Counter();
  expect(await counter.waitFor((value) => value === 0)).toBe(0);
  const reached = counter.waitFor((value) => value > 1);
  for (const value of [1, 2, 3]) counter.set(value);
  expect(await reached).toBe(2);
});

test("waitFor rejects with what its predicate throws", async () => {
  const counter = new Counter();
  const reached = counter.waitFor((value) => {
    if (value > 0) throw new Error("too high");
    return false;
  });
  counter.set(1);
  await expect(reached).rejects.toThrow("too high");
});

test("waitFor rejects when any of its signals is aborted", async () => {
  const counter = new Counter();
  const controller = new AbortController();
  const waiting = counter.waitFor(() => false, undefined, controller.signal);
  controller.abort(new Error("closed"));
  await expect(waiting).rejects.toThrow("closed");
  await expect(counter.waitFor(() => true, controller.signal)).rejects.toThrow("closed");
  await expect(withTimeout(5, (signal) => counter.waitFor(() => false, signal))).rejects.toThrow("aborted");
});
