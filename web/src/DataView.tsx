import type { Json } from "supabase-baml-bridge-client";

type JsonObject = { [key: string]: Json | undefined };

/** Fields of a structured result that the page shows elsewhere: as the reply's text, and beside the conversation. */
const SHOWN_ELSEWHERE = ["reply", "files"];

/** What of a structured result is to be shown with the message, or null. */
export function restOf(data: Json | null): Json | null {
  if (!isObject(data)) return data;
  const rest = Object.entries(data).filter(([key, value]) => !SHOWN_ELSEWHERE.includes(key) && !isEmpty(value));
  return rest.length > 0 ? Object.fromEntries(rest) : null;
}

/** A structured result: lists of alike objects as tables, objects as names and values, also while it streams. */
export function DataView({ data }: { data: Json }) {
  return (
    <div className="data" data-testid="data">
      <Value value={data} />
    </div>
  );
}

function Value({ value }: { value: Json | undefined }) {
  if (isEmpty(value)) return <span className="muted">–</span>;
  if (Array.isArray(value)) {
    return value.every(isObject) ? <Table rows={value} /> : <List items={value} />;
  }
  if (isObject(value)) return <Fields fields={value} />;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? value.toLocaleString("en") : value;
}

function List({ items }: { items: readonly Json[] }) {
  return (
    <ul>
      {items.map((item, index) => (
        <li key={index}>
          <Value value={item} />
        </li>
      ))}
    </ul>
  );
}

function Fields({ fields }: { fields: JsonObject }) {
  return (
    <dl>
      {Object.entries(fields).map(([name, value]) => (
        <div key={name} className={isFlat(value) ? "flat" : undefined}>
          <dt>{nameOf(name)}</dt>
          <dd>
            <Value value={value} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Table({ rows }: { rows: readonly JsonObject[] }) {
  const columns = [...new Set(rows.flatMap(Object.keys))];
  const numeric = new Set(
    columns.filter((column) => rows.every((row) => isEmpty(row[column]) || typeof row[column] === "number")),
  );
  return (
    <div className="table" tabIndex={0} role="group" aria-label="Table">
      <table>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column} scope="col" className={numeric.has(column) ? "number" : undefined}>
                {nameOf(column)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={index}>
              {columns.map((column) => (
                <td key={column} className={numeric.has(column) ? "number" : undefined}>
                  <Value value={row[column]} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** `total_price`, `totalPrice` → `Total price`. */
function nameOf(key: string): string {
  const words = key.replace(/([a-z0-9])([A-Z])/g, "$1 $2").replaceAll("_", " ").trim().toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isEmpty(value: Json | undefined): boolean {
  return value === null || value === undefined || value === "" || (Array.isArray(value) && value.length === 0);
}

function isFlat(value: Json | undefined): boolean {
  return typeof value !== "object" || value === null;
}
