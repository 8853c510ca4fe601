/** The values and field names of structured results. */

import type { Json } from "supabase-baml-bridge-client";

export type JsonObject = { [key: string]: Json | undefined };

/** `total_price`, `totalPrice` → `Total price`. */
export function nameOf(key: string): string {
  const words = key.replace(/([a-z0-9])([A-Z])/g, "$1 $2").replaceAll("_", " ").trim().toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Fields that readers expect first, in this order. */
const FIRST = ["name", "title", "label", "item", "price", "pros", "cons"];

/**
 * Field names in display order, which is the same while a result streams and after a reload.
 *
 * The function's own order is lost with the last delta: `jsonb` sorts fields by the length of their names, then by
 * their bytes.
 */
export function orderOf(keys: readonly string[]): string[] {
  const rank = (key: string): number => (FIRST.includes(key) ? FIRST.indexOf(key) : FIRST.length);
  return [...new Set(keys)].sort((a, b) => rank(a) - rank(b) || a.length - b.length || (a < b ? -1 : 1));
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isEmpty(value: Json | undefined): boolean {
  return value === null || value === undefined || value === "" || (Array.isArray(value) && value.length === 0);
}

/** Whether a value is a list of objects that have fields, so that it can be shown as a table. */
export function isTable(value: Json | undefined): value is JsonObject[] {
  return Array.isArray(value) && value.length > 0 && value.every((row) => isObject(row) && Object.keys(row).length > 0);
}

export function isFlat(value: Json | undefined): boolean {
  return typeof value !== "object" || value === null;
}

/** How much of a result is shown at once: cells of tables, and twice or three times as much for items and fields. */
export const MAX_SHOWN = 600;
const ITEM_WEIGHT = 2;
const FIELD_WEIGHT = 3;
const MAX_CHARACTERS = 20_000;
const MAX_NAME = 200;
const MAX_LEVELS = 12;

/** The beginning of a value, small enough to show at once. `whole`: it is all of the value. */
export function beginningOf(value: Json): { value: Json; whole: boolean } {
  const left = { weight: MAX_SHOWN, characters: MAX_CHARACTERS, whole: true };

  function cut(text: string, most: number): string {
    left.characters -= text.length;
    if (text.length <= most) return text;
    left.whole = false;
    return `${text.slice(0, Math.max(0, most))}…`;
  }

  function take(from: Json, level: number): Json {
    if (typeof from === "string") return cut(from, left.characters);
    if (typeof from !== "object" || from === null) return from;
    if (level === MAX_LEVELS) {
      left.whole = false;
      return "…";
    }
    return Array.isArray(from) ? takeList(from, level) : takeObject(from as JsonObject, level);
  }

  function takeObject(from: JsonObject, level: number, fieldWeight = FIELD_WEIGHT): Json {
    const taken: [string, Json][] = [];
    for (const name in from) {
      if (left.weight <= 0) {
        left.whole = false;
        break;
      }
      left.weight -= fieldWeight;
      taken.push([cut(name, MAX_NAME), take(from[name] ?? null, level + 1)]);
    }
    return Object.fromEntries(taken);
  }

  function takeList(from: readonly Json[], level: number): Json {
    const taken: Json[] = [];
    const columns = new Set<string>();
    for (const item of from) {
      if (left.weight <= 0) {
        left.whole = false;
        break;
      }
      left.weight -= ITEM_WEIGHT;
      const next = isObject(item) && level + 1 < MAX_LEVELS ? takeObject(item, level + 1, 1) : take(item, level + 1);
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

  return { value: take(value, 0), whole: left.whole };
}
