import { useId, useMemo, useState } from "react";
import type { Json } from "supabase-baml-bridge-client";
import { argumentsOf, fieldsOf, problemOf, type Field, type Typed } from "./fields.ts";
import type { FunctionChoice } from "./functions.ts";
import type { JsonObject } from "./data.ts";

export interface Arguments {
  fields: readonly Field[];
  valueOf(field: Field): Typed;
  set(field: Field, typed: Typed): void;
  /** What the question's data gets; undefined if there is nothing. */
  data: JsonObject | undefined;
}

interface Filled {
  /** The function's name. */
  of: string;
  /** By the field's name. */
  typed: ReadonlyMap<string, Typed>;
}

/** What is filled in for a function's arguments. It stays for the next question. */
export function useArguments({ name, parameters }: FunctionChoice): Arguments {
  const fields = useMemo(() => fieldsOf(parameters), [parameters]);
  const [{ of, typed }, set] = useState<Filled>({ of: name, typed: new Map() });
  const own: Filled["typed"] = of === name ? typed : new Map();
  return {
    fields,
    valueOf: (field) => own.get(field.name) ?? field.initial,
    set: (field, value) => set({ of: name, typed: new Map(own).set(field.name, value) }),
    data: argumentsOf(fields, own),
  };
}

/** The form for a function's arguments, inside of the message box's. */
export function Parameters({ of: { fields, valueOf, set } }: { of: Arguments }) {
  if (fields.length === 0) return null;
  return (
    <fieldset className="parameters">
      <legend className="visually-hidden">Options</legend>
      {fields.map((field) => (
        <FieldInput key={field.name} field={field} value={valueOf(field)} onChange={(typed) => set(field, typed)} />
      ))}
    </fieldset>
  );
}

interface FieldProps {
  field: Field;
  value: Typed;
  onChange(typed: Typed): void;
}

function FieldInput({ field, value, onChange }: FieldProps) {
  const hintId = useId();
  const { label, hint, required, input } = field;
  const common = { required, "aria-describedby": hint === null ? undefined : hintId };
  const text = {
    ...common,
    value: String(value),
    onChange: ({ target }: { target: { value: string } }) => onChange(target.value),
  };
  return (
    <label data-kind={input.kind}>
      <span>{label}</span>
      {input.kind === "flag" && (
        <input
          {...common}
          type="checkbox"
          checked={value === true}
          onChange={({ target }) => onChange(target.checked)}
        />
      )}
      {input.kind === "choice" && (
        <select {...text}>
          <option value="">{required ? "Choose…" : "–"}</option>
          {input.options.map((option, place) => (
            <option key={place} value={place}>
              {shownOption(option)}
            </option>
          ))}
        </select>
      )}
      {input.kind === "number" && (
        <input {...text} type="number" step={input.whole ? 1 : "any"} min={input.least} max={input.most} />
      )}
      {input.kind === "text" && <input {...text} type="text" maxLength={input.most} />}
      {input.kind === "json" && (
        <textarea
          {...text}
          rows={2}
          placeholder="JSON"
          spellCheck={false}
          ref={(element) => element?.setCustomValidity(problemOf(field, value))}
        />
      )}
      {hint !== null && (
        <small id={hintId} className="muted">
          {hint}
        </small>
      )}
    </label>
  );
}

function shownOption(option: Json): string {
  return typeof option === "string" ? option : JSON.stringify(option);
}
