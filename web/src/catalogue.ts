/** What the table `functions` says of the functions. */

import { createContext, useEffect, useState } from "react";
import { choiceOf, type FunctionChoice } from "./functions.ts";
import { shapeOf, UNKNOWN, type Shape } from "./shape.ts";
import type { Client } from "./supabase.ts";

/** The functions to choose from, by name; none until they are read. */
export const Catalogue = createContext<readonly FunctionChoice[]>([]);

/** For what reads and downloads attachments. */
export const SupabaseClient = createContext<Client>(null!);

/** The shape of the results of the session's function. */
export const ResultShape = createContext<Shape>(UNKNOWN);

/** The functions to choose from. They are read again whenever the user comes back: a worker may have brought others. */
export function useCatalogue(client: Client): readonly FunctionChoice[] {
  const [choices, setChoices] = useState<readonly FunctionChoice[]>([]);
  useEffect(() => {
    let reading = new AbortController();

    function read(): void {
      reading.abort();
      const { signal } = (reading = new AbortController());
      void client
        .from("functions")
        .select("name, title, description, parameters, suggestions, reads_files, accepts")
        .order("name")
        .abortSignal(signal)
        // without an answer, what was read before stays
        .then(({ data }) => signal.aborted || data === null || setChoices(data.map(choiceOf)));
    }

    read();
    addEventListener("focus", read);
    addEventListener("online", read);
    return () => {
      reading.abort();
      removeEventListener("focus", read);
      removeEventListener("online", read);
    };
  }, [client]);
  return choices;
}

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
