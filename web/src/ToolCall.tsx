import { memo } from "react";
import type { Json } from "supabase-baml-bridge-client";
import { ResultShape } from "./catalogue.ts";
import { TextBox } from "./Code.tsx";
import { isEmpty, nameOf } from "./data.ts";
import { DataView } from "./DataView.tsx";
import { Fold } from "./Fold.tsx";
import { Icon } from "./Icon.tsx";
import { hintOf, type CallItem } from "./items.ts";
import { UNKNOWN } from "./shape.ts";

const WORDS = { running: "Running", done: "Done", failed: "Failed", stopped: "Stopped" } as const;
const IDENTIFIER = /^\w+$/;

interface Props {
  call: CallItem;
  /** Whether the reply has ended, and with it whatever ran. */
  ended: boolean;
}

/** A tool's call: its name and state, and folded what it was given and what it gave. */
export const ToolCall = memo(function ToolCall({ call, ended }: Props) {
  const { name, input, output, error } = call;
  const state = ended && call.state === "running" ? "stopped" : call.state;
  return (
    <Fold
      className={`call ${state}`}
      summary={
        <>
          <StateIcon state={state} />
          <span className="name" dir="auto">
            {IDENTIFIER.test(name) ? nameOf(name) : name}
          </span>
          <span className="about" dir="auto">
            {hintOf(input)}
          </span>
          <span className="state">{WORDS[state]}</span>
          {error && (
            <span className="reason" dir="auto">
              {error}
            </span>
          )}
        </>
      }
    >
      {() => (
        <>
          <Value label="Input" value={input} />
          {state === "done" && <Value label="Output" value={output} />}
        </>
      )}
    </Fold>
  );
});

function StateIcon({ state }: Pick<CallItem, "state">) {
  switch (state) {
    case "running":
      return <span className="spinner" aria-hidden="true" />;
    case "done":
      return <Icon name="check" />;
    case "failed":
      return <Icon name="cross" />;
    case "stopped":
      return <Icon name="stop" />;
  }
}

/** What a tool was given or gave: an object as its fields, text as it is. */
function Value({ label, value }: { label: string; value: Json }) {
  return (
    <div className="value">
      <p className="label">{label}</p>
      {isNothing(value) ? <p className="muted">None</p> : <Shown value={value} />}
    </div>
  );
}

function Shown({ value }: { value: Json }) {
  if (typeof value === "string") return <TextBox text={value} />;
  return (
    <ResultShape value={UNKNOWN}>
      <DataView data={value} streaming={false} />
    </ResultShape>
  );
}

function isNothing(value: Json): boolean {
  return isEmpty(value) || (typeof value === "object" && value !== null && Object.keys(value).length === 0);
}
