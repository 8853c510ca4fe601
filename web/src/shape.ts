/** The order of the fields of a structured result: that of its class, as the function's JSON schema has it. */

import type { Json } from "supabase-baml-bridge-client";
import { isObject, orderOf, type JsonObject } from "./data.ts";

/** What a value may look like: the schemas that it may follow, without references and unions. */
export interface Shape {
  readonly root: JsonObject;
  readonly variants: readonly JsonObject[];
}

/** The shape of a value that nothing is known of. */
export const UNKNOWN: Shape = { root: {}, variants: [] };

/** The shape that a JSON schema describes. */
export function shapeOf(schema: Json | undefined): Shape {
  return isObject(schema) ? resolved(schema, [schema]) : UNKNOWN;
}

/** Names in the order of the class that has most of them, then of the other classes, then those of no class. */
export function inOrder(shape: Shape, names: readonly string[]): string[] {
  const left = new Set(names);
  const classes = shape.variants.flatMap(({ properties }) => (isObject(properties) ? [Object.keys(properties)] : []));
  const fits = (fields: readonly string[]): number => fields.filter((name) => left.has(name)).length;
  const known = classes
    .map((fields) => ({ fields, fit: fits(fields) }))
    .sort((a, b) => b.fit - a.fit)
    .flatMap(({ fields }) => fields)
    .filter((name) => left.delete(name));
  return [...known, ...orderOf([...left])];
}

/** The shape of a field. */
export function fieldOf({ root, variants }: Shape, name: string): Shape {
  return resolved(
    root,
    variants.map(({ properties, additionalProperties }) =>
      isObject(properties) && Object.hasOwn(properties, name) ? properties[name] : additionalProperties,
    ),
  );
}

/** The shape of a list's items. */
export function itemOf({ root, variants }: Shape): Shape {
  return resolved(
    root,
    variants.flatMap(({ items, prefixItems }) => [items, ...(Array.isArray(prefixItems) ? prefixItems : [])]),
  );
}

function resolved(root: JsonObject, schemas: readonly (Json | undefined)[]): Shape {
  const variants = new Set<JsonObject>();
  const seen = new Set<Json | undefined>();
  const open = [...schemas];
  while (open.length > 0) {
    const schema = open.shift();
    if (seen.has(schema) || !isObject(schema)) continue;
    seen.add(schema);
    const { $ref, anyOf, oneOf, allOf } = schema;
    if (typeof $ref === "string") open.push(definitionOf(root, $ref));
    else variants.add(schema);
    for (const union of [anyOf, oneOf, allOf]) if (Array.isArray(union)) open.push(...union);
  }
  return { root, variants: [...variants] };
}

function definitionOf({ $defs }: JsonObject, reference: string): Json | undefined {
  const name = reference.replace("#/$defs/", "").replaceAll("~1", "/").replaceAll("~0", "~");
  return isObject($defs) && Object.hasOwn($defs, name) ? $defs[name] : undefined;
}
