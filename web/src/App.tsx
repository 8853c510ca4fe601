import { useEffect, useRef, useState } from "react";
import type { User } from "@supabase/supabase-js";
import { NewPassword, SignIn } from "./SignIn.tsx";
import { Workspace } from "./Workspace.tsx";
import { isRecovery, linkError } from "./auth.ts";
import { forgetDrafts } from "./draft.ts";
import type { Client } from "./supabase.ts";

/** The sign-in form, or the workspace of the signed-in user. */
export function App({ client }: { client: Client }) {
  const [user, setUser] = useState<User | null | undefined>(undefined);
  /** Whether the user came by the link of a recovery email, and has not chosen a password yet. */
  const [recovering, setRecovering] = useState(false);
  const expected = useRef(isRecovery);
  const [problem, setProblem] = useState(linkError);

  useEffect(() => {
    let last: string | undefined;
    const { data } = client.auth.onAuthStateChange((event, session) => {
      const next = session?.user.id;
      // also when it happened in another tab
      if (event === "SIGNED_OUT" || (last !== undefined && next !== last)) forgetDrafts();
      last = next;
      if (event === "PASSWORD_RECOVERY" && expected.current) {
        expected.current = false;
        setRecovering(true);
      }
      if (event === "SIGNED_OUT") setRecovering(false);
      setUser(session?.user ?? null);
    });
    return () => data.subscription.unsubscribe();
  }, [client]);

  if (user === undefined) return null; // the stored session is still loading
  if (user === null) return <SignIn client={client} linkError={problem} onTry={() => setProblem(null)} />;
  if (recovering) {
    return <NewPassword client={client} email={user.email ?? ""} onDone={() => setRecovering(false)} />;
  }
  return (
    <>
      <Workspace key={user.id} client={client} user={user} />
      {problem && (
        <p className="toast error" role="alert">
          <span>{problem}</span>
          <button className="quiet small" onClick={() => setProblem(null)}>
            Close
          </button>
        </p>
      )}
    </>
  );
}
