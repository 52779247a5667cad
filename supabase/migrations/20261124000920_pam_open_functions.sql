-- The team's own functions that agents may call: opened one by one, closed by any change of their text.
-- They run as the agents' role, so that the mirrored policies hold inside them too; auth.uid() is null there.

create table pam_private.opened_functions (
  function_id oid primary key,
  definition_sha256 text not null,
  opened_at timestamptz not null default now()
);
comment on table pam_private.opened_functions is 'Functions, by their oid (pg_upgrade takes no regprocedure), that a team opened to its agents, and what they said when it did.';
alter table pam_private.opened_functions enable row level security;
alter table pam_private.opened_functions force row level security;

create function pam_private.is_function_open(f regprocedure) returns boolean
language sql stable security definer set search_path = '' as
$$
  select exists (
    select from pam_private.opened_functions o join pg_catalog.pg_proc p on p.oid = o.function_id
     where o.function_id = f::oid and o.definition_sha256 = encode(sha256(convert_to(pg_catalog.pg_get_functiondef(p.oid), 'UTF8')), 'hex')
       and has_function_privilege('pam_agent', p.oid, 'execute') and has_schema_privilege('pam_agent', p.pronamespace, 'usage'))
$$;
comment on function pam_private.is_function_open is 'Whether a function was opened to agents and still is what it was then; any change closes it.';

create function pam.close_function_to_agent(f regprocedure) returns void
language plpgsql security invoker set search_path = '' as
$$
declare
  home regnamespace := (select p.pronamespace from pg_catalog.pg_proc p where p.oid = f);
begin
  if home is not null then  -- the function may be gone
    execute format('revoke execute on function %s from pam_agent', f);
  end if;
  delete from pam_private.opened_functions o where o.function_id = f::oid;
  if found and home is not null and not exists (
    select from pam_private.opened_functions o join pg_catalog.pg_proc p on p.oid = o.function_id where p.pronamespace = home
    union all
    select from pam_private.opened_tables o join pg_catalog.pg_class c on c.oid = o.table_id where c.relnamespace = home) then
    execute format('revoke usage on schema %s from pam_agent', home);
  end if;
end $$;
comment on function pam.close_function_to_agent is 'Take back what open_function_to_agent gave. For the owner of the project.';

create function pam.open_function_to_agent(f regprocedure) returns void
language plpgsql security invoker set search_path = '' as
$$
declare
  own pg_catalog.pg_proc;
begin
  select * into own from pg_catalog.pg_proc p where p.oid = f;
  if not found then
    raise exception 'there is no function %', f;
  end if;
  if own.pronamespace::regnamespace::text in ('pam', 'pam_worker', 'pam_private', 'auth', 'storage', 'vault', 'realtime', 'net', 'cron', 'pg_catalog', 'information_schema') then
    raise exception '% belongs to the platform and stays closed to agents', f;
  end if;
  if own.prokind <> 'f' or (select l.lanname from pg_catalog.pg_language l where l.oid = own.prolang) not in ('sql', 'plpgsql') then
    raise exception '% is no function in SQL or PL/pgSQL: what it does cannot be read', f;
  end if;
  if own.prosecdef then
    raise exception '% is security definer: it would read with its owner''s rights, past the policies', f
      using hint = 'Write it as security invoker, with the caller''s rights.';
  end if;
  if own.provolatile = 'v' then
    raise exception '% is volatile: a reading statement would call it, and it may write', f
      using hint = 'Declare it stable, if it only reads.';
  end if;
  execute format('grant execute on function %s to pam_agent', f);
  execute format('grant usage on schema %s to pam_agent', own.pronamespace::regnamespace);
  insert into pam_private.opened_functions as o (function_id, definition_sha256)
  values (f::oid, encode(sha256(convert_to(pg_catalog.pg_get_functiondef(f), 'UTF8')), 'hex'))
  on conflict (function_id) do update set definition_sha256 = excluded.definition_sha256, opened_at = now();
end $$;
comment on function pam.open_function_to_agent is 'Let agents call a reading function of the team''s own in their SELECTs, by its full name. For the owner of the project.';

create function pam_worker.describe_functions(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(describe_functions.run_id, describe_functions.fence, to_write => false);
begin
  -- A statement names a function without its arguments, so that one overload that is not open closes them all.
  return coalesce((
    select jsonb_agg(jsonb_build_object(
        'name', n.nspname || '.' || p.proname, 'arguments', pg_catalog.pg_get_function_arguments(p.oid),
        'returns', pg_catalog.pg_get_function_result(p.oid), 'comment', pg_catalog.obj_description(p.oid, 'pg_proc'),
        'is_open', not exists (select from pg_catalog.pg_proc q where q.pronamespace = p.pronamespace and q.proname = p.proname
                                  and not pam_private.is_function_open(q.oid)))
      order by n.nspname, p.proname, p.oid)
      from pam_private.opened_functions o
      join pg_catalog.pg_proc p on p.oid = o.function_id join pg_catalog.pg_namespace n on n.oid = p.pronamespace), '[]');
end $$;
comment on function pam_worker.describe_functions is 'The functions that were opened to agents, and whether each still is.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke all on pam_private.opened_functions from public, anon, authenticated, service_role;
revoke execute on function pam.open_function_to_agent(regprocedure), pam.close_function_to_agent(regprocedure)
  from public, anon, authenticated, service_role;
grant execute on function pam_worker.describe_functions(uuid, bigint) to pam_worker;
