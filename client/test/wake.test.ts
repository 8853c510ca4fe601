import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { watchForSleep } from "../src/wake.ts";

const page = new EventTarget() as EventTarget & { visibilityState: string };
const wakeable = { onWake: vi.fn(), onOffline: vi.fn() };
let stop: () => void;

beforeEach(() => {
  vi.useFakeTimers();
  page.visibilityState = "visible";
  const network = new EventTarget();
  vi.stubGlobal("document", page);
  vi.stubGlobal("addEventListener", network.addEventListener.bind(network));
  vi.stubGlobal("removeEventListener", network.removeEventListener.bind(network));
  vi.stubGlobal("dispatchEvent", network.dispatchEvent.bind(network));
  stop = watchForSleep(wakeable);
});

afterEach(() => {
  stop();
  vi.clearAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

const sleep = (ms: number) => vi.setSystemTime(Date.now() + ms);

test("a page at work is not woken", async () => {
  await vi.advanceTimersByTimeAsync(600_000);
  expect(wakeable.onWake).not.toHaveBeenCalled();
});

test("a machine that slept is noticed by the next tick", async () => {
  sleep(60_000);
  await vi.advanceTimersByTimeAsync(5_000);
  expect(wakeable.onWake).toHaveBeenCalledOnce();
});

test("a hidden page is woken when it is looked at again", async () => {
  page.visibilityState = "hidden";
  await vi.advanceTimersByTimeAsync(120_000);
  expect(wakeable.onWake).not.toHaveBeenCalled();
  page.visibilityState = "visible";
  page.dispatchEvent(new Event("visibilitychange"));
  expect(wakeable.onWake).toHaveBeenCalledOnce();
});

test("the network's going and coming are told, until nobody listens", () => {
  dispatchEvent(new Event("offline"));
  expect(wakeable.onOffline).toHaveBeenCalledOnce();
  dispatchEvent(new Event("online"));
  expect(wakeable.onWake).toHaveBeenCalledOnce();
  stop();
  dispatchEvent(new Event("online"));
  expect(wakeable.onWake).toHaveBeenCalledOnce();
});
