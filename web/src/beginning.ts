/** The part of a large structured result that is shown. */

import type { Json } from "supabase-baml-bridge-client";
import { isObject, type JsonObject } from "./data.ts";
import { fieldOf, inOrder, itemOf, type Shape } from "./shape.ts";

/** How much of a result is shown at once: cells of tables, and twice or three times as much for items and fields. */
export const MAX_SHOWN = 600;
const ITEM_WEIGHT = 2;
const FIELD_WEIGHT = 3;
/** More fields than are shown, and few enough to be sorted at once. */
const MAX_SORTED = 2 * MAX_SHOWN;
const MAX_CHARACTERS = 20_000;
const MAX_NAME = 200;
const MAX_LEVELS = 12;

/** The beginning of a value, small enough to show at once. `whole`: it is all of the value. */
export function beginningOf(value: Json, shape: Shape): { value: Json; whole: boolean } {
  const left = { weight: MAX_SHOWN, characters: MAX_CHARACTERS, whole: true };

  function cut(text: string, most: number): string {
    left.characters -= text.length;
    if (text.length <= most) return text;
    left.whole = false;
    return `${text.slice(0, Math.max(0, most))}…`;
  }

  function take(from: Json, level: number, shape: Shape): Json {
    if (typeof from === "string") return cut(from, left.characters);
    if (typeof from !== "object" || from === null) return from;
    if (level === MAX_LEVELS) {
      left.whole = false;
      return "…";
    }
    return Array.isArray(from) ? takeList(from, level, itemOf(shape)) : takeObject(from as JsonObject, level, shape);
  }

  function takeObject(from: JsonObject, level: number, shape: Shape, fieldWeight = FIELD_WEIGHT): Json {
    const taken: [string, Json][] = [];
    for (const name of inOrder(shape, Object.keys(from).slice(0, MAX_SORTED))) {
      if (left.weight <= 0) {
        left.whole = false;
        break;
      }
      left.weight -= fieldWeight;
      taken.push([cut(name, MAX_NAME), take(from[name] ?? null, level + 1, fieldOf(shape, name))]);
    }
    return Object.fromEntries(taken);
  }

  function takeList(from: readonly Json[], level: number, shape: Shape): Json {
    const taken: Json[] = [];
    const columns = new Set<string>();
    for (const item of from) {
      if (left.weight <= 0) {
        left.whole = false;
        break;
      }
      left.weight -= ITEM_WEIGHT;
      const isRow = isObject(item) && level + 1 < MAX_LEVELS;
      const next = isRow ? takeObject(item, level + 1, shape, 1) : take(item, level + 1, shape);
      if (isObject(next)) {
        // half a row would look like a whole one
        if (left.weight <= 0 && taken.length > 0) {
          left.whole = false;
          break;
        }
        // a table has a cell for every column of any row
        const before = columns.size;
        const names = Object.keys(next);
        for (const name of names) columns.add(name);
        left.weight -= (columns.size - before) * taken.length + (columns.size - names.length);
      }
      taken.push(next);
    }
    return taken;
  }

  return { value: take(value, 0, shape), whole: left.whole };
}
