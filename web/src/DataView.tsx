import type { Json } from "supabase-baml-bridge-client";
import { DataTable, isTable } from "./DataTable.tsx";
import { isEmpty, isFlat, isObject, nameOf, orderOf, type JsonObject } from "./data.ts";

/** Fields of a structured result that the page shows elsewhere: as the reply's text, and beside the conversation. */
const SHOWN_ELSEWHERE = ["reply", "files"];

/** What of a structured result is to be shown with the message, or null. */
export function restOf(data: Json | null): Json | null {
  if (!isObject(data)) return data;
  const rest = Object.entries(data).filter(([key, value]) => !SHOWN_ELSEWHERE.includes(key) && !isEmpty(value));
  return rest.length > 0 ? Object.fromEntries(rest) : null;
}

/** A structured result: lists of alike objects as tables, objects as names and values, also while it streams. */
export function DataView({ data, streaming }: { data: Json; streaming: boolean }) {
  return (
    <div className="data" data-testid="data">
      <Value value={data} name="Result" streaming={streaming} />
    </div>
  );
}

interface ValueProps {
  value: Json | undefined;
  /** What a table is called. */
  name: string;
  /** Whether what is still empty may be filled. */
  streaming: boolean;
}

export function Value({ value, name, streaming }: ValueProps) {
  if (isEmpty(value)) return <span className="muted">{streaming ? "…" : "–"}</span>;
  if (isTable(value)) return <DataTable rows={value} caption={name} streaming={streaming} />;
  if (Array.isArray(value)) return <List items={value} name={name} streaming={streaming} />;
  if (isObject(value)) return <Fields fields={value} streaming={streaming} />;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 20 }) : value;
}

function List({ items, name, streaming }: { items: readonly Json[]; name: string; streaming: boolean }) {
  return (
    <ul>
      {items.map((item, index) => (
        <li key={index}>
          <Value value={item} name={name} streaming={streaming && index === items.length - 1} />
        </li>
      ))}
    </ul>
  );
}

/** Names and values. A table has its name as its caption, so it stands between them. */
function Fields({ fields, streaming }: { fields: JsonObject; streaming: boolean }) {
  return runsOf(fields).map((run, index) => {
    const [key, value] = run[0]!;
    if (isTable(value)) return <DataTable key={index} rows={value} caption={nameOf(key)} streaming={streaming} />;
    return (
      <dl key={index}>
        {run.map(([name, one]) => (
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

/** The fields in runs: each table alone, what stands between two tables together. */
function runsOf(fields: JsonObject): Entry[][] {
  const runs: Entry[][] = [];
  let open: Entry[] | null = null;
  for (const key of orderOf(Object.keys(fields))) {
    const entry: Entry = [key, fields[key]];
    if (open === null || isTable(entry[1])) runs.push((open = []));
    open.push(entry);
    if (isTable(entry[1])) open = null;
  }
  return runs;
}
