import type { FunctionChoice } from "./functions.ts";

interface ChoicesProps {
  choices: readonly FunctionChoice[];
  chosen: FunctionChoice;
  onChoose(choice: FunctionChoice): void;
}

/** The heading of a new session, and the choice of the function that answers it. */
export function FunctionChoices({ choices, chosen, onChoose }: ChoicesProps) {
  return (
    <div className="welcome">
      <img src="./icon.svg" alt="" width="56" height="56" />
      <h1>What would you like to talk about?</h1>
      {choices.length > 0 && (
        <fieldset className="choice">
          <legend className="visually-hidden">Function for the new session</legend>
          {choices.map((option) => (
            <label key={option.name} title={option.description ?? undefined}>
              <input
                type="radio"
                name="function"
                value={option.name}
                checked={chosen.name === option.name}
                onChange={() => onChoose(option)}
              />
              <span>{option.title}</span>
            </label>
          ))}
        </fieldset>
      )}
      <p className="muted">{chosen.description}</p>
    </div>
  );
}

/** Questions to start with. A click asks one. */
export function Suggestions({ of, onAsk }: { of: FunctionChoice; onAsk(question: string): void }) {
  if (of.suggestions.length === 0) return null;
  return (
    <ul className="suggestions" aria-label="Suggestions">
      {of.suggestions.map((question) => (
        <li key={question}>
          <button onClick={() => onAsk(question)}>{question}</button>
        </li>
      ))}
    </ul>
  );
}
