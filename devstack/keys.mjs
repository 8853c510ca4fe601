// Checks API keys: the opaque publishable and secret keys, and legacy keys, which are JWTs. Used by lite.mjs.

import { createHmac, timingSafeEqual } from "node:crypto";

import { SignJWT, jwtVerify } from "jose";

const same = (one, other) => {
  const digest = (text) => createHmac("sha256", "compare").update(text).digest();
  return timingSafeEqual(digest(one), digest(other));
};

/** Returns a function that maps an API key to its type and claims, or null for an unknown key. */
export function keyHolder({ publishableKey, secretKey, jwtSecret }) {
  const secret = new TextEncoder().encode(jwtSecret);
  return async (key) => {
    if (key === publishableKey) return { type: "publishable", claims: { role: "anon" } };
    if (same(key, secretKey)) return { type: "secret", claims: { role: "service_role" } };
    try {
      const { payload } = await jwtVerify(key, secret, { algorithms: ["HS256"] });
      if (payload.role === "anon") return { type: "publishable", claims: payload };
      if (payload.role === "service_role") return { type: "secret", claims: payload };
    } catch {
      // not a token signed with our secret
    }
    return null;
  };
}

/** Returns a function that, like the hosted gateway, adds a token of the key's role to a request that has only the key. */
export function keyAsToken({ publishableKey, secretKey, jwtSecret }) {
  const secret = new TextEncoder().encode(jwtSecret);
  return async (request) => {
    const key = request.headers.get("apikey") ?? new URL(request.url).searchParams.get("apikey") ?? "";
    const authorization = request.headers.get("authorization");
    if (authorization && authorization !== `Bearer ${key}`) return request;
    const role = same(key, secretKey) ? "service_role" : key === publishableKey ? "anon" : undefined;
    if (!role) return request;
    const token = new SignJWT({ role, iss: "supabase" }).setProtectedHeader({ alg: "HS256", typ: "JWT" });
    const headers = new Headers(request.headers);
    headers.set("authorization", `Bearer ${await token.setIssuedAt().setExpirationTime("5m").sign(secret)}`);
    return new Request(request, { headers });
  };
}
