import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { focusManager, onlineManager } from "../src/online.ts";

const page = new EventTarget() as EventTarget & { visibilityState: string };
const onOnline = vi.fn();
const onFocus = vi.fn();
let unsubscribe: (() => void)[];

beforeEach(() => {
  vi.useFakeTimers();
  page.visibilityState = "visible";
  const network = new EventTarget();
  vi.stubGlobal("document", page);
  vi.stubGlobal("addEventListener", network.addEventListener.bind(network));
  vi.stubGlobal("removeEventListener", network.removeEventListener.bind(network));
  vi.stubGlobal("dispatchEvent", network.dispatchEvent.bind(network));
  unsubscribe = [onlineManager.subscribe(onOnline), focusManager.subscribe(onFocus)];
});

afterEach(() => {
  for (const stop of unsubscribe) stop();
  vi.clearAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

const sleep = (ms: number) => vi.setSystemTime(Date.now() + ms);

test("a page that keeps running is not reported", async () => {
  await vi.advanceTimersByTimeAsync(600_000);
  expect(onFocus).not.toHaveBeenCalled();
});

test("a sleep is reported by the next tick", async () => {
  sleep(60_000);
  await vi.advanceTimersByTimeAsync(5_000);
  expect(onFocus).toHaveBeenCalledOnce();
});

test("a hidden page is reported when it becomes visible", async () => {
  page.visibilityState = "hidden";
  await vi.advanceTimersByTimeAsync(120_000);
  expect(onFocus).not.toHaveBeenCalled();
  page.visibilityState = "visible";
  page.dispatchEvent(new Event("visibilitychange"));
  expect(onFocus).toHaveBeenCalledOnce();
});

test("network changes are reported until unsubscribed", () => {
  dispatchEvent(new Event("offline"));
  expect(onOnline).toHaveBeenLastCalledWith(false);
  dispatchEvent(new Event("online"));
  expect(onOnline).toHaveBeenLastCalledWith(true);
  for (const stop of unsubscribe) stop();
  dispatchEvent(new Event("online"));
  page.dispatchEvent(new Event("visibilitychange"));
  expect(onOnline).toHaveBeenCalledTimes(2);
  expect(onFocus).not.toHaveBeenCalled();
});

test("an application can pass in its own signals, now and later", () => {
  let report: (value?: boolean) => void = () => undefined;
  const stop = vi.fn();
  for (const manager of [onlineManager, focusManager]) {
    const listener = vi.fn();
    const leave = manager.subscribe(listener);
    manager.setEventListener((given) => {
      report = given;
      return stop;
    });
    report();
    report(false);
    expect(listener.mock.calls).toEqual([[true], [false]]);
    leave();
    expect(stop).not.toHaveBeenCalled(); // the first listener is still there
  }
});

test.each(["document", "addEventListener"])("nothing fails in a runtime without %s", async (name) => {
  for (const leave of unsubscribe) leave();
  vi.stubGlobal(name, undefined);
  vi.resetModules();
  const fresh = await import("../src/online.ts");
  unsubscribe = [fresh.onlineManager.subscribe(onOnline), fresh.focusManager.subscribe(onFocus)];
});
