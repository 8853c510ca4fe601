import { useEffect, useState } from "react";
import type { User } from "@supabase/supabase-js";
import { SignIn } from "./SignIn.tsx";
import { Workspace } from "./Workspace.tsx";
import { forgetDrafts } from "./draft.ts";
import type { Client } from "./supabase.ts";

/** The sign-in form, or the workspace of the signed-in user. */
export function App({ client }: { client: Client }) {
  const [user, setUser] = useState<User | null | undefined>(undefined);

  useEffect(() => {
    let last: string | undefined;
    const { data } = client.auth.onAuthStateChange((event, session) => {
      const next = session?.user.id;
      // also when it happened in another tab
      if (event === "SIGNED_OUT" || (last !== undefined && next !== last)) forgetDrafts();
      last = next;
      setUser(session?.user ?? null);
    });
    return () => data.subscription.unsubscribe();
  }, [client]);

  if (user === undefined) return null; // the stored session is still loading
  if (user === null) return <SignIn client={client} />;
  return <Workspace key={user.id} client={client} user={user} />;
}
