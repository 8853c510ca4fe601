import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import type { Database } from "supabase-baml-bridge-client";

export type Client = SupabaseClient<Database>;

/** The client for the project the page was built for, or a sentence that says what is missing. */
export function connect(env: ImportMetaEnv): Client | string {
  const url: string = env["VITE_SUPABASE_URL"] ?? "";
  const key: string = env["VITE_SUPABASE_PUBLISHABLE_KEY"] ?? "";
  const missing = [!url && "VITE_SUPABASE_URL", !key && "VITE_SUPABASE_PUBLISHABLE_KEY"].filter(Boolean);
  if (missing.length > 0) {
    return `Set ${missing.join(" and ")} in the environment when the page is started or built.`;
  }
  try {
    return createClient<Database>(url, key);
  } catch {
    return `VITE_SUPABASE_URL is not an address: it should be like https://abc.supabase.co, not "${url}".`;
  }
}
