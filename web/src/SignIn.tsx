import { useState, type FormEvent } from "react";
import { messageOf } from "./errors.ts";
import type { Client } from "./supabase.ts";

/** Email and password, for a new account or an existing one. */
export function SignIn({ client }: { client: Client }) {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const [notice, setNotice] = useState<{ kind: "error" | "info"; text: string } | null>(null);

  async function submit(event: FormEvent<HTMLFormElement>): Promise<void> {
    event.preventDefault();
    const submitter = (event.nativeEvent as SubmitEvent).submitter;
    const isNew = submitter instanceof HTMLButtonElement && submitter.value === "sign-up";
    setBusy(true);
    setNotice(null);
    try {
      const { data, error } = isNew
        ? await client.auth.signUp({ email, password })
        : await client.auth.signInWithPassword({ email, password });
      if (error !== null) setNotice({ kind: "error", text: error.message });
      else if (data.session === null) {
        setNotice({ kind: "info", text: "We sent you an email: follow its link, then sign in." });
      }
    } catch (reason) {
      setNotice({ kind: "error", text: messageOf(reason) });
    } finally {
      setBusy(false);
    }
  }

  return (
    <main className="sign-in">
      <form className="card" onSubmit={(event) => void submit(event)}>
        <img src="./icon.svg" alt="" width="44" height="44" />
        <h1>Bridge chat</h1>
        <p className="muted">Sign in, or sign up with a new email and password.</p>
        <label>
          Email
          <input
            type="email"
            autoComplete="email"
            required
            autoFocus
            value={email}
            onChange={(event) => setEmail(event.target.value)}
          />
        </label>
        <label>
          Password
          <input
            type="password"
            autoComplete="current-password"
            required
            value={password}
            onChange={(event) => setPassword(event.target.value)}
          />
        </label>
        {notice && (
          <p className={notice.kind} role={notice.kind === "error" ? "alert" : "status"}>
            {notice.text}
          </p>
        )}
        <div className="row">
          <button className="primary" disabled={busy} value="sign-in">
            Sign in
          </button>
          <button disabled={busy} value="sign-up">
            Sign up
          </button>
        </div>
      </form>
    </main>
  );
}
