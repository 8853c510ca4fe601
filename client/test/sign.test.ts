/** Signed URLs: few requests, none that has expired, and none of an object that is gone. */

import fc from "fast-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { signAttachments, type AnySupabaseClient } from "../src/index.ts";
import { keepSigned } from "../src/sign.ts";
import { Objects } from "./objects.ts";

const A = "a/a.png";
const B = "b/b.png";
const HOUR = 3_600_000;

let objects: Objects;
let client: AnySupabaseClient;

beforeEach(() => {
  vi.useFakeTimers();
  objects = new Objects();
  client = objects.client();
  for (const path of [A, B]) objects.stored.set(path, { type: "image/png", bytes: new Uint8Array(1) });
});

afterEach(() => vi.useRealTimers());

test("the calls of one tick are one request", async () => {
  const [first, second, both] = await Promise.all([
    signAttachments(client, [A]),
    signAttachments(client, [B]),
    signAttachments(client, [A, "gone.png", B]),
  ]);
  expect(objects.requests).toEqual(["POST sign/attachments"]);
  expect([...first.keys(), ...second.keys()]).toEqual([A, B]);
  expect(both).toEqual(new Map([...first, ...second]));
  expect(first.get(A)).toBe(`http://localhost/storage/v1/object/sign/attachments/${A}?token=1-3600`);
});

test("nothing is asked for nothing, and long lists in parts", async () => {
  expect(await signAttachments(client, [])).toEqual(new Map());
  expect(objects.requests).toEqual([]);
  const paths = Array.from({ length: 250 }, (_, at) => `${at}.png`);
  for (const path of paths) objects.stored.set(path, { type: "", bytes: new Uint8Array() });
  expect([...(await signAttachments(client, paths)).keys()]).toEqual(paths);
  expect(objects.requests).toHaveLength(3);
});

test("a URL is asked for once until shortly before it expires, for each duration", async () => {
  const first = await signAttachments(client, [A]);
  await vi.advanceTimersByTimeAsync(0.89 * HOUR);
  expect(await signAttachments(client, [A])).toEqual(first);
  expect(objects.requests).toHaveLength(1);
  expect((await signAttachments(client, [A], 60)).get(A)).toContain("-60");
  await vi.advanceTimersByTimeAsync(0.02 * HOUR);
  expect((await signAttachments(client, [A])).get(A)).not.toBe(first.get(A));
  expect(objects.requests).toHaveLength(3);
});

test("an object that comes later is found, and a failure is not kept", async () => {
  objects.stored.delete(A);
  expect(await signAttachments(client, [A])).toEqual(new Map());
  objects.stored.set(A, { type: "", bytes: new Uint8Array() });
  objects.fates = ["lost"];
  await expect(signAttachments(client, [A])).rejects.toMatchObject({ name: "RequestError", isRetryable: true });
  expect((await signAttachments(client, [A])).size).toBe(1);
});

const event = fc.record({
  paths: fc.subarray(["0", "1", "2", "gone"]),
  seconds: fc.constantFrom(60, 3_600),
  wait: fc.integer({ min: 0, max: 4_000 }),
  fate: fc.constantFrom("ok", "ok", "lost", "unanswered", "502"),
});

test("whatever is asked when, a URL is of its path and not near its end, and nothing is asked twice", async () => {
  const play = async (events: (typeof event extends fc.Arbitrary<infer T> ? T : never)[]): Promise<void> => {
    const objects = new Objects();
    const client = objects.client();
    for (const path of ["0", "1", "2"]) objects.stored.set(path, { type: "", bytes: new Uint8Array() });
    const signedAt = new Map<string, number>();
    for (const { paths, seconds, wait, fate } of events) {
      objects.fates = [fate];
      const before = objects.requests.length;
      const urls = await signAttachments(client, paths, seconds).catch(() => null);
      const known = paths.filter((path) => Date.now() < (signedAt.get(path + seconds) ?? 0) + seconds * 900);
      const asked = paths.length > known.length;
      expect(objects.requests.length - before).toBe(asked ? 1 : 0);
      expect(urls === null).toBe(asked && fate !== "ok");
      for (const path of paths) {
        if (urls === null) continue;
        expect(urls.has(path)).toBe(path !== "gone");
        if (path === "gone") continue;
        expect(urls.get(path)).toMatch(new RegExp(`/${path}\\?token=\\d+-${seconds}$`));
        if (!known.includes(path)) signedAt.set(path + seconds, Date.now());
      }
      await vi.advanceTimersByTimeAsync(wait * 1_000);
    }
  };
  await fc.assert(fc.asyncProperty(fc.array(event, { maxLength: 12 }), play), { numRuns: 200 });
});

test("a URL that is shown is renewed before it expires", async () => {
  const shown: { url: string | null; at: number }[] = [];
  const end = keepSigned(client, A, (url) => shown.push({ url, at: Date.now() }));
  await vi.advanceTimersByTimeAsync(10 * HOUR);
  expect(new Set(shown.map(({ url }) => url)).size).toBe(shown.length);
  expect(shown.length).toBeGreaterThan(10);
  shown.forEach(({ at }, index) => index && expect(at - shown[index - 1]!.at).toBeLessThan(HOUR));
  expect(objects.requests).toHaveLength(shown.length);
  end();
  await vi.advanceTimersByTimeAsync(2 * HOUR);
  expect(objects.requests).toHaveLength(shown.length);
});

test("it is asked for again after a failure, and not once the object is gone", async () => {
  const show = vi.fn();
  objects.fates = ["lost", "502", "lost"];
  const end = keepSigned(client, A, show);
  await vi.advanceTimersByTimeAsync(6_999);
  expect(show).not.toHaveBeenCalled(); // tried at 0, 1 and 3 s
  await vi.advanceTimersByTimeAsync(1);
  expect(show).toHaveBeenCalledTimes(1);
  objects.fates = ["ok"];
  objects.stored.delete(A);
  await vi.advanceTimersByTimeAsync(10 * HOUR);
  expect(show.mock.lastCall).toEqual([null]);
  expect(objects.requests).toHaveLength(5);
  end();
});

test("nothing is shown after it has ended", async () => {
  const show = vi.fn();
  keepSigned(client, A, show)();
  await vi.advanceTimersByTimeAsync(HOUR);
  expect(show).not.toHaveBeenCalled();
  expect(objects.requests).toHaveLength(1);
});
