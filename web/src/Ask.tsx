import { memo, useId, useLayoutEffect, useRef, useState } from "react";
import { messageOf } from "./action.ts";
import { optionsOf, outcomeOf, refusalOf, type Answer, type Option } from "./asks.ts";
import { ResultShape } from "./catalogue.ts";
import { DataView } from "./DataView.tsx";
import { Icon } from "./Icon.tsx";
import type { AskItem } from "./items.ts";
import { UNKNOWN } from "./shape.ts";

interface Props {
  ask: AskItem;
  /** Whether the reply waits, so that an answer is taken. */
  active: boolean;
  /** Sends an answer. Resolves to what the database said of it. */
  onAnswer(name: string, answer: Answer): Promise<string>;
}

/** What was answered here, and what became of that. */
type Given =
  | { readonly option: Option; readonly state: "sending" | "taken" }
  | { readonly option: Option; readonly state: "refused" | "failed"; readonly reason: string };

/** A question to the user: what is asked with the answers to choose from, or with what was answered. */
export const AskCard = memo(function AskCard({ ask, active, onAnswer }: Props) {
  const id = useId();
  const [given, setGiven] = useState<Given | null>(null);
  const [shown, setShown] = useState(ask.state);
  if (shown !== ask.state) {
    setShown(ask.state);
    if (ask.state === "open") setGiven(null); // a new attempt asks once more
  }
  const outcome = outcomeOf(ask, given?.state === "taken" ? given.option.answer : null);
  const isOpen = outcome === null && given?.state !== "refused";
  const end = useRef<HTMLParagraphElement>(null);
  const hadFocus = useRef(false);

  // what is there instead of the buttons gets their focus
  useLayoutEffect(() => {
    if (!isOpen && hadFocus.current) end.current?.focus({ preventScroll: true });
    hadFocus.current = false;
  }, [isOpen]);

  async function answer(option: Option): Promise<void> {
    setGiven({ option, state: "sending" });
    try {
      const reason = refusalOf(await onAnswer(ask.name, option.answer));
      setGiven(reason === null ? { option, state: "taken" } : { option, state: "refused", reason });
    } catch (error) {
      setGiven({ option, state: "failed", reason: messageOf(error) });
    }
  }

  return (
    <div className={isOpen ? "ask open" : "ask"} role="group" aria-labelledby={id} data-ask={ask.name}>
      <p id={id} className="title" dir="auto">
        {ask.title}
      </p>
      {ask.details !== null && (
        <ResultShape value={UNKNOWN}>
          <DataView data={ask.details} streaming={false} />
        </ResultShape>
      )}
      {isOpen && (
        <Options
          options={optionsOf(ask)}
          sending={given?.state === "sending" ? given.option.label : null}
          disabled={!active}
          onChoose={(option) => void answer(option)}
          onRemoved={(focused) => (hadFocus.current = focused)}
        />
      )}
      {given !== null && "reason" in given && (
        <p className={given.state === "failed" ? "status failed" : "status"} role="alert">
          {given.reason}
        </p>
      )}
      {!isOpen && (
        <p ref={end} className="outcome" tabIndex={-1}>
          {outcome !== null && <Icon name={ask.state === "ended" || ask.state === "rejected" ? "cross" : "check"} />}
          <span dir="auto">{outcome}</span>
        </p>
      )}
    </div>
  );
});

interface OptionsProps {
  options: readonly Option[];
  /** The label of the one that is being sent. */
  sending: string | null;
  disabled: boolean;
  onChoose(option: Option): void;
  /** Called when the buttons are removed, with whether one of them had the focus. */
  onRemoved(focused: boolean): void;
}

/** The buttons. A button that is disabled loses the focus, so while an answer is sent they only do nothing. */
function Options({ options, sending, disabled, onChoose, onRemoved }: OptionsProps) {
  const group = useRef<HTMLDivElement>(null);
  const isBusy = useRef(false); // a second click may come before the page shows the effect of the first
  useLayoutEffect(() => {
    const element = group.current;
    return () => onRemoved(element?.contains(document.activeElement) === true);
  }, []);
  useLayoutEffect(() => {
    isBusy.current = disabled || sending !== null;
  });
  return (
    <div ref={group} className="options">
      {options.map((option, index) => (
        <button
          key={option.label}
          className={option.answer.choice === undefined && index === 0 ? "primary" : undefined}
          aria-disabled={disabled || sending !== null}
          dir="auto"
          onClick={() => {
            if (isBusy.current) return;
            isBusy.current = true;
            onChoose(option);
          }}
        >
          {sending === option.label && <span className="spinner" aria-hidden="true" />}
          {option.label}
        </button>
      ))}
      <span className="visually-hidden" role="status">
        {sending === null ? "" : "Sending your answer…"}
      </span>
    </div>
  );
}
