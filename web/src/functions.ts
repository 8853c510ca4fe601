const HINTS: { [name: string]: string } = {
  Chat: "Answers in text",
  Code: "Answers and writes code files",
  Compare: "Answers with a table",
};
/** What the worker calls by itself. */
const NOT_FOR_USERS = ["Title"];

export interface FunctionChoice {
  name: string;
  hint: string | undefined;
}

/**
 * The BAML functions a new session can be answered by: `VITE_FUNCTIONS`, which takes the worker's `BRIDGE_FUNCTIONS`
 * as it stands, or else those that a worker answers by default.
 */
export function functionsOf(env: ImportMetaEnv): FunctionChoice[] {
  const names = String(env["VITE_FUNCTIONS"] || "Chat,Code").split(",").map((name) => name.trim());
  const wanted = new Set(names.filter((name) => name !== "" && !NOT_FOR_USERS.includes(name)));
  return [...wanted].map((name) => ({ name, hint: HINTS[name] }));
}
