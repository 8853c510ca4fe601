import { useState, type ReactNode } from "react";
import { Icon } from "./Icon.tsx";

interface Props {
  className: string;
  /** Always shown. A click on it, or a key, shows and hides the rest. */
  summary: ReactNode;
  /** Rendered when it is opened for the first time. */
  children(): ReactNode;
}

/** Something with its details, which are folded at first. */
export function Fold({ className, summary, children }: Props) {
  const [wasOpened, setOpened] = useState(false);
  return (
    <details className={`fold ${className}`} onToggle={({ currentTarget }) => currentTarget.open && setOpened(true)}>
      <summary>
        {summary}
        <Icon name="chevron" />
      </summary>
      {wasOpened && <div className="unfolded">{children()}</div>}
    </details>
  );
}
