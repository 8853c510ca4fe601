const HINTS: { [name: string]: string } = {
  Chat: "Replies with text",
  Code: "Replies with text and code files",
  Compare: "Replies with a table",
};
/** Functions that only the worker calls. */
const NOT_FOR_USERS = ["Title"];

export interface FunctionChoice {
  name: string;
  hint: string | undefined;
}

/**
 * The BAML functions to choose from for a new session: `VITE_FUNCTIONS`, in the format of the worker's
 * `BRIDGE_FUNCTIONS`, or the worker's defaults.
 */
export function functionsOf(env: ImportMetaEnv): FunctionChoice[] {
  const names = String(env["VITE_FUNCTIONS"] || "Chat,Code").split(",").map((name) => name.trim());
  const wanted = new Set(names.filter((name) => name !== "" && !NOT_FOR_USERS.includes(name)));
  return [...wanted].map((name) => ({ name, hint: HINTS[name] }));
}
