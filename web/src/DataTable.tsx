import { useId, type ReactNode } from "react";
import type { Json } from "supabase-baml-bridge-client";
import { isEmpty, nameOf, type JsonObject } from "./data.ts";
import { inOrder, type Shape } from "./shape.ts";

interface Props {
  rows: readonly JsonObject[];
  /** Of each row. */
  shape: Shape;
  caption: string;
  /** Whether the last row may still change. */
  streaming: boolean;
  /** Renders the value of a cell. */
  cell(value: Json | undefined, column: string, streaming: boolean): ReactNode;
}

/**
 * A list of similar objects as a table. If the first column holds only text, its cells are row headers. A wide table
 * scrolls in its frame, also with the keyboard, and keeps the row headers in sight.
 */
export function DataTable({ rows, shape, caption, streaming, cell }: Props) {
  const id = useId();
  const columns = inOrder(shape, rows.flatMap(Object.keys));
  // whether all values that are not empty have this type
  const isOnly = (column: string, type: "number" | "string") => {
    const values = rows.map((row) => row[column]).filter((value) => !isEmpty(value));
    return values.length > 0 && values.every((value) => typeof value === type);
  };
  const numeric = new Set(columns.filter((column) => isOnly(column, "number")));
  const hasHeaders = columns.length > 1 && isOnly(columns[0]!, "string");
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
                const content = cell(row[column], column, streaming && index === rows.length - 1);
                return hasHeaders && at === 0 ? (
                  <th key={column} scope="row">
                    {content}
                  </th>
                ) : (
                  <td key={column} className={classOf(column)}>
                    {content}
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
