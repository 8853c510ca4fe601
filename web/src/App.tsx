import { useEffect, useState } from "react";
import type { User } from "@supabase/supabase-js";
import { SignIn } from "./SignIn.tsx";
import { Workspace } from "./Workspace.tsx";
import type { Client } from "./supabase.ts";

/** Who is signed in decides what is shown. */
export function App({ client }: { client: Client }) {
  const [user, setUser] = useState<User | null | undefined>(undefined);

  useEffect(() => {
    const { data } = client.auth.onAuthStateChange((_event, session) => setUser(session?.user ?? null));
    return () => data.subscription.unsubscribe();
  }, [client]);

  if (user === undefined) return null; // the stored session is being looked up
  if (user === null) return <SignIn client={client} />;
  return <Workspace key={user.id} client={client} user={user} />;
}
