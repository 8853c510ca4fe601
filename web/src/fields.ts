/** The fields of a form for a function's arguments, from their JSON schema, and the arguments from what was typed. */

import type { Json } from "supabase-baml-bridge-client";
import { isObject, nameOf, type JsonObject } from "./data.ts";
import { fieldOf, shapeOf } from "./shape.ts";

export type Input =
  | { kind: "choice"; options: readonly Json[] }
  | { kind: "flag" }
  | { kind: "number"; whole: boolean; least: number | undefined; most: number | undefined }
  | { kind: "text"; most: number | undefined }
  /** Anything else, as JSON. */
  | { kind: "json" };

export interface Field {
  name: string;
  label: string;
  hint: string | null;
  /** Whether it must be filled in. */
  required: boolean;
  /** What it stands for if it is left empty: nothing, unless the function must be told. */
  empty: Json | undefined;
  /** What it holds at first, as it is typed. */
  initial: Typed;
  input: Input;
}

/** What is typed into a field: text, the place of a choice, or whether a box is checked. */
export type Typed = string | boolean;

/** A form shows no more fields. */
const MOST_FIELDS = 50;

/** The fields of a JSON schema (of an object). */
export function fieldsOf(schema: Json): Field[] {
  const shape = shapeOf(schema);
  const { properties, required } = isObject(schema) ? schema : {};
  const names = isObject(properties) ? Object.keys(properties).slice(0, MOST_FIELDS) : [];
  return names.map((name) => {
    const all = fieldOf(shape, name).variants;
    const variants = all.filter((variant) => !isNull(variant) && !isUnion(variant));
    const isNamed = Array.isArray(required) && required.includes(name);
    const canBeNull = all.some((variant) => isNull(variant) || typesOf(variant).includes("null"));
    // a reference may have a title, a description and a default beside it
    const said = [isObject(properties) && isObject(properties[name]) ? properties[name] : {}, ...all];
    const input = inputOf(variants);
    const initial = typedAs(input, said.map((one) => one["default"]).find((value) => value !== undefined));
    const isNo = input.kind === "flag" && (initial === true || (isNamed && !canBeNull));
    return {
      name,
      label: said.map(({ title }) => title).find(isText) ?? nameOf(name),
      hint: said.map(({ description }) => description).find(isText) ?? null,
      required: isNamed && !canBeNull && input.kind !== "flag",
      empty: isNo ? false : isNamed && canBeNull ? null : undefined,
      initial,
      input,
    };
  });
}

/** The arguments for what is typed, by field; undefined if there are none. */
export function argumentsOf(fields: readonly Field[], typed: ReadonlyMap<string, Typed>): JsonObject | undefined {
  const entries = fields.flatMap((field): [string, Json][] => {
    const value = valueOf(field, typed.get(field.name) ?? field.initial);
    return value === undefined ? [] : [[field.name, value]];
  });
  return entries.length > 0 ? Object.fromEntries(entries) : undefined;
}

/** What is wrong with what is typed, beyond what the browser says of it; "" if nothing is. */
export function problemOf({ input }: Field, typed: Typed): string {
  return input.kind === "json" && typed !== "" && parsed(typed) === undefined ? "This is not JSON." : "";
}

function valueOf({ input, empty }: Field, typed: Typed): Json | undefined {
  if (typed === "" || typed === false) return empty;
  if (input.kind === "flag") return true;
  if (input.kind === "choice") return input.options[Number(typed)];
  if (input.kind === "number") return Number(typed);
  return input.kind === "json" ? parsed(typed) : String(typed);
}

function inputOf(variants: readonly JsonObject[]): Input {
  const options = variants.map(optionsOf);
  if (options.length > 0 && options.every((some) => some !== null)) return { kind: "choice", options: options.flat() };
  const [variant = {}, ...others] = variants;
  const [type, ...otherTypes] = typesOf(variant).filter((one) => one !== "null");
  if (others.length > 0 || otherTypes.length > 0) return { kind: "json" };
  if (type === "boolean") return { kind: "flag" };
  if (type === "string") return { kind: "text", most: numberOf(variant["maxLength"]) };
  if (type !== "integer" && type !== "number") return { kind: "json" };
  const { minimum, maximum } = variant;
  return { kind: "number", whole: type === "integer", least: numberOf(minimum), most: numberOf(maximum) };
}

/** The values that a schema lists, without null; null if it lists none. */
function optionsOf({ const: only, enum: several }: JsonObject): readonly Json[] | null {
  if (only !== undefined) return [only];
  return Array.isArray(several) ? several.filter((value) => value !== null) : null;
}

function typedAs(input: Input, value: Json | undefined): Typed {
  if (input.kind === "flag") return value === true;
  if (value === undefined || value === null) return "";
  if (input.kind === "json") return JSON.stringify(value, null, 1);
  if (input.kind !== "choice") return typeof value === "object" ? "" : String(value);
  const place = input.options.findIndex((option) => JSON.stringify(option) === JSON.stringify(value));
  return place < 0 ? "" : String(place);
}

function parsed(text: Typed): Json | undefined {
  try {
    return JSON.parse(String(text)) as Json;
  } catch {
    return undefined;
  }
}

function typesOf({ type }: JsonObject): readonly Json[] {
  return Array.isArray(type) ? type : type === undefined ? [] : [type];
}

const isNull = (variant: JsonObject): boolean => variant["type"] === "null" || variant["const"] === null;
const isUnion = ({ type, anyOf, oneOf, allOf }: JsonObject): boolean =>
  type === undefined && (anyOf ?? oneOf ?? allOf) !== undefined;
const isText = (value: Json | undefined): value is string => typeof value === "string" && value.trim() !== "";
const numberOf = (value: Json | undefined): number | undefined => (typeof value === "number" ? value : undefined);
