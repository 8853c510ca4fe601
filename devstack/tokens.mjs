// Access tokens with the claims that the hosted Auth gives them, which policies read by auth.jwt(): Lite's have but a
// part of them. Used by lite.mjs.

import { SignJWT, decodeJwt } from "jose";

/** A middleware of Lite's Auth: what it answers with an access token gets a whole one. `sql` may read the schema auth. */
export function wholeTokens({ jwtSecret, siteUrl, sql }) {
  const secret = new TextEncoder().encode(jwtSecret);
  return async (context, next) => {
    await next();
    const answer = context.res;
    if (answer.status !== 200 || !answer.headers.get("content-type")?.startsWith("application/json")) return;
    const body = await answer.clone().json();
    if (typeof body?.access_token !== "string" || !body.user) return;
    const claims = decodeJwt(body.access_token);
    const [session] = await sql`select created_at from auth.sessions where id = ${claims.session_id}`;
    const signedIn = Math.floor(Date.parse(session?.created_at ?? new Date()) / 1000);
    const { phone, app_metadata, user_metadata, is_anonymous } = body.user;
    const whole = {
      ...{ ...claims, iss: `${siteUrl}/auth/v1`, phone: phone ?? "", app_metadata, user_metadata },
      ...{ aal: "aal1", amr: [{ method: "password", timestamp: signedIn }], is_anonymous: is_anonymous ?? false },
    };
    const token = await new SignJWT(whole).setProtectedHeader({ alg: "HS256", typ: "JWT" }).sign(secret);
    context.res = undefined; // else its headers would be joined
    context.res = Response.json({ ...body, access_token: token }, { headers: withoutLength(answer.headers) });
  };
}

function withoutLength(headers) {
  const kept = new Headers(headers);
  kept.delete("content-length");
  return kept;
}
