import { useCallback, useMemo } from "react";
import { hasEnded, type Reply } from "supabase-baml-bridge-client";
import type { Answer } from "./asks.ts";
import { DataView, restOf } from "./DataView.tsx";
import { itemsOf, sourcesOf, type Item } from "./items.ts";
import type { MessageActions } from "./messageActions.ts";
import { Parts } from "./Parts.tsx";
import { Sources } from "./Sources.tsx";
import { Status } from "./Status.tsx";

/** What a reply shows: its parts, its structured result, its status, and its sources. */
export function ReplyBody({ message, actions }: { message: Reply; actions: MessageActions }) {
  const { id, session_id, parts } = message;
  const items = useMemo(() => itemsOf(parts), [parts]);
  const sources = useMemo(() => sourcesOf(parts), [parts]);
  const answer = useCallback((ask: string, given: Answer) => actions.answer(id, ask, given), [actions, id]);
  const data = restOf(message.data);
  return (
    <>
      <Parts sessionId={session_id} items={items} status={message.status} onAnswer={answer} />
      {data !== null && <DataView data={data} streaming={!hasEnded(message)} />}
      <Status
        message={message}
        waiting={null}
        running={data === null ? runningOf(items) : "caret"}
        asks={items.some((item) => item.kind === "ask" && item.state === "open")}
        actions={actions}
      />
      {sources.length > 0 && <Sources sources={sources} />}
    </>
  );
}

/** What shows that a reply runs. A tool that runs, or a thought, does it by itself. */
function runningOf(items: readonly Item[]): "caret" | "thinking" | null {
  const last = items.at(-1);
  if (last?.kind === "text") return "caret";
  const shows = last?.kind === "reasoning" || items.some((item) => item.kind === "call" && item.state === "running");
  return shows ? null : "thinking";
}
