import { useContext, useMemo, useState } from "react";
import type { Json } from "supabase-baml-bridge-client";
import { DataTable } from "./DataTable.tsx";
import { beginningOf } from "./beginning.ts";
import { ResultShape } from "./catalogue.ts";
import { isEmpty, isFlat, isObject, isTable, nameOf, type JsonObject } from "./data.ts";
import { fieldOf, inOrder, itemOf, type Shape } from "./shape.ts";
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
  const shape = useContext(ResultShape);
  const { value, whole } = useMemo(() => beginningOf(data, shape), [data, shape]);
  const [all, showAll] = useState(false);
  return (
    <div className="data" data-testid="data">
      <Value value={value} shape={shape} name="Result" streaming={streaming} />
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
  shape: Shape;
  /** The caption, if the value is a table. */
  name: string;
  /** Whether the value may still change. */
  streaming: boolean;
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 20 });

function Value({ value, ...rest }: ValueProps) {
  if (isEmpty(value)) return <span className="muted">{rest.streaming ? "…" : "–"}</span>;
  if (isTable(value)) return <Table value={value} {...rest} />;
  if (Array.isArray(value)) return <List value={value} {...rest} />;
  if (isObject(value)) return <Fields value={value} {...rest} />;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? NUMBER.format(value) : value;
}

function Table({ value, shape, name, streaming }: ValueProps<JsonObject[]>) {
  const row = itemOf(shape);
  return (
    <DataTable
      rows={value}
      shape={row}
      caption={name}
      streaming={streaming}
      cell={(cell, column, pending) => (
        <Value value={cell} shape={fieldOf(row, column)} name={nameOf(column)} streaming={pending} />
      )}
    />
  );
}

function List({ value, shape, name, streaming }: ValueProps<readonly Json[]>) {
  const item = itemOf(shape);
  return (
    <ul>
      {value.map((one, index) => (
        <li key={index}>
          <Value value={one} shape={item} name={name} streaming={streaming && index === value.length - 1} />
        </li>
      ))}
    </ul>
  );
}

/** Names and values. A table is shown between them, with its name as the caption. */
function Fields({ value, shape, streaming }: ValueProps<JsonObject>) {
  return groupsOf(value, inOrder(shape, Object.keys(value))).map((group, index) => {
    const [key, first] = group[0]!;
    if (isTable(first)) {
      return <Table key={index} value={first} shape={fieldOf(shape, key)} name={nameOf(key)} streaming={streaming} />;
    }
    return (
      <dl key={index}>
        {group.map(([name, one]) => (
          <div key={name} className={isFlat(one) ? "flat" : undefined}>
            <dt>{nameOf(name)}</dt>
            <dd>
              <Value value={one} shape={fieldOf(shape, name)} name={nameOf(name)} streaming={streaming} />
            </dd>
          </div>
        ))}
      </dl>
    );
  });
}

type Entry = [string, Json | undefined];

/** Groups the fields: each table by itself, and the fields between two tables together. */
function groupsOf(fields: JsonObject, order: readonly string[]): Entry[][] {
  const groups: Entry[][] = [];
  let open: Entry[] | null = null;
  for (const key of order) {
    const entry: Entry = [key, fields[key]];
    if (open === null || isTable(entry[1])) groups.push((open = []));
    open.push(entry);
    if (isTable(entry[1])) open = null;
  }
  return groups;
}
