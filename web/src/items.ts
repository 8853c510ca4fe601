/** What a reply shows, in order, made of its parts: whatever a part holds, and however many there are. */

import type { Json, Part } from "supabase-baml-bridge-client";
import { isObject, orderOf, type JsonObject } from "./data.ts";

/** `key` is the same for as long as the item is there: also after a reload, and when another worker goes on. */
export type Item = TextItem | ReasoningItem | CallItem | AskItem | FileItem;

export interface TextItem {
  readonly kind: "text";
  readonly key: string;
  readonly text: string;
}

export interface ReasoningItem {
  readonly kind: "reasoning";
  readonly key: string;
  readonly text: string;
}

/** A tool's call. */
export interface CallItem {
  readonly kind: "call";
  readonly key: string;
  readonly name: string;
  /** `stopped`: the reply ended before the call did. */
  readonly state: "running" | "done" | "failed" | "stopped";
  readonly input: Json;
  readonly output: Json;
  /** Why it failed. */
  readonly error: string | null;
}

/** A question to the user. */
export interface AskItem {
  readonly kind: "ask";
  readonly key: string;
  /** What an answer is for. */
  readonly name: string;
  readonly title: string;
  /** What else was asked; null: nothing. */
  readonly details: Json;
  /** The answers to choose from. None: to approve or to reject. */
  readonly choices: readonly string[];
  /** `answered`: with something else than yes or no. `ended`: not answered. */
  readonly state: "open" | "approved" | "rejected" | "answered" | "ended";
  /** What was chosen, once the reply has gone on with it. */
  readonly choice: string | null;
  /** Why it was not answered. */
  readonly error: string | null;
}

export interface FileItem {
  readonly kind: "file";
  readonly key: string;
  readonly name: string;
  readonly mediaType: string;
  readonly url: string;
}

/** An address that a reply relies on. */
export interface Source {
  readonly url: string;
  readonly title: string;
}

/** What the database writes when a reply ends before its tools do. */
const STOPPED = "Stopped.";
const MAX_CHOICES = 100;
const MAX_HINT = 200;

/** Items by their parts, so that one of a part that has not changed is the same object. */
const made = new WeakMap<object, CallItem | AskItem | FileItem>();

/** The items of a reply. Parts of an unknown type show nothing, and what they stand between is joined. */
export function itemsOf(parts: readonly Part[]): Item[] {
  const items: Item[] = [];
  const keys = new Set<string>();
  const counts = { text: 0, reasoning: 0 };

  function grow(kind: "text" | "reasoning", text: string, between: string): void {
    if (text === "") return;
    const last = items.at(-1);
    if (last?.kind === kind) items[items.length - 1] = { ...last, text: last.text + between + text };
    else items.push({ kind, key: `${kind}-${counts[kind]++}`, text });
  }

  function add(item: CallItem | AskItem | FileItem): void {
    const isTaken = keys.has(item.key);
    const own = isTaken ? { ...item, key: `${item.key} ${items.length}` } : item;
    keys.add(own.key);
    items.push(own);
  }

  for (const part of parts as readonly Json[]) {
    if (!isObject(part)) continue;
    if (part["type"] === "text") grow("text", textOf(part["text"]), "");
    else if (part["type"] === "reasoning") grow("reasoning", textOf(part["text"]), "\n\n");
    else {
      const item = made.get(part) ?? itemOf(part);
      if (item === null) continue;
      made.set(part, item);
      add(item);
    }
  }
  return items;
}

/** Items that are shown together. */
export type Group =
  | TextItem
  | ReasoningItem
  | AskItem
  | { readonly kind: "calls"; readonly key: string; readonly calls: readonly CallItem[] }
  | { readonly kind: "files"; readonly key: string; readonly files: readonly FileItem[] };

/** Makes one list of tools that were called one after another, and of files. */
export function groupsOf(items: readonly Item[]): Group[] {
  const groups: Group[] = [];
  for (const item of items) {
    const last = groups.at(-1);
    const key = `from-${item.key}`;
    if (item.kind === "call") {
      if (last?.kind === "calls") groups[groups.length - 1] = { ...last, calls: [...last.calls, item] };
      else groups.push({ kind: "calls", key, calls: [item] });
    } else if (item.kind === "file") {
      if (last?.kind === "files") groups[groups.length - 1] = { ...last, files: [...last.files, item] };
      else groups.push({ kind: "files", key, files: [item] });
    } else groups.push(item);
  }
  return groups;
}

/** The sources of a reply, each address once. */
export function sourcesOf(parts: readonly Part[]): Source[] {
  const sources = new Map<string, Source>();
  for (const part of parts as readonly Json[]) {
    if (!isObject(part) || part["type"] !== "source-url") continue;
    const url = textOf(part["url"]);
    if (!sources.has(url)) sources.set(url, { url, title: textOf(part["title"]) });
  }
  return [...sources.values()];
}

/** One line that tells a call from others of the same tool: the first of its arguments. */
export function hintOf(input: Json): string {
  const values = isObject(input) ? orderOf(Object.keys(input)).map((name) => input[name]) : [input];
  const first = values.find((value) => (typeof value === "string" && value !== "") || typeof value === "number");
  const line = String(first ?? "").slice(0, MAX_HINT).replace(/\s+/g, " ").trim();
  return line.replace(/^https?:\/\/(?=.)/, "");
}

/** What a question to the user asks. */
export function titleOf(input: Json | undefined): string {
  return (isObject(input) ? textOf(input["title"]) : textOf(input)) || "May I go on?";
}

function itemOf(part: JsonObject): CallItem | AskItem | FileItem | null {
  if (part["type"] === "file") return fileOf(part);
  if (part["type"] !== "dynamic-tool") return null;
  const isAsk = part["toolName"] === "ask" || isObject(part["approval"]);
  return isAsk ? askOf(part) : callOf(part);
}

function fileOf(part: JsonObject): FileItem {
  const url = textOf(part["url"]);
  return {
    kind: "file",
    key: `file-${textOf(part["id"]) || url}`,
    name: textOf(part["filename"]) || "File",
    mediaType: textOf(part["mediaType"]),
    url,
  };
}

function callOf(part: JsonObject): CallItem {
  return {
    kind: "call",
    key: keyOf(part),
    name: textOf(part["toolName"]) || "tool",
    state: stateOf(part),
    input: part["input"] ?? null,
    output: part["output"] ?? null,
    error: errorOf(part),
  };
}

function stateOf({ state, errorText }: JsonObject): CallItem["state"] {
  if (state === "output-available") return "done";
  if (state !== "output-error") return "running";
  return errorText === STOPPED ? "stopped" : "failed";
}

function errorOf({ state, errorText }: JsonObject): string | null {
  return state === "output-error" && errorText !== STOPPED ? textOf(errorText) : null;
}

function askOf(part: JsonObject): AskItem {
  const approval = isObject(part["approval"]) ? part["approval"] : {};
  const { title: _, choices, ...details } = isObject(part["input"]) ? part["input"] : {};
  const output = isObject(part["output"]) ? part["output"] : {};
  const all = Array.isArray(choices) ? choices.filter((one) => typeof one === "string" && one !== "") : [];
  const common = {
    kind: "ask",
    key: keyOf(part),
    name: textOf(part["toolCallId"]),
    title: titleOf(part["input"]),
    details: Object.keys(details).length > 0 ? (details as Json) : null,
    choices: [...new Set(all as string[])].slice(0, MAX_CHOICES),
    choice: textOf(output["choice"]) || null,
    error: errorOf(part),
  } as const;
  switch (part["state"]) {
    case "approval-requested":
      return { ...common, state: "open" };
    case "approval-responded":
      return { ...common, state: answered(approval["approved"], all.length > 0) };
    case "output-available":
      return { ...common, state: answered(output["approved"], common.choice !== null) };
    default:
      return { ...common, state: "ended" };
  }
}

/** The answer to a question with choices is one of them, whatever else it says. */
function answered(approved: Json | undefined, isChoice: boolean): AskItem["state"] {
  if (isChoice || typeof approved !== "boolean") return "answered";
  return approved ? "approved" : "rejected";
}

function keyOf(part: JsonObject): string {
  return `tool-${textOf(part["toolCallId"])}`;
}

function textOf(value: Json | undefined): string {
  return typeof value === "string" ? value : "";
}
