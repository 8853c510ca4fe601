import { useMemo, useState } from "react";
import type { Json } from "supabase-baml-bridge-client";
import { DataTable } from "./DataTable.tsx";
import { beginningOf, isEmpty, isFlat, isObject, isTable, nameOf, orderOf, type JsonObject } from "./data.ts";
import { Plain } from "./Text.tsx";

/** Fields that the page shows elsewhere: as the reply's text, and beside the conversation. */
const SHOWN_ELSEWHERE = ["reply", "files"];

/** Whether the reply's text breaks off: at the model's output limit, or because it was too long to be stored. */
export function isTruncated(data: Json | null): boolean {
  return isObject(data) && data["truncated"] === true;
}

/** The part of a structured result to show with the message, or null. */
export function restOf(data: Json | null): Json | null {
  if (!isObject(data)) return data;
  const rest = Object.entries(data).filter(
    ([key, value]) => !SHOWN_ELSEWHERE.includes(key) && !isEmpty(value) && !(key === "truncated" && value === true),
  );
  return rest.length > 0 ? Object.fromEntries(rest) : null;
}

/**
 * A structured result, also while it streams: lists of similar objects as tables, objects as names and values. Of a large
 * one only the beginning is shown like this, and all of it as text.
 */
export function DataView({ data, streaming }: { data: Json; streaming: boolean }) {
  const { value, whole } = useMemo(() => beginningOf(data), [data]);
  const [all, showAll] = useState(false);
  return (
    <div className="data" data-testid="data">
      <Value value={value} name="Result" streaming={streaming} />
      {!whole && (
        <p className="tools">
          <span className="muted">This is only the beginning of a large result.</span>
          <button className="quiet small" aria-expanded={all} onClick={() => showAll(!all)}>
            {all ? "Hide the text" : "Show all as text"}
          </button>
        </p>
      )}
      {all && !whole && <Plain text={textOf(data)} />}
    </div>
  );
}

function textOf(data: Json): string {
  try {
    return JSON.stringify(data);
  } catch {
    return "The result is nested too deeply to show."; // the engine's stack has an end
  }
}

interface ValueProps<T = Json | undefined> {
  value: T;
  /** The caption, if the value is a table. */
  name: string;
  /** Whether the value may still change. */
  streaming: boolean;
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 20 });

function Value({ value, name, streaming }: ValueProps) {
  if (isEmpty(value)) return <span className="muted">{streaming ? "…" : "–"}</span>;
  if (isTable(value)) return <Table value={value} name={name} streaming={streaming} />;
  if (Array.isArray(value)) return <List value={value} name={name} streaming={streaming} />;
  if (isObject(value)) return <Fields fields={value} streaming={streaming} />;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? NUMBER.format(value) : value;
}

function Table({ value, name, streaming }: ValueProps<JsonObject[]>) {
  return (
    <DataTable
      rows={value}
      caption={name}
      streaming={streaming}
      cell={(cell, column, pending) => <Value value={cell} name={column} streaming={pending} />}
    />
  );
}

function List({ value, name, streaming }: ValueProps<readonly Json[]>) {
  return (
    <ul>
      {value.map((item, index) => (
        <li key={index}>
          <Value value={item} name={name} streaming={streaming && index === value.length - 1} />
        </li>
      ))}
    </ul>
  );
}

/** Names and values. A table is shown between them, with its name as the caption. */
function Fields({ fields, streaming }: { fields: JsonObject; streaming: boolean }) {
  return groupsOf(fields).map((group, index) => {
    const [key, value] = group[0]!;
    if (isTable(value)) return <Table key={index} value={value} name={nameOf(key)} streaming={streaming} />;
    return (
      <dl key={index}>
        {group.map(([name, one]) => (
          <div key={name} className={isFlat(one) ? "flat" : undefined}>
            <dt>{nameOf(name)}</dt>
            <dd>
              <Value value={one} name={nameOf(name)} streaming={streaming} />
            </dd>
          </div>
        ))}
      </dl>
    );
  });
}

type Entry = [string, Json | undefined];

/** Groups the fields: each table by itself, and the fields between two tables together. */
function groupsOf(fields: JsonObject): Entry[][] {
  const groups: Entry[][] = [];
  let open: Entry[] | null = null;
  for (const key of orderOf(Object.keys(fields))) {
    const entry: Entry = [key, fields[key]];
    if (open === null || isTable(entry[1])) groups.push((open = []));
    open.push(entry);
    if (isTable(entry[1])) open = null;
  }
  return groups;
}
