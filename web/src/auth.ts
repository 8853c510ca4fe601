/** What Auth's links and errors tell the page. */

import { isAuthError, isAuthRetryableFetchError } from "@supabase/supabase-js";

/**
 * Why the link that the page was opened with is no good, or null. It is read before the client starts, and removed from
 * the address, so that a reload does not show it again. (The client itself reads and removes tokens.)
 */
export const linkError = takeLinkError();

/**
 * Whether the page was opened with the link of a recovery email. Auth tells all tabs of it, and only this one may ask for
 * the new password.
 */
export const isRecovery = new URLSearchParams(location.hash.slice(1)).get("type") === "recovery";

function takeLinkError(): string | null {
  const found = [location.hash.slice(1), location.search].map((text) => new URLSearchParams(text));
  const parameters = found.find((some) => some.has("error") || some.has("error_code"));
  if (parameters === undefined) return null;
  history.replaceState(null, "", location.pathname);
  return sentenceOf(parameters);
}

function sentenceOf(parameters: URLSearchParams): string {
  if (parameters.get("error_code") === "otp_expired") {
    return "This link has expired or was used before. Ask for a new one.";
  }
  return `This link did not work: ${parameters.get("error_description") || "Auth gave no reason"}`;
}

export function codeOf(error: unknown): string | undefined {
  return isAuthError(error) ? error.code : undefined;
}

/** An error whose message can be shown. */
export function explained(error: Error): Error {
  return isAuthRetryableFetchError(error) && error.status === 0 ? new Error("Could not reach the server.") : error;
}
