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
 * The names of fields that no class orders, in display order: the same while a result streams and after a reload.
 *
 * `jsonb` sorts fields by the length of their names, then by their bytes.
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
