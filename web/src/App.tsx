import { useEffect, useState } from "react";
import type { User } from "@supabase/supabase-js";
import { SignIn } from "./SignIn.tsx";
import { Workspace } from "./Workspace.tsx";
import { forgetDrafts } from "./draft.ts";
import type { Client } from "./supabase.ts";

/** Who is signed in decides what is shown. */
export function App({ client }: { client: Client }) {
  const [user, setUser] = useState<User | null | undefined>(undefined);

  useEffect(() => {
    let last: string | undefined;
    const { data } = client.auth.onAuthStateChange((event, session) => {
      const next = session?.user.id;
      // in whichever tab it happened
      if (event === "SIGNED_OUT" || (last !== undefined && next !== last)) forgetDrafts();
      last = next;
      setUser(session?.user ?? null);
    });
    return () => data.subscription.unsubscribe();
  }, [client]);

  if (user === undefined) return null; // the stored session is being looked up
  if (user === null) return <SignIn client={client} />;
  return <Workspace key={user.id} client={client} user={user} />;
}
