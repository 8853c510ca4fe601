/** The models that users may choose. */

import type { AnySupabaseClient, Model } from "./types.ts";

/** The models of the table `models`, in its order. Throws `RequestError`. */
export async function readModels(client: AnySupabaseClient): Promise<Model[]> {
  void client;
  return [];
}
