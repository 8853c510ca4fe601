import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import type { Database } from "supabase-baml-bridge-client";

export type Client = SupabaseClient<Database>;

/** The client for the project that the page was built for, or an error message. */
export function connect(env: ImportMetaEnv): Client | string {
  const url: string = env["VITE_SUPABASE_URL"] ?? "";
  const key: string = env["VITE_SUPABASE_PUBLISHABLE_KEY"] ?? "";
  const missing = [!url && "VITE_SUPABASE_URL", !key && "VITE_SUPABASE_PUBLISHABLE_KEY"].filter(Boolean);
  if (missing.length > 0) {
    return `Set ${missing.join(" and ")}, then start or build the page again.`;
  }
  try {
    return createClient<Database>(url, key);
  } catch {
    return `VITE_SUPABASE_URL must be a URL such as https://abc.supabase.co, not "${url}".`;
  }
}
