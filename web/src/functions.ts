/** The functions that a session can have, as the table `functions` describes them. */

import type { Json } from "supabase-baml-bridge-client";
import { acceptedTypes } from "./attachable.ts";
import { storage } from "./storage.ts";

/** What the page knows of a function. Of one that no worker has described, it knows only the name. */
export interface FunctionChoice {
  name: string;
  title: string;
  description: string | null;
  /** The JSON schema of the arguments that a question's data can carry; null: none. */
  parameters: Json;
  /** First questions to choose from. */
  suggestions: readonly string[];
  /** Whether it reads the session's files. Of one that does not, the model would not see a file. */
  readsFiles: boolean;
  /** The media types of the attachments that it reads. */
  accepts: readonly string[];
}

/** A row of the table, as far as it is read. */
export interface FunctionRow {
  name: string;
  title: string | null;
  description: string | null;
  parameters: Json;
  suggestions: Json;
  reads_files: boolean;
  accepts: Json;
}

/** The function of a session that names none, in the database too. */
const DEFAULT = "Chat";
const KEY = "function";

export function choiceOf({ title, suggestions, reads_files, accepts, ...row }: FunctionRow): FunctionChoice {
  const texts = Array.isArray(suggestions) ? suggestions.filter((text) => typeof text === "string") : [];
  return {
    ...row,
    title: title ?? row.name,
    suggestions: texts,
    readsFiles: reads_files,
    accepts: acceptedTypes(accepts),
  };
}

export function functionNamed(choices: readonly FunctionChoice[], name: string): FunctionChoice {
  const known = choices.find((choice) => choice.name === name);
  const unknown = { description: null, parameters: null, suggestions: [], readsFiles: false, accepts: [] };
  return known ?? { name, title: name, ...unknown };
}

/**
 * The function for a new session: the one that was last chosen in this tab, so that a reload keeps it. If it is not there
 * any more, the default, or else the first one.
 */
export function functionToStart(choices: readonly FunctionChoice[], chosen: string | null): FunctionChoice {
  const isThere = (name: string | null): name is string =>
    name !== null && (choices.length === 0 || choices.some((choice) => choice.name === name));
  const name = [chosen, DEFAULT].find(isThere) ?? choices[0]?.name ?? DEFAULT;
  return functionNamed(choices, name);
}

export function lastFunction(): string | null {
  return storage("sessionStorage")?.getItem(KEY) ?? null;
}

export function rememberFunction(name: string): void {
  try {
    storage("sessionStorage")?.setItem(KEY, name);
  } catch {
    // the storage is full: the choice lasts as long as the page
  }
}
