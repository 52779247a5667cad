-- The floor of PAM: three schemas, the login roles, and how a refusal is spoken.
-- Runs as `postgres`, which is no superuser on a hosted project; uses PostgreSQL 17 features only.

create schema pam;
create schema pam_worker;
create schema pam_private;
comment on schema pam is 'PAM: tables under row-level security, and the functions that a browser may call.';
comment on schema pam_worker is 'PAM: verbs that only the worker''s login may call.';
comment on schema pam_private is 'PAM: what policies and verbs stand on. Nobody calls it by name but its owner, and pam_agent_sql its bind().';
revoke all on schema pam, pam_worker, pam_private from public;

-- Roles belong to the cluster: another database may have made them already.
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'pam_worker') then
    create role pam_worker login noinherit;
  end if;
  if not exists (select from pg_catalog.pg_roles where rolname = 'pam_sweeper') then
    create role pam_sweeper login noinherit;
  end if;
  if not exists (select from pg_catalog.pg_roles where rolname = 'pam_agent') then
    create role pam_agent nologin;
  end if;
  if not exists (select from pg_catalog.pg_roles where rolname = 'pam_agent_sql') then
    create role pam_agent_sql login noinherit;
    grant pam_agent to pam_agent_sql with inherit false, set true;
  end if;
end $$;
grant usage on schema pam to anon, authenticated;
grant usage on schema pam_worker to pam_worker, pam_sweeper;
grant usage on schema pam_private to pam_agent_sql;

-- What PAM must know about its surroundings; set by `pam install`, read by verbs only.
create table pam_private.settings (
  name text primary key,
  value text not null
);
comment on table pam_private.settings is 'webhook_url and webhook_secret: where a queued run is announced, and the key that signs it. logins_made_at: when the logins got their passwords.';
alter table pam_private.settings enable row level security;
alter table pam_private.settings force row level security;

create table pam_private.migrations (
  version text primary key,
  name text not null,
  sha256 text not null,
  applied_at timestamptz not null default now()
);
comment on table pam_private.migrations is 'PAM''s own migration history, so that a project''s `db push` never trips over it.';
alter table pam_private.migrations enable row level security;
alter table pam_private.migrations force row level security;

create function pam_private.refusal(code text, message text) returns jsonb
language sql immutable set search_path = '' as
$$ select jsonb_build_object('refused', jsonb_build_object('code', code, 'message', message)) $$;
comment on function pam_private.refusal is 'How a verb says no: returned, never raised, so that its audit row stays.';

-- RFC 2104 over the built-in sha256(): hosted has pgcrypto's hmac(), a plain server has not.
create function pam_private.hmac_sha256(key bytea, message bytea) returns bytea
language plpgsql immutable strict set search_path = '' as
$$
declare
  block bytea := case when length(key) > 64 then sha256(key) else key end;
  inner_pad bytea := '';
  outer_pad bytea := '';
begin
  block := block || decode(repeat('00', 64 - length(block)), 'hex');
  for n in 0..63 loop
    inner_pad := inner_pad || set_byte('\x00'::bytea, 0, get_byte(block, n) # 54);
    outer_pad := outer_pad || set_byte('\x00'::bytea, 0, get_byte(block, n) # 92);
  end loop;
  return sha256(outer_pad || sha256(inner_pad || message));
end $$;
comment on function pam_private.hmac_sha256 is 'HMAC-SHA256 (RFC 2104; vectors of RFC 4231 in the tests).';

revoke execute on all functions in schema pam_private from public, anon, service_role;
