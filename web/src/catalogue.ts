/** What the table `functions` says of the functions. */

import { createContext, useEffect, useState } from "react";
import { shapeOf, UNKNOWN, type Shape } from "./shape.ts";
import type { Client } from "./supabase.ts";

/** The shape of the results of the session's function. */
export const ResultShape = createContext<Shape>(UNKNOWN);

/** The shape of a function's results; unknown until it is read, and if no worker has described it. */
export function useResultShape(client: Client, name: string): Shape {
  const [shape, setShape] = useState(UNKNOWN);
  useEffect(() => {
    const reading = new AbortController();
    setShape(UNKNOWN);
    void client
      .from("functions")
      .select("result")
      .eq("name", name)
      .abortSignal(reading.signal)
      .maybeSingle()
      // without it, fields are shown in the order of their names
      .then(({ data }) => reading.signal.aborted || setShape(shapeOf(data?.result)));
    return () => reading.abort();
  }, [client, name]);
  return shape;
}
