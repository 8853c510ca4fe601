import type { Model } from "supabase-baml-bridge-client";

interface Props {
  models: readonly Model[];
  /** Null: the function's own. */
  chosen: string | null;
  disabled: boolean;
  onChoose(model: string | null): void;
}

/** The choice of the model that answers a session's next questions, where there is one. */
export function ModelChoice({ models, chosen, disabled, onChoose }: Props) {
  if (models.length < 2) return null;
  return (
    <select
      className="model"
      aria-label="Model"
      value={chosen ?? ""}
      disabled={disabled}
      onChange={({ target }) => onChoose(target.value || null)}
    >
      <option value="">Default model</option>
      {models.map(({ name, title }) => (
        <option key={name} value={name}>
          {title}
        </option>
      ))}
    </select>
  );
}
