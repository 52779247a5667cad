-- What a hosted Supabase project has before PAM comes: roles, schemas, Realtime's tables, pg_net's face.
-- Applied by the superuser `supabase_admin`; safe to repeat. Then comes `lite/launch.ts schema`, then
-- platform_after_auth.sql. Shapes follow supabase/postgres, supabase/realtime and pg_net as published.
-- Passwords are not set here: whoever starts the cluster sets them.
set client_min_messages = warning;

-- ---- roles ---------------------------------------------------------------------------------------------
do $$
declare wanted record;
begin
  for wanted in
    select * from (values
      ('postgres',               'login createrole createdb replication bypassrls'),
      ('anon',                   'nologin'),
      ('authenticated',          'nologin'),
      ('service_role',           'nologin bypassrls'),
      ('authenticator',          'login noinherit'),
      ('supabase_auth_admin',    'nologin noinherit createrole'),
      ('supabase_realtime_admin','nologin noinherit'),
      ('supabase_lite',          'login')
    ) as r(name, attributes)
  loop
    if not exists (select from pg_roles where rolname = wanted.name) then
      execute format('create role %I', wanted.name);
    end if;
    execute format('alter role %I nosuperuser %s', wanted.name, wanted.attributes);
  end loop;
end $$;

grant anon, authenticated, service_role to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
grant supabase_realtime_admin to postgres with inherit true, set true;  -- policies on realtime.messages
grant anon, authenticated, service_role to authenticator with inherit false, set true;

-- @supabase/lite has one connection for Auth and PostgREST, so one login stands for hosted's `authenticator`
-- and `supabase_auth_admin` together. It inherits the request roles' grants (not their bypassrls) because
-- lite finds tables in information_schema, which shows a login only what it may touch.
grant anon, authenticated, service_role to supabase_lite with inherit true, set true;
grant supabase_auth_admin to supabase_lite with inherit true, set false;

alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role supabase_lite set statement_timeout = '8s';
alter role supabase_lite set search_path = public, extensions;
alter role postgres set search_path = "$user", public, extensions;

-- ---- schemas -------------------------------------------------------------------------------------------
do $$
begin
  execute format('alter database %I owner to postgres', current_database());
end $$;
create schema if not exists auth;
create schema if not exists extensions;
create schema if not exists realtime;
create schema if not exists net;
grant usage, create on schema public to postgres;
grant usage on schema public to anon, authenticated, service_role;
grant usage on schema auth, realtime to anon, authenticated, service_role, postgres;
grant all on schema auth to supabase_auth_admin;
grant all on schema realtime to supabase_realtime_admin;
grant all on schema extensions to postgres with grant option;
grant usage on schema extensions, net to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on functions to anon, authenticated, service_role;

do $$
begin
  if exists (select from pg_available_extensions where name = 'vector') then  -- PostgreSQL 17 of the tests has none
    create extension if not exists vector with schema extensions;
  end if;
end $$;
create extension if not exists pg_trgm with schema extensions;
create extension if not exists pg_stat_statements with schema extensions;

-- ---- Realtime ------------------------------------------------------------------------------------------
create table if not exists realtime.messages (
  id uuid not null default gen_random_uuid(),
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  inserted_at timestamp without time zone not null default now(),
  updated_at timestamp without time zone not null default now(),
  primary key (id, inserted_at)
) partition by range (inserted_at);
create table if not exists realtime.messages_default partition of realtime.messages default;
create index if not exists messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
  where extension = 'broadcast' and private is true;
alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages_default owner to supabase_realtime_admin;
alter table realtime.messages enable row level security;
alter table realtime.messages_default enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;
grant all on realtime.messages to postgres;

create or replace function realtime.topic() returns text
language sql stable as $$ select nullif(current_setting('realtime.topic', true), '')::text $$;

-- Its own subtransaction, and every error a WARNING: a message that fails must not undo the caller's work.
create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
returns void language plpgsql as $$
declare
  generated_id uuid;
  final_payload jsonb;
begin
  begin
    generated_id := gen_random_uuid();
    if payload ? 'id' then
      final_payload := payload;
    else
      final_payload := jsonb_set(payload, '{id}', to_jsonb(generated_id));
    end if;
    execute format('set local realtime.topic to %L', topic);
    insert into realtime.messages (id, payload, event, topic, private, extension)
    values (generated_id, final_payload, event, topic, private, 'broadcast');
  exception when others then
    raise warning 'ErrorSendingBroadcastMessage: %', sqlerrm;
  end;
end $$;

create or replace function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text default 'ROW'
) returns void language plpgsql as $$
declare
  row_data jsonb := '{}'::jsonb;
begin
  if level = 'STATEMENT' then
    raise exception 'function can only be triggered for each row, not for each statement';
  end if;
  if operation not in ('INSERT', 'UPDATE', 'DELETE') then
    raise exception 'Unexpected operation type: %', operation;
  end if;
  row_data := jsonb_build_object('old_record', old, 'record', new, 'operation', operation,
                                 'table', table_name, 'schema', table_schema);
  perform realtime.send(row_data, event_name, topic_name);
exception when others then
  raise exception 'Failed to process the row: %', sqlerrm;
end $$;

-- Hosted Realtime reads the write-ahead log; the stand-in is told the id only, for NOTIFY holds 8000 bytes.
-- A probe for rights rolls back, and its notice with it.
create or replace function realtime.announce_message() returns trigger
language plpgsql set search_path = '' as $$
begin
  perform pg_catalog.pg_notify('realtime_messages', new.id::text);
  return null;
end $$;
create or replace trigger announce_message after insert on realtime.messages
  for each row when (new.extension = 'broadcast' and new.event is not null)
  execute function realtime.announce_message();

-- ---- pg_net --------------------------------------------------------------------------------------------
-- Unlogged as the real one: a crash empties the queue, which is why a database webhook is at most once.
create unlogged table if not exists net.http_request_queue (
  id bigint generated by default as identity primary key,
  method text not null,
  url text not null,
  headers jsonb,
  body bytea,
  timeout_milliseconds int not null
);
create unlogged table if not exists net._http_response (
  id bigint,
  status_code integer,
  content_type text,
  headers jsonb,
  content text,
  timed_out boolean,
  error_msg text,
  created timestamptz not null default now()
);
create index if not exists http_response_created_index on net._http_response (created);
grant all on net.http_request_queue, net._http_response to postgres;

create or replace function net._urlencode_string(string text) returns text
language sql immutable strict parallel safe set search_path = pg_catalog as $$
  select coalesce(string_agg(
    case when letter ~ '^[A-Za-z0-9_.~-]$' then letter
         else regexp_replace(upper(encode(convert_to(letter, 'UTF8'), 'hex')), '(..)', '%\1', 'g') end,
    '' order by position), '')
  from regexp_split_to_table(string, '') with ordinality as letters(letter, position)
$$;

-- Security definer, as hosted grants it to every API role (a project's `postgres` cannot take that away).
create or replace function net.http_post(
  url text,
  body jsonb default '{}'::jsonb,
  params jsonb default '{}'::jsonb,
  headers jsonb default '{"Content-Type": "application/json"}'::jsonb,
  timeout_milliseconds int default 5000
) returns bigint language plpgsql security definer set search_path = '' as $$
declare
  request_id bigint;
  content_type text;
  query text;
begin
  select h.value into content_type from jsonb_each_text(coalesce(headers, '{}')) as h
  where lower(h.key) = 'content-type' limit 1;
  if content_type is null then
    headers := coalesce(headers, '{}') || '{"Content-Type": "application/json"}';
  elsif content_type <> 'application/json' then
    raise exception 'Content-Type header must be "application/json"';
  end if;
  select string_agg(net._urlencode_string(p.key) || '=' || net._urlencode_string(p.value), '&') into query
  from jsonb_each_text(params) as p;
  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values ('POST', url || coalesce(case when strpos(url, '?') > 0 then '&' else '?' end || query, ''), headers,
          convert_to(body::text, 'UTF8'), timeout_milliseconds)
  returning id into request_id;
  perform pg_catalog.pg_notify('net_requests', '');
  return request_id;
end $$;
revoke all on function net.http_post(text, jsonb, jsonb, jsonb, int) from public;
grant execute on function net.http_post(text, jsonb, jsonb, jsonb, int)
  to postgres, anon, authenticated, service_role;
