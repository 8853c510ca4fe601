import { useState, type FormEvent, type ReactNode } from "react";
import { useAction } from "./action.ts";
import { codeOf, explained } from "./auth.ts";
import type { Client } from "./supabase.ts";

/** What the form does, each with the name of its button. */
const MODES = { in: "Sign in", up: "Sign up", forgot: "Send the link" } as const;
type Mode = keyof typeof MODES;

const HEADINGS: { [mode in Mode]: string } = {
  in: "Sign in",
  up: "Create an account",
  forgot: "Forgot your password?",
};
/** Supabase's default. A project may ask for more: its refusal says so. */
const SHORTEST_PASSWORD = 6;

interface Props {
  client: Client;
  /** Why a link of an email did not work. */
  linkError: string | null;
  /** Called when the user goes on. */
  onTry(): void;
}

interface FormProps extends Props {
  mode: Mode;
  email: string;
  password: string;
  onEmail(email: string): void;
  onPassword(password: string): void;
  onOpen(mode: Mode): void;
}

/** The form to sign in, to create an account, or to ask for a new password. What is typed is kept between them. */
export function SignIn(props: Props) {
  const [mode, setMode] = useState<Mode>("in");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const open = (next: Mode): void => {
    setMode(next);
    props.onTry();
  };
  // a form of its own for each, so that a late answer is not shown in another
  const form = { ...props, mode, email, password, onEmail: setEmail, onPassword: setPassword, onOpen: open };
  return <Form key={mode} {...form} />;
}

function Form({ client, linkError, mode, email, password, onTry, onEmail, onPassword, onOpen }: FormProps) {
  const [notice, setNotice] = useState<string | null>(null);
  /** The address that is not confirmed yet. */
  const [unconfirmed, setUnconfirmed] = useState<string | null>(null);
  const { run, busy, error } = useAction();
  const redirectTo = location.origin + location.pathname;

  const actions: { [mode in Mode]: () => Promise<void> } = {
    async in() {
      const { error: refused } = await client.auth.signInWithPassword({ email, password });
      if (codeOf(refused) === "email_not_confirmed") setUnconfirmed(email);
      if (refused !== null) throw explained(refused);
    },
    async up() {
      const { data, error: refused } = await client.auth.signUp({
        email,
        password,
        options: { emailRedirectTo: redirectTo },
      });
      if (refused !== null) throw explained(refused);
      if (data.session !== null) return;
      setUnconfirmed(email);
      setNotice(`We have sent a link to ${email}. Open it to confirm your address.`);
    },
    async forgot() {
      const { error: refused } = await client.auth.resetPasswordForEmail(email, { redirectTo });
      // only an account that exists gets too many emails: do not tell
      if (refused !== null && codeOf(refused) !== "over_email_send_rate_limit") throw explained(refused);
      setNotice(`If ${email} has an account, we have sent it a link to choose a new password.`);
    },
  };

  async function confirmAgain(address: string): Promise<void> {
    const { error: refused } = await client.auth.resend({
      type: "signup",
      email: address,
      options: { emailRedirectTo: redirectTo },
    });
    if (refused !== null) throw explained(refused);
    setNotice(`We have sent another link to ${address}.`);
  }

  function submit(event: FormEvent): void {
    event.preventDefault();
    if (busy) return;
    setNotice(null);
    setUnconfirmed(null);
    onTry();
    void run(actions[mode]);
  }

  return (
    <Card title={HEADINGS[mode]} onSubmit={submit}>
      {(error ?? linkError) && (
        <p className="error" role="alert">
          {error ?? linkError}
        </p>
      )}
      {mode === "forgot" && <p className="muted">Enter your email address, and we send you a link.</p>}
      <label>
        Email
        <input
          type="email"
          name="email"
          autoComplete={mode === "forgot" ? "email" : "username"}
          required
          autoFocus
          value={email}
          onChange={(event) => onEmail(event.target.value)}
        />
      </label>
      {mode !== "forgot" && (
        <PasswordField
          label="Password"
          isNew={mode === "up"}
          value={password}
          onChange={onPassword}
        />
      )}
      {notice && (
        <p className="info" role="status">
          {notice}
        </p>
      )}
      <button className="primary" disabled={busy}>
        {MODES[mode]}
      </button>
      {unconfirmed !== null && (
        <button type="button" disabled={busy} onClick={() => void run(() => confirmAgain(unconfirmed))}>
          Send the confirmation again
        </button>
      )}
      {mode === "in" && (
        <p className="links">
          <button type="button" className="quiet small" onClick={() => onOpen("forgot")}>
            Forgot your password?
          </button>
        </p>
      )}
      <p className="links">
        <span className="muted">{mode === "in" ? "New here?" : "Have an account?"}</span>
        <button type="button" className="quiet small" onClick={() => onOpen(mode === "in" ? "up" : "in")}>
          {mode === "in" ? MODES.up : MODES.in}
        </button>
      </p>
    </Card>
  );
}

/** The form for a new password, for a user who came by a link of a recovery email. */
export function NewPassword({ client, email, onDone }: { client: Client; email: string; onDone(): void }) {
  const [password, setPassword] = useState("");
  const { run, busy, error } = useAction();

  async function change(): Promise<void> {
    const { error: refused } = await client.auth.updateUser({ password });
    if (refused !== null) throw explained(refused);
    onDone();
  }

  function submit(event: FormEvent): void {
    event.preventDefault();
    if (!busy) void run(change);
  }

  return (
    <Card title="Choose a new password" onSubmit={submit}>
      {error && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      {/* tells password managers whose password it is */}
      <input className="visually-hidden" type="email" autoComplete="username" value={email} readOnly tabIndex={-1} aria-hidden />
      <PasswordField label="New password" isNew value={password} onChange={setPassword} autoFocus />
      <button className="primary" disabled={busy}>
        Save the password
      </button>
      <p className="links">
        <button type="button" className="quiet small" onClick={onDone}>
          Keep the old one
        </button>
      </p>
    </Card>
  );
}

interface CardProps {
  title: string;
  children: ReactNode;
  onSubmit(event: FormEvent): void;
}

function Card({ title, children, onSubmit }: CardProps) {
  return (
    <main className="sign-in">
      <form className="card" onSubmit={onSubmit}>
        <p className="brand">
          <img src="./icon.svg" alt="" width="44" height="44" />
          <span>Bridge chat</span>
        </p>
        <h1>{title}</h1>
        {children}
      </form>
    </main>
  );
}

interface PasswordProps {
  label: string;
  /** Whether the user chooses it now. */
  isNew: boolean;
  value: string;
  autoFocus?: boolean;
  onChange(value: string): void;
}

function PasswordField({ label, isNew, value, autoFocus, onChange }: PasswordProps) {
  return (
    <label>
      {label}
      <input
        type="password"
        name="password"
        autoComplete={isNew ? "new-password" : "current-password"}
        required
        minLength={isNew ? SHORTEST_PASSWORD : undefined}
        aria-describedby={isNew ? "password-hint" : undefined}
        autoFocus={autoFocus}
        value={value}
        onChange={(event) => onChange(event.target.value)}
      />
      {isNew && (
        <span id="password-hint" className="muted">
          At least {SHORTEST_PASSWORD} characters.
        </span>
      )}
    </label>
  );
}
