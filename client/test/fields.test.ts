/** The form for a function's arguments: what it shows of a JSON schema, and what it makes of what is typed. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { argumentsOf, fieldsOf, problemOf, type Field, type Typed } from "../../web/src/fields.ts";
import type { Json } from "../src/index.ts";

const object = (properties: { [name: string]: Json }, required: string[] = [], more: { [key: string]: Json } = {}): Json => ({
  type: "object",
  properties,
  required,
  ...more,
});
const field = (schema: Json, required = false): Field => fieldsOf(object({ f: schema }, required ? ["f"] : []))[0]!;
const given = (schema: Json, typed: Typed, required = false): Json | undefined =>
  argumentsOf([field(schema, required)], new Map([["f", typed]]))?.["f"];
const nullable = (schema: Json): Json => ({ anyOf: [schema, { type: "null" }] });

describe("the kind of a field", () => {
  test.each<[string, Json, Field["input"]]>([
    ["enum", { enum: ["a", "b"], type: "string" }, { kind: "choice", options: ["a", "b"] }],
    ["literals", { anyOf: [{ const: 1 }, { const: "two" }] }, { kind: "choice", options: [1, "two"] }],
    ["optional enum", nullable({ enum: ["a"] }), { kind: "choice", options: ["a"] }],
    ["enum with null", { enum: ["a", null] }, { kind: "choice", options: ["a"] }],
    ["boolean", { type: "boolean" }, { kind: "flag" }],
    ["optional boolean", nullable({ type: "boolean" }), { kind: "flag" }],
    ["integer", { type: "integer", minimum: 1, maximum: 9 }, { kind: "number", whole: true, least: 1, most: 9 }],
    ["number", { type: ["number", "null"] }, { kind: "number", whole: false, least: undefined, most: undefined }],
    ["string", { type: "string", maxLength: 3 }, { kind: "text", most: 3 }],
    ["list", { type: "array", items: { type: "string" } }, { kind: "json" }],
    ["union", { anyOf: [{ type: "string" }, { type: "integer" }] }, { kind: "json" }],
    ["anything", {}, { kind: "json" }],
    ["no schema", true, { kind: "json" }],
  ])("%s", (_, schema, input) => expect(field(schema).input).toEqual(input));

  test("of a reference is that of what it names, with what stands beside it", () => {
    const schema = object({ tone: { $ref: "#/$defs/Tone", default: "b", description: "How?" }, o: { $ref: "#/$defs/O" } }, ["o"], {
      $defs: { Tone: { enum: ["a", "b"], title: "Tone of voice" }, O: { type: "object", properties: {} } },
    });
    const [tone, nested] = fieldsOf(schema);
    expect(tone).toEqual({
      ...{ name: "tone", label: "Tone of voice", hint: "How?", required: false, empty: undefined, initial: "1" },
      input: { kind: "choice", options: ["a", "b"] },
    });
    expect(nested).toMatchObject({ label: "O", hint: null, required: true, input: { kind: "json" } });
  });
});

test("fields stand in the order of the schema, at most fifty", () => {
  expect(fieldsOf(object({ zz: {}, max_price: {}, a: {} })).map(({ label }) => label)).toEqual(["Zz", "Max price", "A"]);
  expect(fieldsOf(object(Object.fromEntries(Array.from({ length: 60 }, (_, n) => [`f${n}`, {}]))))).toHaveLength(50);
});

test("what is left empty is left out, or null if the function wants to be told", () => {
  for (const schema of [{ type: "string" }, { type: "integer" }, { enum: ["a"] }, { type: "array" }, { type: "boolean" }]) {
    const typed = schema.type === "boolean" ? false : "";
    expect(given(schema, typed)).toBeUndefined();
    expect(given(nullable(schema), typed, true)).toBeNull();
  }
  expect(field(nullable({ type: "string" }), true).required).toBe(false);
  expect(field({ type: "string" }, true).required).toBe(true);
  expect(argumentsOf(fieldsOf(object({ a: {}, b: {} })), new Map())).toBeUndefined();
});

test("a box that is not checked is said to be so where its default or the function asks for it", () => {
  expect(given({ type: "boolean" }, true)).toBe(true);
  expect(given({ type: "boolean" }, false, true)).toBe(false);
  expect(given({ type: "boolean", default: true }, false)).toBe(false);
  expect(field({ type: "boolean" }, true).required).toBe(false);
});

test("what is typed becomes a value of its type", () => {
  expect(given({ type: "integer" }, "12")).toBe(12);
  expect(given({ type: "number" }, "-1.5")).toBe(-1.5);
  expect(given({ type: "string" }, "12")).toBe("12");
  expect(given({ enum: [1, "two"] }, "1")).toBe("two");
  expect(given({ type: "array" }, '[1, {"a": null}]')).toEqual([1, { a: null }]);
  expect(problemOf(field({}), "[1")).toBe("This is not JSON.");
  expect(problemOf(field({}), "[1]")).toBe("");
  expect(problemOf(field({ type: "string" }), "[1")).toBe("");
});

test("a name of the language is a name like others", () => {
  const schema = JSON.parse('{"properties": {"__proto__": {"type": "string"}, "constructor": {"type": "integer"}}}') as Json;
  const typed = new Map([["__proto__", "a"], ["constructor", "1"]]);
  expect(JSON.stringify(argumentsOf(fieldsOf(schema), typed))).toBe('{"__proto__":"a","constructor":1}');
});

test("any schema has a form, and any default is what is sent if nothing is typed", () => {
  const leaf = fc.oneof(
    fc.record({ type: fc.constant("string"), default: fc.string({ minLength: 1 }) }),
    fc.record({ type: fc.constant("integer"), default: fc.integer() }),
    fc.record({ type: fc.constant("number"), default: fc.double({ noNaN: true, noDefaultInfinity: true }) }),
    fc.record({ type: fc.constant("boolean"), default: fc.boolean() }),
    fc.array(fc.string(), { minLength: 1 }).chain((values) => fc.record({ enum: fc.constant(values), default: fc.constantFrom(...values) })),
    fc.record({ type: fc.constant("array"), default: fc.jsonValue().filter((value) => value !== null) }),
  );
  fc.assert(
    fc.property(fc.dictionary(fc.string(), leaf, { maxKeys: 8, noNullPrototype: true }), fc.boolean(), (properties, isNull) => {
      const shown = Object.fromEntries(Object.entries(properties).map(([name, one]) => [name, isNull ? nullable(one as Json) : one])) as { [name: string]: Json };
      const sent = argumentsOf(fieldsOf(object(shown, Object.keys(shown))), new Map()) ?? {};
      for (const [name, { default: value }] of Object.entries(properties)) {
        if (value === false && isNull) continue; // as good as not given
        expect(JSON.stringify(sent[name])).toBe(JSON.stringify(value));
      }
    }),
  );
  fc.assert(fc.property(fc.jsonValue(), (schema) => void fieldsOf(schema as Json)));
  fc.assert(fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (properties) => void fieldsOf({ properties } as Json)));
});
