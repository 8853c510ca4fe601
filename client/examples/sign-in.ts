import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import type { Database } from "supabase-baml-bridge-client";

export const supabase: SupabaseClient<Database> = createClient(
  import.meta.env["VITE_SUPABASE_URL"],
  import.meta.env["VITE_SUPABASE_PUBLISHABLE_KEY"],
);

/** The id of the session in the page's URL, or of a new one. Shows a sign-in form first if necessary. */
export async function currentSession(values: { title: string; function?: string }): Promise<string> {
  const { data } = await supabase.auth.getSession();
  if (data.session === null) await signIn();
  if (location.hash === "") {
    const { data: row, error } = await supabase.from("sessions").insert(values).select().single();
    if (error) throw error;
    location.hash = row.id;
  }
  return location.hash.slice(1);
}

async function signIn(): Promise<void> {
  const form = document.createElement("form");
  form.innerHTML = `<label>Email <input name="email" type="email" required /></label>
    <label>Password <input name="password" type="password" required /></label>
    <button value="in">Sign in</button> <button value="up">Sign up</button> <p role="alert"></p>`;
  document.body.prepend(form);
  await new Promise<void>((done) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const { email, password } = Object.fromEntries(new FormData(form)) as Record<string, string>;
      const credentials = { email: email!, password: password! };
      const isNew = (event.submitter as HTMLButtonElement).value === "up";
      const { data, error } = await (isNew
        ? supabase.auth.signUp(credentials)
        : supabase.auth.signInWithPassword(credentials));
      if (data.session !== null) done();
      else form.querySelector("p")!.textContent = error?.message ?? "Check your email to confirm your account, then sign in.";
    });
  });
  form.remove();
}
