/** What a structured result is made of, and how its names are written. */

import type { Json } from "supabase-baml-bridge-client";

export type JsonObject = { [key: string]: Json | undefined };

/** `total_price`, `totalPrice` → `Total price`. */
export function nameOf(key: string): string {
  const words = key.replace(/([a-z0-9])([A-Z])/g, "$1 $2").replaceAll("_", " ").trim().toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Names that people expect to stand first, in this order. */
const FIRST = ["name", "title", "label", "item", "price", "pros", "cons"];

/**
 * The names of fields in the order in which they are shown, the same while a result streams and when it is read again.
 *
 * The order in which the function names them is lost with the last delta: `jsonb` keeps fields by the length of their
 * names, then by their bytes.
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

export function isFlat(value: Json | undefined): boolean {
  return typeof value !== "object" || value === null;
}
