-- SQL that a model wrote, run as the person who asked: a binding for one transaction, and tables opened one by one.
-- Claims in a setting are no boundary: one `select set_config(…)` forges them. A row keyed by the transaction's id is.

create table pam_private.agent_bindings (
  xid xid8 primary key default pg_current_xact_id(),
  user_id uuid not null,
  claims jsonb not null
);
comment on table pam_private.agent_bindings is 'For whom this transaction reads. Always rolled back: nobody ever sees a row of another transaction.';
alter table pam_private.agent_bindings enable row level security;
alter table pam_private.agent_bindings force row level security;

create function pam_private.bind(run_id uuid, fence bigint) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs;
  bound jsonb;
  naked regclass;
begin
  select r.* into run from pam.runs r join pam_private.run_heads h on h.run_id = r.id
   where r.id = bind.run_id and h.fence = bind.fence and r.status = 'running';
  if not found then
    raise exception 'fence % of run % is old: another worker holds it, drop the run', bind.fence, bind.run_id using errcode = 'PM002';
  end if;
  if coalesce(pam_private.role_in(run.org_id, run.user_id), 'viewer') < 'developer' then
    raise exception 'the asker of run % may not work in this organisation any more', bind.run_id using errcode = 'PM003';
  end if;
  select coalesce(c.claims, '{}') || jsonb_build_object('sub', run.user_id, 'role', 'authenticated',
           'app_metadata', coalesce(u.raw_app_meta_data::jsonb, '{}'), 'user_metadata', coalesce(u.raw_user_meta_data::jsonb, '{}'))
    into bound
    from auth.users u left join pam_private.run_claims c on c.run_id = run.id
   where u.id = run.user_id;
  if bound is null then
    raise exception 'the asker of run % has no account any more', bind.run_id using errcode = 'PM003';
  end if;
  -- Without row-level security nothing would consult the mirrors, nor the policy that closes on drift.
  select o.table_id into naked from pam_private.opened_tables o join pg_catalog.pg_class c on c.oid = o.table_id
   where not c.relrowsecurity limit 1;
  if found then
    raise exception '% is open to agents and its row-level security was switched off', naked
      using errcode = 'PM005', hint = format('Switch it on again, or run: select pam.close_to_agent(%L)', naked);
  end if;
  insert into pam_private.agent_bindings (user_id, claims) values (run.user_id, bound);
end $$;
comment on function pam_private.bind is 'Bind this transaction to the person who asked for the run: once, out of the statement''s reach, gone at rollback.';

create function pam_private.bound_uid() returns uuid
language sql stable security definer set search_path = '' as
$$ select b.user_id from pam_private.agent_bindings b where b.xid = pg_current_xact_id_if_assigned() $$;
comment on function pam_private.bound_uid is 'auth.uid() for SQL that a model wrote.';

create function pam_private.bound_claims() returns jsonb
language sql stable security definer set search_path = '' as
$$ select b.claims from pam_private.agent_bindings b where b.xid = pg_current_xact_id_if_assigned() $$;
comment on function pam_private.bound_claims is 'auth.jwt() for SQL that a model wrote.';

create table pam_private.opened_tables (
  table_id regclass primary key,
  policies_sha256 text not null,
  opened_at timestamptz not null default now()
);
comment on table pam_private.opened_tables is 'Tables that a team opened to its agents, and what their policies were when it did.';
alter table pam_private.opened_tables enable row level security;
alter table pam_private.opened_tables force row level security;

create function pam_private.policies_digest(t regclass) returns text
language sql stable set search_path = '' as
$$
  select encode(sha256(convert_to(concat_ws('|', c.relrowsecurity, c.relkind, (
    select string_agg(concat_ws(':', p.polname, p.polcmd, p.polpermissive, p.polroles::text,
             pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)), ';' order by p.polname)
      from pg_catalog.pg_policy p where p.polrelid = t and not (p.polname like 'pam: %' and p.polroles = array['pam_agent'::regrole::oid]))), 'UTF8')), 'hex')
    from pg_catalog.pg_class c where c.oid = t
$$;
comment on function pam_private.policies_digest is 'What a table''s own policies are now.';

create function pam_private.is_open(t regclass) returns boolean
language plpgsql stable security definer set search_path = '' as
$$
begin
  if exists (select from pam_private.opened_tables o where o.table_id = t and o.policies_sha256 = pam_private.policies_digest(t)) then
    return true;
  end if;
  raise exception '% is closed to agents: its policies changed since it was opened', t
    using errcode = 'PM005', hint = format('Review the change, then run: select pam.open_to_agent(%L)', t);
end $$;
comment on function pam_private.is_open is 'Whether a table''s policies still are what was mirrored; a drift closes it.';

create function pam.close_to_agent(t regclass) returns void
language plpgsql security invoker set search_path = '' as
$$
declare
  home regnamespace := (select c.relnamespace from pg_catalog.pg_class c where c.oid = t);
  mirror text;
begin
  if home is not null then  -- the table may be gone
    for mirror in select p.polname from pg_catalog.pg_policy p
                   where p.polrelid = t and p.polname like 'pam: %' and p.polroles = array['pam_agent'::regrole::oid] loop
      execute format('drop policy %I on %s', mirror, t);
    end loop;
    execute format('revoke all on %s from pam_agent', t);
  end if;
  delete from pam_private.opened_tables o where o.table_id = t;
  if found and home is not null and not exists (
    select from pam_private.opened_tables o join pg_catalog.pg_class c on c.oid = o.table_id where c.relnamespace = home) then
    execute format('revoke usage on schema %s from pam_agent', home);
  end if;
end $$;
comment on function pam.close_to_agent is 'Take back what open_to_agent gave. For the owner of the project.';

create function pam.open_to_agent(t regclass) returns int
language plpgsql security invoker set search_path = '' as
$$
declare
  known constant regprocedure[] := array['auth.uid()'::regprocedure, 'auth.jwt()'::regprocedure, 'auth.role()'::regprocedure];
  policy record;
  mirrored text;
  opened int := 0;
  columns text;
begin
  if coalesce((select c.relkind not in ('r', 'p') from pg_catalog.pg_class c where c.oid = t), true) then
    raise exception '% is no table: a view reads with its owner''s rights', t;
  end if;
  if not (select c.relrowsecurity from pg_catalog.pg_class c where c.oid = t) then
    raise exception '% has no row-level security: enable it and write its policies first', t;
  end if;
  if (select c.relnamespace::regnamespace::text from pg_catalog.pg_class c where c.oid = t)
     in ('pam', 'pam_worker', 'pam_private', 'auth', 'storage', 'vault', 'realtime', 'net', 'cron', 'pg_catalog', 'information_schema') then
    raise exception '% belongs to the platform and stays closed to agents', t;
  end if;
  perform pam.close_to_agent(t);
  for policy in
    select p.oid, p.polname, p.polpermissive, pg_catalog.pg_get_expr(p.polqual, p.polrelid) as qual
      from pg_catalog.pg_policy p
     where p.polrelid = t and p.polcmd in ('r', '*')
       and exists (select from unnest(p.polroles) as given (role)
                    where given.role = 0 or pg_catalog.pg_has_role('authenticated', given.role, 'usage'))
     order by p.polname
  loop
    -- What the mirror cannot carry: functions that are neither built in nor auth's, views, operators and types of somebody's,
    -- and everything that reads the session.
    if exists (
         select from pg_catalog.pg_depend d
          where d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = policy.oid and d.deptype = 'n'
            and not (d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = any (known::oid[]))
            and not (d.refclassid = 'pg_catalog.pg_type'::regclass
                     and (select y.typtype = 'e' from pg_catalog.pg_type y where y.oid = d.refobjid))
            and not (d.refclassid = 'pg_catalog.pg_class'::regclass
                     and (select c.relkind in ('r', 'p') from pg_catalog.pg_class c where c.oid = d.refobjid)))
       or policy.qual ~* '\m(current_setting|set_config|pg_[a-z_]+|has_[a-z_]+_privilege|row_security_active|[a-z]+_to_xml[a-z_]*)\M\s*\(|\m(current_user|session_user|current_role|system_user)\M'
       or exists (select from regexp_matches(policy.qual, '"(?:[^"]|"")*"|''(?:[^'']|'''')*''', 'g') as quoted
                   where quoted[1] ~ 'auth\.(uid|jwt|role)') then
      raise exception 'policy "%" of % calls a function or reads the session in a way that PAM cannot mirror', policy.polname, t
        using hint = 'Write it with auth.uid(), auth.jwt() and plain tables, or leave the table closed to agents.';
    end if;
    mirrored := replace(replace(replace(policy.qual, 'auth.uid()', 'pam_private.bound_uid()'),
                                'auth.jwt()', 'pam_private.bound_claims()'), 'auth.role()', '''authenticated''::text');
    opened := opened + 1;  -- its number keeps two long names apart, for a name is cut at 63 bytes
    execute format('create policy %I on %s as %s for select to pam_agent using (%s)', format('pam: %s %s', opened, left(policy.polname, 40)), t,
                   case when policy.polpermissive then 'permissive' else 'restrictive' end, mirrored);
  end loop;
  if opened = 0 then
    raise exception '% has no policy that lets authenticated people select: there is nothing to open', t;
  end if;
  execute format('create policy "pam: closed on drift" on %s as restrictive for select to pam_agent using ((select pam_private.is_open(%L::regclass)))', t, t);
  if has_table_privilege('authenticated', t, 'select') then
    execute format('grant select on %s to pam_agent', t);
  else
    select string_agg(quote_ident(a.attname), ', ') into columns from pg_catalog.pg_attribute a
     where a.attrelid = t and a.attnum > 0 and not a.attisdropped and has_column_privilege('authenticated', t, a.attnum, 'select');
    if columns is null then
      raise exception 'authenticated may not select from %: there is nothing to open', t;
    end if;
    execute format('grant select (%s) on %s to pam_agent', columns, t);
  end if;
  execute format('grant usage on schema %s to pam_agent', (select c.relnamespace::regnamespace from pg_catalog.pg_class c where c.oid = t));
  insert into pam_private.opened_tables (table_id, policies_sha256) values (t, pam_private.policies_digest(t));
  return opened;
end $$;
comment on function pam.open_to_agent is 'Open a table to agents: each select policy of authenticated, mirrored with the bound person in place of auth.uid(). Answers how many. For the owner of the project.';

create function pam_worker.describe_tables(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(describe_tables.run_id, describe_tables.fence, to_write => false);
begin
  return coalesce((
    select jsonb_agg(jsonb_build_object(
        'table', c.oid::regclass, 'comment', pg_catalog.obj_description(c.oid, 'pg_class'),
        'estimated_rows', greatest(c.reltuples, 0)::bigint, 'size', pg_catalog.pg_size_pretty(pg_catalog.pg_total_relation_size(c.oid)),
        'columns', (select jsonb_agg(concat_ws(' ', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
                                               case when a.attnotnull then 'not null' end) order by a.attnum)
                      from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
        'indexes', coalesce((select jsonb_agg(pg_catalog.pg_get_indexdef(i.indexrelid) order by i.indexrelid)
                      from pg_catalog.pg_index i where i.indrelid = c.oid), '[]'),
        'foreign_keys', coalesce((select jsonb_agg(pg_catalog.pg_get_constraintdef(k.oid) order by k.conname)
                      from pg_catalog.pg_constraint k where k.conrelid = c.oid and k.contype = 'f'), '[]'),
        'policies', coalesce((select jsonb_agg(jsonb_build_object(
                         'name', p.polname, 'for', case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
                         'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)) order by p.polname)
                      from pg_catalog.pg_policy p where p.polrelid = c.oid and not (p.polname like 'pam: %' and p.polroles = array['pam_agent'::regrole::oid])), '[]')
      ) order by c.oid::regclass::text collate "C")
      from pam_private.opened_tables o join pg_catalog.pg_class c on c.oid = o.table_id), '[]');
end $$;
comment on function pam_worker.describe_tables is 'The tables that are open to agents: columns, indexes, foreign keys, policies, sizes.';

create function pam_worker.find_row_functions(run_id uuid, fence bigint, names text[]) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(find_row_functions.run_id, find_row_functions.fence, to_write => false);
begin
  return coalesce((
    select jsonb_agg(distinct f.proname) from pg_catalog.pg_proc f
      join pg_catalog.pg_type y on y.oid = f.proargtypes[0] and y.typtype in ('c', 'p')
     where f.pronargs >= 1 and f.pronamespace <> 'pg_catalog'::regnamespace and f.proname = any (find_row_functions.names)), '[]');
end $$;
comment on function pam_worker.find_row_functions is 'Which names behind a dot (`u.f`) would call a function on a row, as PostgREST''s computed fields do.';

revoke execute on all functions in schema pam, pam_worker, pam_private from public, anon, service_role;
-- A project's own default privileges open nothing either.
revoke all on all tables in schema pam_private from public, anon, authenticated, service_role;
revoke execute on function pam.open_to_agent(regclass), pam.close_to_agent(regclass) from authenticated;
grant execute on function pam_private.bind(uuid, bigint) to pam_agent_sql;
grant execute on function pam_private.bound_uid(), pam_private.bound_claims(), pam_private.is_open(regclass) to pam_agent;
grant execute on function pam_worker.describe_tables(uuid, bigint), pam_worker.find_row_functions(uuid, bigint, text[]) to pam_worker;
-- `revoke … from public` above took nothing from the roles that earlier migrations named.
