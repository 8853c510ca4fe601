/** The models that users may choose. */

import { request } from "./backend.ts";
import type { AnySupabaseClient, Model } from "./types.ts";

/** The models of the table `models`, in its order. Throws `RequestError`. */
export async function readModels(client: AnySupabaseClient): Promise<Model[]> {
  const query = client.from("models").select("name, title").order("ordinal").order("name");
  const rows = await request<{ name: string; title: string | null }[]>(query, "rows");
  return rows.map(({ name, title }) => ({ name, title: title ?? name }));
}
