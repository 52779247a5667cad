/**
 * Auth and PostgREST of the embedded stack: Supabase's own @supabase/lite, with the repairs real clients need.
 *
 * `launch.ts schema` prints the SQL of lite's auth tables; `launch.ts serve` answers /auth/v1 and /rest/v1 on
 * 127.0.0.1:PORT and prints one line when it listens. Reads PORT, DATABASE_URL, PUBLIC_URL, JWT_SECRET,
 * SUPABASE_PUBLISHABLE_KEY and SUPABASE_SECRET_KEY.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { decodeJwt, SignJWT } from "jose";
import postgres from "postgres";
import { App, getAuthSchemaSql } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";

const SCHEMAS = ["public", "pam"];
const JWT_SECONDS = 3600;

type DatabaseError = { code?: string; message?: string; detail?: string; hint?: string };
type Session = { access_token?: string; user?: Record<string, unknown> };

function required(name: string): string {
  const value = Deno.env.get(name);
  if (!value) throw new Error(`set ${name}: launch.ts cannot serve without it`);
  return value;
}

/** "2026-11-22 17:09:27.87+00" → "2026-11-22T17:09:27.87+00:00", which PostgREST sends and supabase-py parses. */
function isoTime(text: string): string {
  return text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00");
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** PostgREST's status for an SQLSTATE that lite answers with a bare 500 (docs.postgrest.org, "Errors"). */
function statusOf(code: string): number {
  if (code === "25006") return 405;
  if (code === "P0001") return 400;
  if (/^(08|53)/.test(code)) return code === "53400" ? 500 : 503;
  if (/^(0L|0P|28)/.test(code)) return 403;
  if (/^(09|25|2D|38|39|3B|40|54|55|57|58|F0|HV|P0|XX)/.test(code)) return 500;
  return 400;
}

/** lite's tokens lack what Auth's carry; the same claims are signed again with the same secret, plus those. */
async function completeSession(session: Session, issuer: string, secret: Uint8Array): Promise<Session> {
  if (!session.access_token || !session.user) return session;
  const { user } = session;
  const claims = decodeJwt(session.access_token);
  const token = await new SignJWT({
    ...claims,
    iss: issuer,
    phone: user.phone ?? "",
    app_metadata: user.app_metadata ?? {},
    user_metadata: user.user_metadata ?? {},
    aal: "aal1",
    amr: [{ method: "password", timestamp: claims.iat }],
    is_anonymous: user.is_anonymous ?? false,
  }).setProtectedHeader({ alg: "HS256", typ: "JWT" }).sign(secret);
  return { ...session, access_token: token };
}

function json(body: unknown, status: number, from: Response): Response {
  const headers = new Headers(from.headers);
  headers.delete("content-length");
  headers.set("content-type", "application/json; charset=utf-8");
  return new Response(JSON.stringify(body), { status, headers });
}

function serve(): void {
  const databaseUrl = required("DATABASE_URL");
  const jwtSecret = required("JWT_SECRET");
  const issuer = `${required("PUBLIC_URL")}/auth/v1`;
  const secret = new TextEncoder().encode(jwtSecret);
  const failures = new AsyncLocalStorage<{ error?: DatabaseError }>();

  const time = (type: number) => ({
    to: type,
    from: [type],
    serialize: (value: unknown) => value instanceof Date ? value.toISOString() : value,
    parse: isoTime,
  });
  // lite gives json as text already; postgres.js would quote that text once more.
  const jsonText = (type: number) => ({
    to: type,
    from: [type],
    serialize: (value: unknown) => typeof value === "string" && isJson(value) ? value : JSON.stringify(value),
    parse: (text: string) => JSON.parse(text),
  });
  const connection = createPostgresConnection({
    url: databaseUrl,
    postgresOptions: {
      max: 10,
      onnotice() {},
      types: { timestamptz: time(1184), timestamp: time(1114), json: jsonText(114), jsonb: jsonText(3802) },
    },
  });
  // Before its first request lite would grant ALL on every table of every schema with RLS to the API roles, or,
  // finding no such table, never set a role at all. The state it keeps for that is set to "done" instead.
  Object.assign(connection, { rlsState: "active" });
  const normalize = connection.normalizeDbError.bind(connection);
  connection.normalizeDbError = (error: unknown) => {
    const normalized = normalize(error) as DatabaseError;
    const failure = failures.getStore();
    if (failure) failure.error = normalized;
    return normalized;
  };

  const app = new App({
    connection,
    api: { enabled: true, schemas: SCHEMAS, extra_search_path: ["public", "extensions"], max_rows: 1000 },
    auth: {
      enabled: true,
      jwt_secret: jwtSecret,
      jwt_expiry: JWT_SECONDS,
      enable_signup: true,
      publishable_key: required("SUPABASE_PUBLISHABLE_KEY"),
      secret_key: required("SUPABASE_SECRET_KEY"),
      email: { enable_signup: true, enable_confirmations: false },
    },
    storage: { enabled: false },
    options: { server: { admin: false, disableStudio: true, disableFallback: true } },
  });

  // `notify pgrst, 'reload schema'` works as hosted: a migration needs no restart.
  const listener = postgres(databaseUrl, { max: 1, onnotice() {} });
  const reload = () => connection.clearSchemaCache();
  listener.listen("pgrst", reload, reload).catch((error) =>
    console.log(`lite cannot listen: ${error.message}`)
  );

  // lite prints every database error whole, row values included: keep the code, drop the content.
  console.error = (...things: unknown[]) =>
    console.log("lite:", ...things.map((thing) => (thing as DatabaseError)?.code ?? String(thing)));

  async function answer(request: Request, peer: string): Promise<Response> {
    const failure: { error?: DatabaseError } = {};
    const response = await failures.run(failure, () => app.fetch(request, { peerAddress: peer }));
    if (!response.headers.get("content-type")?.includes("json")) return response;
    const { error } = failure;
    if (response.status === 500 && error?.code && /^[0-9A-Z]{5}$/.test(error.code)) {
      const { code, message, detail = null, hint = null } = error;
      await response.body?.cancel();
      return json({ code, message, details: detail, hint }, statusOf(code), response);
    }
    if (response.ok && new URL(request.url).pathname.startsWith("/auth/v1/")) {
      return json(await completeSession(await response.json(), issuer, secret), response.status, response);
    }
    return response;
  }

  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: Number(required("PORT")),
    onListen: ({ port }) => console.log(`lite listens on 127.0.0.1:${port}`),
  }, (request, info) => answer(request, info.remoteAddr.hostname));
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(signal, async () => {
      await server.shutdown();
      await Promise.allSettled([connection.close(), listener.end({ timeout: 1 })]);
      Deno.exit(0);
    });
  }
}

switch (Deno.args[0]) {
  case "schema":
    console.log(getAuthSchemaSql(true));
    break;
  case "serve":
    serve();
    break;
  default:
    console.log("usage: launch.ts schema | serve");
    Deno.exit(2);
}
