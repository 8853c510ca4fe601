// Adds the claims of hosted access tokens that Lite's tokens lack; policies read them with auth.jwt(). Used by lite.mjs.

import { SignJWT, decodeJwt } from "jose";

/** Middleware for Lite's Auth that completes the access token in a response. `sql` must be able to read schema auth. */
export function completeTokens({ jwtSecret, siteUrl, sql }) {
  const secret = new TextEncoder().encode(jwtSecret);
  async function complete(token, user, method) {
    const claims = decodeJwt(token);
    const [session] = await sql`select created_at from auth.sessions where id = ${claims.session_id}`;
    const signedIn = Math.floor(Date.parse(session?.created_at ?? new Date()) / 1000);
    const { phone, app_metadata, user_metadata, is_anonymous } = user;
    const complete = {
      ...{ ...claims, iss: `${siteUrl}/auth/v1`, phone: phone ?? "", app_metadata, user_metadata },
      ...{ aal: "aal1", amr: [{ method, timestamp: signedIn }], is_anonymous: is_anonymous ?? false },
    };
    return new SignJWT(complete).setProtectedHeader({ alg: "HS256", typ: "JWT" }).sign(secret);
  }

  /** The response with another body or address. */
  function replace(context, response) {
    context.res = undefined; // otherwise Hono merges the old headers into the new response
    context.res = response;
  }

  return async (context, next) => {
    await next();
    const response = context.res;
    if (response.status === 303) {
      // the link of an email
      const [page, fragment] = (response.headers.get("location") ?? "").split("#");
      const values = new URLSearchParams(fragment);
      const token = values.get("access_token");
      if (!token) return;
      const user = await context.get("authService").getUser(decodeJwt(token).sub);
      values.set("access_token", await complete(token, user, "otp"));
      const headers = withoutLength(response.headers);
      headers.set("location", `${page}#${values}`);
      return replace(context, new Response(null, { status: 303, headers }));
    }
    if (response.status !== 200 || !response.headers.get("content-type")?.startsWith("application/json")) return;
    const body = await response.clone().json();
    if (typeof body?.access_token !== "string" || !body.user) return;
    const token = await complete(body.access_token, body.user, "password");
    replace(
      context,
      Response.json({ ...body, access_token: token }, { headers: withoutLength(response.headers) }),
    );
  };
}

function withoutLength(headers) {
  const kept = new Headers(headers);
  kept.delete("content-length");
  return kept;
}
