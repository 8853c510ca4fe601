import { useState, type FormEvent } from "react";
import { useAction } from "./action.ts";
import type { Client } from "./supabase.ts";

/** The form to sign in or to create an account. */
export function SignIn({ client }: { client: Client }) {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [notice, setNotice] = useState<string | null>(null);
  const { run, busy, error } = useAction();

  async function submit(event: FormEvent<HTMLFormElement>): Promise<void> {
    event.preventDefault();
    const submitter = (event.nativeEvent as SubmitEvent).submitter;
    const isNew = submitter instanceof HTMLButtonElement && submitter.value === "sign-up";
    setNotice(null);
    await run(async () => {
      const { data, error } = isNew
        ? await client.auth.signUp({ email, password })
        : await client.auth.signInWithPassword({ email, password });
      if (error !== null) throw error;
      if (data.session === null) setNotice("Check your email to confirm your account, then sign in.");
    });
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
        {error && (
          <p className="error" role="alert">
            {error}
          </p>
        )}
        {notice && (
          <p className="info" role="status">
            {notice}
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
