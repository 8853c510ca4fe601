import { memo } from "react";
import { Fold } from "./Fold.tsx";
import { Dots } from "./Status.tsx";
import { Text } from "./Text.tsx";

/** What the model thought before it wrote, folded. `streaming`: it still thinks. */
export const Reasoning = memo(function Reasoning({ text, streaming }: { text: string; streaming: boolean }) {
  return (
    <Fold
      className="reasoning"
      summary={
        <>
          {streaming && <Dots />}
          {streaming ? "Thinking…" : "Thought"}
        </>
      }
    >
      {() => <Text text={text} />}
    </Fold>
  );
});
