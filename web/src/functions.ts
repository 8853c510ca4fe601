import { storage } from "./storage.ts";

/** What the page knows of a BAML function. Of one that it does not know, it shows only the name. */
export interface FunctionChoice {
  name: string;
  hint?: string;
  /** Whether it has the parameter `files`. Of one that has not, the model would not see a file. */
  readsFiles: boolean;
  /** First questions to choose from. */
  suggestions: readonly string[];
}

const KNOWN: readonly FunctionChoice[] = [
  {
    name: "Chat",
    hint: "Replies with text",
    readsFiles: true,
    suggestions: [
      "How does a reply stream to this page?",
      "How do I add a function of my own?",
      "What happens to my question if a worker crashes?",
      "Explain row level security with an example.",
    ],
  },
  {
    name: "Code",
    hint: "Replies with text and code files",
    readsFiles: true,
    suggestions: [
      "Write a Fibonacci generator in Python.",
      "Write a notes table in SQL, private to its owner.",
      "Write a debounce function in TypeScript.",
    ],
  },
  {
    name: "Compare",
    hint: "Replies with a table",
    readsFiles: true,
    suggestions: [
      "Train, bus or bicycle to work?",
      "Which laptop for a student: light, cheap or fast?",
      "Compare Postgres, SQLite and DuckDB.",
    ],
  },
];
/** Functions that only the worker calls. */
const NOT_FOR_USERS = ["Title"];
const KEY = "function";

/**
 * The BAML functions to choose from for a new session: `VITE_FUNCTIONS`, in the format of the worker's
 * `BRIDGE_FUNCTIONS`, or the worker's defaults.
 */
export function functionsOf(env: ImportMetaEnv): FunctionChoice[] {
  const names = String(env["VITE_FUNCTIONS"] || "Chat,Code").split(",").map((name) => name.trim());
  const wanted = new Set(names.filter((name) => name !== "" && !NOT_FOR_USERS.includes(name)));
  const choices = [...wanted].map(functionNamed);
  return choices.length > 0 ? choices : [functionNamed("Chat")];
}

export function functionNamed(name: string): FunctionChoice {
  return KNOWN.find((known) => known.name === name) ?? { name, readsFiles: false, suggestions: [] };
}

export const FUNCTIONS = functionsOf(import.meta.env);

/** The function that was last chosen in this tab, so that a reload keeps it, or the first one. */
export function lastFunction(): FunctionChoice {
  const last = storage("sessionStorage")?.getItem(KEY);
  return FUNCTIONS.find(({ name }) => name === last) ?? FUNCTIONS[0]!;
}

export function rememberFunction({ name }: FunctionChoice): void {
  try {
    storage("sessionStorage")?.setItem(KEY, name);
  } catch {
    // the storage is full: the choice lasts as long as the page
  }
}
