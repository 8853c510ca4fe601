/** What the page makes of a reply's parts. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { optionsOf, outcomeOf, refusalOf } from "../../web/src/asks.ts";
import { groupsOf, hintOf, itemsOf, sourcesOf, type AskItem, type Item } from "../../web/src/items.ts";
import { webUrl } from "../../web/src/links.ts";
import type { Json, Part } from "../src/index.ts";

const part = (of: object): Part => of as Part;
const text = (of: string): Part => ({ type: "text", text: of });
const step: Part = { type: "step-start" };
const called = { type: "dynamic-tool", toolName: "fetch", input: { url: "https://a.example" } };
const tool = (id: string, rest: object): Part => part({ ...called, toolCallId: id, ...rest });
const question = {
  type: "dynamic-tool",
  toolName: "ask",
  toolCallId: "send",
  state: "approval-requested",
  input: { title: "Send it?" },
  approval: { id: "send" },
};
const asked = (rest: object): Part => part({ ...question, ...rest });
const ask = (rest: object = {}): AskItem => itemsOf([asked(rest)])[0] as AskItem;

describe("text", () => {
  test("is joined over steps, unknown parts and sources", () => {
    const parts = [text("- one\n"), step, text("- two\n"), { type: "data-x", data: 1 }, { type: "new" }, text("end")];
    expect(itemsOf(parts as Part[])).toEqual([{ kind: "text", key: "text-0", text: "- one\n- two\nend" }]);
  });

  test("is apart where a tool was called", () => {
    const items = itemsOf([text("a"), tool("x", { state: "output-available", output: 1 }), text("b")]);
    expect(items.map(({ key }) => key)).toEqual(["text-0", "tool-x", "text-1"]);
  });
});

describe("tools", () => {
  test.each([
    [{ state: "input-available" }, "running", null],
    [{ state: "input-streaming" }, "running", null],
    [{ state: "output-available", output: { n: 1 } }, "done", null],
    [{ state: "output-error", errorText: "No such page." }, "failed", "No such page."],
    [{ state: "output-error", errorText: "Stopped." }, "stopped", null],
  ])("%o is %s", (rest, state, error) => {
    expect(itemsOf([tool("x", rest)])).toMatchObject([{ kind: "call", name: "fetch", state, error }]);
  });

  test("that were called one after another are one list, also over steps", () => {
    const done = { state: "output-available", output: 1 };
    const items = itemsOf([tool("x", done), step, tool("x#2", done), text("a"), tool("x#3", done)]);
    expect(groupsOf(items).map((group) => (group.kind === "calls" ? group.calls.length : group.kind))).toEqual([2, "text", 1]);
  });

  test("that have not changed are the same objects, so that they are not rendered again", () => {
    const [first, second] = [tool("x", { state: "output-available" }), tool("y", { state: "input-available" })];
    const before = itemsOf([first, second]);
    const after = itemsOf([first, tool("y", { state: "output-available" })]);
    expect(after[0]).toBe(before[0]);
    expect(after[1]).not.toBe(before[1]);
  });

  test.each<[Json, string]>([
    [{ url: "https://a.example/b" }, "a.example/b"],
    [{ n: 3, query: "two\n lines" }, "3"],
    [{ list: [1], on: true }, ""],
    [{}, ""],
    [null, ""],
    ["text", "text"],
    ["https://", "https://"],
  ])("are told apart by %j", (input, hint) => {
    expect(hintOf(input)).toBe(hint);
  });
});

describe("questions to the user", () => {
  test("have a title, what else was asked, and choices", () => {
    expect(ask({ input: { title: "Send?", to: "Ann", choices: ["yes", "no", "yes", "", 3] } })).toMatchObject({
      kind: "ask",
      name: "send",
      title: "Send?",
      details: { to: "Ann" },
      choices: ["yes", "no"],
      state: "open",
    });
    expect(ask()).toMatchObject({ details: null, choices: [] });
    expect(ask({ input: { choices: "x" } })).toMatchObject({ title: "May I go on?", choices: [] });
    expect(ask({ input: "Really?" })).toMatchObject({ title: "Really?" });
  });

  test("are answered by approval or rejection, or by one of the choices", () => {
    expect(optionsOf(ask()).map(({ answer }) => answer)).toEqual([{ approved: true }, { approved: false }]);
    expect(optionsOf(ask({ input: { choices: ["no"] } }))).toEqual([{ label: "no", answer: { approved: true, choice: "no" } }]);
  });

  const responded = (approved: boolean) => ({ state: "approval-responded", approval: { id: "send", approved } });
  const gave = (output: object) => ({ state: "output-available", approval: { id: "send", approved: true }, output });
  const choices = { input: { title: "Which?", choices: ["a", "b"] } };
  test.each([
    ["open", {}, null, null],
    ["answered here", {}, { approved: true }, "You approved"],
    ["rejected here", {}, { approved: false }, "You rejected"],
    ["chosen here", choices, { approved: true, choice: "b" }, "You chose “b”"],
    ["approved elsewhere", responded(true), null, "You approved"],
    ["rejected elsewhere", responded(false), null, "You rejected"],
    ["approved here, though the row was rejected", responded(false), { approved: true }, "You rejected"],
    ["chosen elsewhere", { ...choices, ...responded(true) }, null, "You answered"],
    ["chosen here, and the row tells", { ...choices, ...responded(true) }, { approved: true, choice: "b" }, "You chose “b”"],
    ["gone on: approved", gave({ approved: true }), null, "You approved"],
    ["gone on: rejected", gave({ approved: false }), null, "You rejected"],
    ["gone on: chosen", { ...choices, ...gave({ approved: true, choice: "a" }) }, null, "You chose “a”"],
    ["gone on: something else", gave({ amount: 3 }), null, "You answered"],
    ["too late", { state: "output-error", errorText: "No answer in time.", approval: undefined }, null, "No answer in time."],
    ["stopped", { state: "output-error", errorText: "Stopped." }, null, "Not answered"],
  ])("%s", (_, rest, given, outcome) => {
    expect(outcomeOf(ask(rest), given)).toBe(outcome);
  });

  test("say why an answer was not taken", () => {
    expect(refusalOf("taken")).toBeNull();
    const refusals = ["answered", "late", "cancelled", "done"].map(refusalOf);
    expect(new Set(refusals).size).toBe(4);
    expect(refusals).not.toContain(null);
  });
});

test("each source is there once", () => {
  const source = (url: string, title?: string) => part({ type: "source-url", sourceId: url, url, title });
  expect(sourcesOf([source("https://a", "A"), text("x"), source("https://b"), source("https://a", "again")])).toEqual([
    { url: "https://a", title: "A" },
    { url: "https://b", title: "" },
  ]);
});

test.each(["javascript:alert(1)", " JaVaScRiPt:alert(1)", "data:text/html,x", "file:///etc/passwd", "//a", "a", "", "blob:x"])(
  "%j is no link",
  (url) => expect(webUrl(url)).toBeNull(),
);

test("addresses of the web are links", () => {
  expect(webUrl("https://a.example/b?c")?.host).toBe("a.example");
  expect(webUrl("http://a.example")).not.toBeNull();
});

const known = fc.oneof(
  fc.record({ type: fc.constant("text"), text: fc.string() }),
  fc.record({ type: fc.constant("reasoning"), text: fc.string() }),
  fc.record({ type: fc.constant("step-start") }),
  fc.record({
    type: fc.constant("dynamic-tool"),
    toolName: fc.constantFrom("fetch", "ask"),
    toolCallId: fc.constantFrom("a", "b", "c"),
    state: fc.constantFrom("input-available", "approval-requested", "approval-responded", "output-available", "output-error"),
    input: fc.jsonValue(),
    output: fc.jsonValue(),
    errorText: fc.string(),
    approval: fc.oneof(fc.constant(undefined), fc.jsonValue()),
  }),
  fc.record({ type: fc.constant("file"), url: fc.webUrl(), mediaType: fc.string() }),
  fc.record({ type: fc.constant("source-url"), url: fc.webUrl() }),
);
/** What a worker writes, and what it never would. */
const parts = fc.array(fc.oneof({ weight: 5, arbitrary: known }, fc.jsonValue(), fc.dictionary(fc.constantFrom("type", "text", "state", "toolCallId", "input"), fc.jsonValue())));

test("whatever the parts are, items have keys of their own and all of the text", () => {
  fc.assert(
    fc.property(parts, (any) => {
      const items = itemsOf(any as Part[]);
      expect(new Set(items.map(({ key }) => key)).size).toBe(items.length);
      const texts = (any as Json[]).map((part) => {
        const { type, text: own } = (part ?? {}) as { type?: Json; text?: Json };
        return type === "text" && typeof own === "string" ? own : "";
      });
      expect(items.map((item) => (item.kind === "text" ? item.text : "")).join("")).toBe(texts.join(""));
      for (const item of items) if (item.kind === "ask") expect(optionsOf(item).length).toBeGreaterThan(0);
      sourcesOf(any as Part[]);
    }),
  );
});

test("an item keeps its key while parts are added after it", () => {
  fc.assert(
    fc.property(parts, fc.nat(), (any, cut) => {
      const keysOf = (some: unknown[]): string[] => itemsOf(some as Part[]).map((item: Item) => `${item.kind} ${item.key}`);
      const before = keysOf(any.slice(0, cut % (any.length + 1)));
      expect(keysOf(any).slice(0, before.length)).toEqual(before);
    }),
  );
});
