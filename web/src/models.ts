/** The models to choose from. */

import { useEffect, useState } from "react";
import { readModels, type Model } from "supabase-baml-bridge-client";
import type { Client } from "./supabase.ts";

/** The models to choose from; none until they are read. They are read again whenever the user comes back. */
export function useModels(client: Client): readonly Model[] {
  const [models, setModels] = useState<readonly Model[]>([]);
  useEffect(() => {
    let last = 0;

    async function read(): Promise<void> {
      const own = ++last;
      try {
        const found = await readModels(client);
        if (own === last) setModels(found);
      } catch {
        // what was read before stays
      }
    }

    const reread = (): void => void read();
    reread();
    addEventListener("focus", reread);
    return () => {
      last = -1;
      removeEventListener("focus", reread);
    };
  }, [client]);
  return models;
}
