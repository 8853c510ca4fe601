// The user endpoints of Auth's admin API, which Lite 0.10.0 lacks: create, list, get, update and delete, for tokens with
// the role service_role. Statuses and error codes are GoTrue's. Lite's own service stores and formats users.
// Used by lite.mjs.

import { randomUUID } from "node:crypto";

import { jwtVerify } from "jose";

const USERS = /^\/auth\/v1\/admin\/users(?:\/([^/]+))?$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const UNSUPPORTED = ["phone", "ban_duration", "password_hash", "should_soft_delete"];
const PAGE_SIZE = 50; // GoTrue's default

class Refused extends Error {
  constructor(code, errorCode, msg, more = {}) {
    super(msg);
    this.body = { code, error_code: errorCode, msg, ...more };
  }
}

const unsupported = (feature) => new Refused(501, "not_implemented", `The devstack's Auth does not support ${feature}.`);

/** Middleware for Lite's Auth. `sql` must be able to write to schema auth. */
export function userAdmin({ jwtSecret, sql }) {
  const secret = new TextEncoder().encode(jwtSecret);
  return async (context, next) => {
    const { pathname, searchParams } = new URL(context.req.url);
    if (!pathname.startsWith("/auth/v1/admin/")) return next();
    try {
      await requireAdmin(context.req.header("authorization"), secret);
      const [path, id] = USERS.exec(pathname) ?? [];
      if (!path) throw unsupported("this admin endpoint; only those under /admin/users");
      const service = context.get("authService");
      const { method } = context.req;
      if (id === undefined && method === "GET") return await list(service, sql, searchParams);
      const body = method === "GET" ? {} : await read(context.req.raw);
      if (id === undefined && method === "POST") return Response.json(await create(service, body));
      if (id === undefined || !["GET", "PUT", "DELETE"].includes(method)) return new Response(null, { status: 405 });
      if (!UUID.test(id)) throw new Refused(404, "validation_failed", "user_id must be an UUID");
      const user = await service.repo.findUserById(id);
      if (!user) throw new Refused(404, "user_not_found", "User not found");
      if (method === "PUT") return Response.json(await update(service, user, body));
      if (method === "GET") return Response.json(await service.getUser(id));
      await sql`delete from auth.users where id = ${id}`;
      return Response.json({});
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // Lite responds
      return Response.json(error.body, { status: error.body.code });
    }
  };
}

async function requireAdmin(authorization, secret) {
  const token = /^Bearer (.+)$/i.exec(authorization ?? "")?.[1];
  if (!token) throw new Refused(401, "no_authorization", "This endpoint requires a valid Bearer token");
  const { payload } = await jwtVerify(token, secret, { algorithms: ["HS256"] }).catch((error) => {
    throw new Refused(403, "bad_jwt", `invalid JWT: unable to parse or verify signature, ${error.message}`);
  });
  if (payload.role !== "service_role") throw new Refused(403, "not_admin", "User not allowed");
}

async function read(request) {
  const text = await request.text();
  let body;
  try {
    body = text ? JSON.parse(text) : {};
  } catch (error) {
    throw new Refused(400, "bad_json", `Could not decode admin user params: ${error.message}`);
  }
  for (const name of UNSUPPORTED) if (body[name]) throw unsupported(`"${name}"`);
  return body;
}

async function list(service, sql, query) {
  const [page, size] = [query.get("page") || 1, query.get("per_page") || PAGE_SIZE].map(Number);
  if (![page, size].every((number) => Number.isInteger(number) && number > 0)) {
    throw new Refused(400, "validation_failed", "Bad Pagination Parameters: page and per_page must be positive");
  }
  const rows = await sql`
    select id from auth.users order by created_at desc, id desc limit ${size} offset ${(page - 1) * size}`;
  const [{ total }] = await sql`select count(*)::int as total from auth.users`;
  const users = await Promise.all(rows.map(({ id }) => service.getUser(id)));
  const last = Math.max(1, Math.ceil(total / size));
  const links = [`</admin/users?page=${last}&per_page=${size}>; rel="last"`];
  if (page < last) links.unshift(`</admin/users?page=${page + 1}&per_page=${size}>; rel="next"`);
  const headers = { link: links.join(", "), "x-total-count": String(total) };
  return Response.json({ users, aud: "authenticated" }, { headers });
}

/** Validate an email address and a password before anything is stored. */
async function check(service, { email, password }, id) {
  if (email) {
    const known = await service.repo.findUserByEmail(email.toLowerCase());
    if (known && known.id !== id) {
      throw new Refused(422, "email_exists", "A user with this email address has already been registered");
    }
    if (!/^[^@\s]+@[^@\s]+$/.test(email)) {
      throw new Refused(400, "validation_failed", "Unable to validate email address: invalid format");
    }
  }
  if (password && password.length < 6) {
    const reasons = { weak_password: { reasons: ["length"] } };
    throw new Refused(422, "weak_password", "Password should be at least 6 characters.", reasons);
  }
}

async function create(service, body) {
  if (!body.email) {
    throw new Refused(400, "validation_failed", "Cannot create a user without either an email or phone");
  }
  const id = body.id ?? randomUUID();
  if (!UUID.test(id)) throw new Refused(400, "validation_failed", "ID must conform to the uuid v4 format");
  await check(service, body);
  await service.repo.createUser({
    id,
    email: body.email,
    role: body.role || "authenticated",
    confirmed_at: body.email_confirm ? new Date().toISOString() : null,
    raw_app_meta_data: { provider: "email", providers: ["email"], ...body.app_metadata },
    raw_user_meta_data: { ...body.user_metadata, ...(body.email_confirm && { email_verified: true }) },
  });
  await service.repo.createIdentity({
    id: randomUUID(),
    provider: "email",
    provider_id: id,
    user_id: id,
    identity_data: { email: body.email.toLowerCase(), email_verified: false, phone_verified: false, sub: id },
  });
  return body.password ? service.updateUser(id, { password: body.password }) : service.getUser(id);
}

/** Merge metadata and drop null values, as GoTrue does. */
function merged(old, changes) {
  return Object.fromEntries(Object.entries({ ...old, ...changes }).filter(([, value]) => value !== null));
}

async function update(service, row, body) {
  await check(service, body, row.id);
  const user = service.repo.parseUserJson(row);
  const changes = {};
  if (body.email) changes.email = body.email.toLowerCase();
  if (body.role) changes.role = body.role;
  if (body.email_confirm && !user.confirmed_at) changes.confirmed_at = new Date().toISOString();
  if (body.app_metadata) changes.raw_app_meta_data = merged(user.raw_app_meta_data, body.app_metadata);
  if (body.user_metadata) changes.raw_user_meta_data = merged(user.raw_user_meta_data, body.user_metadata);
  if (body.password) changes.encrypted_password = null; // unlike the user, an admin may set the same password again
  if (Object.keys(changes).length > 0) await service.repo.updateUser(user.id, changes);
  if (changes.email) {
    for (const identity of await service.repo.findIdentitiesByUserId(user.id)) {
      if (identity.provider !== "email") continue;
      const data = { ...identity.identity_data, email: changes.email };
      await service.repo.updateIdentity(identity.id, { identity_data: data });
    }
  }
  return body.password ? service.updateUser(user.id, { password: body.password }) : service.getUser(user.id);
}
