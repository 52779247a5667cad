-- Repairs of @supabase/lite's auth schema and the grants hosted gives on it; applied by `supabase_admin`
-- after the SQL that `lite/launch.ts schema` prints. Safe to repeat.
set client_min_messages = warning;

-- The claims helpers as hosted has them: lite's own read one old setting only, so that anything which sets
-- just request.jwt.claims (Realtime, a test) would be nobody.
create or replace function auth.uid() returns uuid language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
$$;
create or replace function auth.role() returns text language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
  )::text
$$;
create or replace function auth.email() returns text language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email')
  )::text
$$;
create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;

-- lite stores these as a JSON string inside jsonb; unwrapped, `raw_user_meta_data ->> 'name'` works in SQL.
create or replace function auth.unwrap_user_json() returns trigger language plpgsql set search_path = '' as $$
begin
  if jsonb_typeof(new.raw_app_meta_data) = 'string' then
    new.raw_app_meta_data := (new.raw_app_meta_data #>> '{}')::jsonb;
  end if;
  if jsonb_typeof(new.raw_user_meta_data) = 'string' then
    new.raw_user_meta_data := (new.raw_user_meta_data #>> '{}')::jsonb;
  end if;
  return new;
end $$;
create or replace trigger unwrap_user_json before insert or update on auth.users
  for each row execute function auth.unwrap_user_json();

create or replace function auth.unwrap_identity_json() returns trigger language plpgsql set search_path = '' as $$
begin
  if jsonb_typeof(new.identity_data) = 'string' then
    new.identity_data := (new.identity_data #>> '{}')::jsonb;
  end if;
  return new;
end $$;
create or replace trigger unwrap_identity_json before insert or update on auth.identities
  for each row execute function auth.unwrap_identity_json();

-- Hosted: Auth's own role owns its tables, and RLS without a policy keeps everyone else out.
do $$
declare relation regclass;
begin
  for relation in
    select c.oid::regclass from pg_class c where c.relnamespace = 'auth'::regnamespace and c.relkind = 'r'
  loop
    execute format('alter table %s owner to supabase_auth_admin', relation);
    execute format('alter table %s enable row level security', relation);
  end loop;
end $$;
grant select on all tables in schema auth to postgres with grant option;
grant insert, update, delete, references, trigger on all tables in schema auth to postgres;
