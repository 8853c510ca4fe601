import { useId } from "react";
import type { Json } from "supabase-baml-bridge-client";
import { Value } from "./DataView.tsx";
import { isEmpty, isObject, nameOf, orderOf, type JsonObject } from "./data.ts";

/** Whether a value is a list of objects with something in them: a row each. */
export function isTable(value: Json | undefined): value is JsonObject[] {
  return Array.isArray(value) && value.length > 0 && value.every((row) => isObject(row) && Object.keys(row).length > 0);
}

interface Props {
  rows: readonly JsonObject[];
  caption: string;
  /** Whether the last row is still being written. */
  streaming: boolean;
}

/**
 * A list of alike objects. The first column names the rows if it holds nothing but text. A wide table is scrolled in
 * its frame, by keyboard too, and the rows' names stay in sight.
 */
export function DataTable({ rows, caption, streaming }: Props) {
  const id = useId();
  const columns = orderOf(rows.flatMap(Object.keys));
  // of one type as far as there is something
  const isOnly = (column: string, type: "number" | "string") => {
    const values = rows.map((row) => row[column]).filter((value) => !isEmpty(value));
    return values.length > 0 && values.every((value) => typeof value === type);
  };
  const numeric = new Set(columns.filter((column) => isOnly(column, "number")));
  const named = columns.length > 1 && isOnly(columns[0]!, "string");
  const classOf = (column: string) => (numeric.has(column) ? "number" : undefined);
  return (
    <div className="table" tabIndex={0} role="group" aria-labelledby={id}>
      <table aria-busy={streaming}>
        <caption id={id}>{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column} scope="col" className={classOf(column)}>
                {nameOf(column)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={index}>
              {columns.map((column, at) => {
                const pending = streaming && index === rows.length - 1;
                const cell = <Value value={row[column]} name={nameOf(column)} streaming={pending} />;
                return named && at === 0 ? (
                  <th key={column} scope="row">
                    {cell}
                  </th>
                ) : (
                  <td key={column} className={classOf(column)}>
                    {cell}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
