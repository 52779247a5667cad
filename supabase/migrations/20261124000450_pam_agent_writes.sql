-- Tables opened for writing as well, by a second act of their owner; and the mirror of policies made stricter for reading.
-- Every table that was open before this migration closes until it is opened again.

create table pam_private.opened_writes (
  table_id regclass primary key references pam_private.opened_tables on delete cascade,
  commands text[] not null,
  own_code boolean not null,
  cascades boolean not null,
  max_rows int not null check (max_rows between 1 and 1000),
  sequences oid[] not null,
  writes_sha256 text not null,
  opened_at timestamptz not null default now()
);
comment on table pam_private.opened_writes is 'Tables that a team opened to its agents for writing, and what would run with a write when it did.';
alter table pam_private.opened_writes enable row level security;
alter table pam_private.opened_writes force row level security;

create or replace function pam_private.policies_digest(t regclass) returns text
language sql stable set search_path = '' as
$$
  select encode(sha256(convert_to(concat_ws('|', c.relrowsecurity, c.relkind, (
    select string_agg(concat_ws(':', p.polname, p.polcmd, p.polpermissive, p.polroles::text,
             pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)), ';' order by p.polname)
      from pg_catalog.pg_policy p where p.polrelid = t and not (p.polname like 'pam: %' and p.polroles = array['pam_agent'::regrole::oid])),
    -- What authenticated may read: agents keep no right that people lost.
    case when has_table_privilege('authenticated', t, 'select') then '*' else (
    select string_agg(a.attname, ',' order by a.attnum) from pg_catalog.pg_attribute a
     where a.attrelid = t and a.attnum > 0 and not a.attisdropped and has_column_privilege('authenticated', t, a.attnum, 'select')) end), 'UTF8')), 'hex')
    from pg_catalog.pg_class c where c.oid = t
$$;

create function pam_private.is_foreign_code(f oid) returns boolean
language sql stable set search_path = '' as
$$
  select not (exists (select from pg_catalog.pg_depend e where e.classid = 'pg_catalog.pg_proc'::regclass and e.objid = f and e.deptype = 'e')
              and exists (select from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
                           where p.oid = f and not p.prosecdef and l.lanname in ('c', 'internal')))
$$;
comment on function pam_private.is_foreign_code is 'Whether a function is neither built in nor a compiled one of an extension: what it does is not known.';

create function pam_private.mirror_of(class regclass, object oid, expression text, told text) returns text
language plpgsql stable set search_path = '' as
$$
declare
  known constant regprocedure[] := array['auth.uid()'::regprocedure, 'auth.jwt()'::regprocedure, 'auth.role()'::regprocedure];
begin
  -- What the mirror cannot carry: functions that are neither built in nor auth's, views, operators and types of somebody's,
  -- and everything that reads the session.
  if exists (
       select from pg_catalog.pg_depend d
        where d.classid = mirror_of.class and d.objid = mirror_of.object and d.deptype = 'n'
          and not (d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = any (known::oid[]))
          and not (d.refclassid = 'pg_catalog.pg_proc'::regclass and mirror_of.class = 'pg_catalog.pg_attrdef'::regclass
                   and not pam_private.is_foreign_code(d.refobjid))
          and not (d.refclassid = 'pg_catalog.pg_type'::regclass
                   and (select y.typtype = 'e' from pg_catalog.pg_type y where y.oid = d.refobjid))
          and not (d.refclassid = 'pg_catalog.pg_class'::regclass
                   and (select c.relkind in ('r', 'p') or (c.relkind = 'S' and mirror_of.class = 'pg_catalog.pg_attrdef'::regclass)
                          from pg_catalog.pg_class c where c.oid = d.refobjid)))
     or mirror_of.expression ~* '\m(current_setting|set_config|pg_[a-z_]+|has_[a-z_]+_privilege|row_security_active|[a-z]+_to_xml[a-z_]*)\M\s*\(|\m(current_user|session_user|current_role|system_user)\M'
     or exists (select from regexp_matches(mirror_of.expression, '"(?:[^"]|"")*"|''(?:[^'']|'''')*''', 'g') as quoted
                 where quoted[1] ~ 'auth\.(uid|jwt|role)') then
    raise exception '% calls a function or reads the session in a way that PAM cannot mirror', mirror_of.told
      using hint = 'Write it with auth.uid(), auth.jwt() and plain tables, or leave the table closed to agents.';
  end if;
  return replace(replace(replace(mirror_of.expression, 'auth.uid()', 'pam_private.bound_uid()'),
                         'auth.jwt()', 'pam_private.bound_claims()'), 'auth.role()', '''authenticated''::text');
end $$;
comment on function pam_private.mirror_of is 'A policy''s or default''s expression with the bound person in place of auth''s; raises when it cannot be carried over.';

create function pam_private.mirror_policies(t regclass, command text) returns int
language plpgsql security invoker set search_path = '' as
$$
declare
  letter constant "char" := case command when 'select' then 'r' when 'insert' then 'a' when 'update' then 'w' else 'd' end;
  policy record;
  seen text;
  kept text;
  all_seen text[] := '{}';
  all_kept text[] := '{}';
  for_everybody boolean := false;
  opened int := 0;
begin
  for policy in
    select p.oid, p.polname, p.polpermissive, 0 = any (p.polroles) as is_public,
           pg_catalog.pg_get_expr(p.polqual, p.polrelid) as qual,
           coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), pg_catalog.pg_get_expr(p.polqual, p.polrelid)) as checked
      from pg_catalog.pg_policy p
     where p.polrelid = t and p.polcmd in (letter, '*')
       and not (p.polname like 'pam: %' and p.polroles = array['pam_agent'::regrole::oid])
       and exists (select from unnest(p.polroles) as given (role)
                    where given.role = 0 or pg_catalog.pg_has_role('authenticated', given.role, 'usage'))
     order by p.polname
  loop
    seen := case when command <> 'insert' then
      pam_private.mirror_of('pg_catalog.pg_policy', policy.oid, policy.qual, format('policy "%s" of %s', policy.polname, t)) end;
    kept := case when command in ('insert', 'update') then
      pam_private.mirror_of('pg_catalog.pg_policy', policy.oid, policy.checked, format('policy "%s" of %s', policy.polname, t)) end;
    opened := opened + 1;  -- its number keeps two long names apart, for a name is cut at 63 bytes
    perform pam_private.add_policy(t, command, format('pam: %s%s %s', case command when 'select' then '' else command || ' ' end,
                                   opened, left(policy.polname, 40)), policy.polpermissive, seen, kept);
    if policy.polpermissive then
      all_seen := all_seen || coalesce(seen, 'false');
      all_kept := all_kept || coalesce(kept, 'false');
      for_everybody := for_everybody or policy.is_public;
    end if;
  end loop;
  if cardinality(all_seen) = 0 then
    raise exception '% has no policy that lets authenticated people %: there is nothing to open', t, command;
  end if;
  if for_everybody then
    -- A policy to public speaks to pam_agent as well, and its auth.uid() is whatever a statement set: the mirrors alone decide.
    perform pam_private.add_policy(t, command, format('pam: the bound person alone, %s', command), false,
      case when command <> 'insert' then (select string_agg(format('(%s)', x), ' or ') from unnest(all_seen) as x) end,
      case when command in ('insert', 'update') then (select string_agg(format('(%s)', x), ' or ') from unnest(all_kept) as x) end);
  end if;
  return opened;
end $$;
comment on function pam_private.mirror_policies is 'Mirror what authenticated people''s policies say of a command; answers how many there are.';

create function pam_private.add_policy(t regclass, command text, name text, is_permissive boolean, seen text, kept text) returns void
language plpgsql security invoker set search_path = '' as
$$
begin
  execute format('create policy %I on %s as %s for %s to pam_agent', add_policy.name, t,
                 case when is_permissive then 'permissive' else 'restrictive' end, command)
          || coalesce(' using (' || seen || ')', '') || coalesce(' with check (' || kept || ')', '');
end $$;
comment on function pam_private.add_policy is 'Make one of PAM''s own policies on an opened table.';

create or replace function pam.open_to_agent(t regclass) returns int
language plpgsql security invoker set search_path = '' as
$$
declare
  opened int;
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
  opened := pam_private.mirror_policies(t, 'select');
  perform pam_private.add_policy(t, 'select', 'pam: closed on drift', false, format('(select pam_private.is_open(%L::regclass))', t), null);
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
comment on function pam.open_to_agent is 'Open a table to agents for reading: each select policy of authenticated, mirrored with the bound person in place of auth.uid(). Answers how many. For the owner of the project.';

create or replace function pam.close_to_agent(t regclass) returns void
language plpgsql security invoker set search_path = '' as
$$
declare
  home regnamespace := (select c.relnamespace from pg_catalog.pg_class c where c.oid = t);
  mirror text;
  counter regclass;
begin
  if home is not null then  -- the table may be gone
    for mirror in select p.polname from pg_catalog.pg_policy p
                   where p.polrelid = t and p.polname like 'pam: %' and p.polroles = array['pam_agent'::regrole::oid] loop
      execute format('drop policy %I on %s', mirror, t);
    end loop;
    execute format('revoke all on %s from pam_agent', t);
  end if;
  for counter in select c.oid from pam_private.opened_writes w join pg_catalog.pg_class c on c.oid = any (w.sequences)
                  where w.table_id = t loop
    execute format('revoke all on sequence %s from pam_agent', counter);
  end loop;
  delete from pam_private.opened_tables o where o.table_id = t;
  if found and home is not null and not exists (
    select from pam_private.opened_tables o join pg_catalog.pg_class c on c.oid = o.table_id where c.relnamespace = home) then
    execute format('revoke usage on schema %s from pam_agent', home);
  end if;
end $$;
comment on function pam.close_to_agent is 'Take back what open_to_agent and open_writes_to_agent gave. For the owner of the project.';

create function pam_private.family_of(t regclass) returns oid[]
language sql stable set search_path = '' as
$$
  with recursive kin as (
    select t::oid as id
    union
    select i.inhrelid from kin join pg_catalog.pg_inherits i on i.inhparent = kin.id)
  select array_agg(kin.id order by kin.id) from kin
$$;
comment on function pam_private.family_of is 'A table with its partitions and heirs: a write to it is a write to them.';

create function pam_private.writes_digest(t regclass) returns text
language sql stable set search_path = '' as
$$
  select encode(sha256(convert_to(concat_ws('|', family.ids::text,
    (select string_agg(concat_ws(':', a.attrelid, a.attnum, a.attname, a.atttypid, a.attnotnull, a.attidentity, a.attgenerated, pg_catalog.pg_get_expr(d.adbin, d.adrelid),
              has_column_privilege('authenticated', a.attrelid, a.attnum, 'insert'), has_column_privilege('authenticated', a.attrelid, a.attnum, 'update')),
            ';' order by a.attrelid, a.attnum)
       from pg_catalog.pg_attribute a left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
      where a.attrelid = any (family.ids) and a.attnum > 0 and not a.attisdropped),
    has_table_privilege('authenticated', t, 'delete'),
    (select string_agg(concat_ws(':', g.tgname, g.tgenabled, pg_catalog.pg_get_triggerdef(g.oid), f.prosrc, f.prosecdef), ';' order by g.oid)
       from pg_catalog.pg_trigger g join pg_catalog.pg_proc f on f.oid = g.tgfoid where g.tgrelid = any (family.ids) and not g.tgisinternal),
    (select string_agg(w.oid::text, ';' order by w.oid) from pg_catalog.pg_rewrite w where w.ev_class = any (family.ids)),
    (select string_agg(concat_ws(':', k.conrelid, pg_catalog.pg_get_constraintdef(k.oid)), ';' order by k.oid)
       from pg_catalog.pg_constraint k where k.conrelid = any (family.ids) or k.confrelid = any (family.ids)),
    (select string_agg(pg_catalog.pg_get_indexdef(i.indexrelid), ';' order by i.indexrelid)
       from pg_catalog.pg_index i where i.indrelid = any (family.ids))), 'UTF8')), 'hex')
    from (select pam_private.family_of(t) as ids) family
$$;
comment on function pam_private.writes_digest is 'What happens with a write to a table now: columns, defaults, triggers, rules, constraints, indexes, partitions, and what authenticated people may write.';

create function pam_private.is_writable(t regclass) returns boolean
language plpgsql stable security definer set search_path = '' as
$$
begin
  if exists (select from pam_private.opened_writes w where w.table_id = t and w.writes_sha256 = pam_private.writes_digest(t)) then
    return pam_private.is_open(t);
  end if;
  raise exception '% is closed to agents'' writes: what happens with a write to it changed since it was opened', t
    using errcode = 'PM005', hint = format('Review the change, then run: select pam.open_writes_to_agent(%L)', t);
end $$;
comment on function pam_private.is_writable is 'Whether a write to a table still does what it did when it was opened; a drift closes it.';

create function pam_private.own_code_of(t regclass) returns text
language sql stable set search_path = '' as
$$
  with family as (select pam_private.family_of(t) as ids),
  domains as (
    select y.oid, y.typbasetype from family, pg_catalog.pg_attribute a join pg_catalog.pg_type y on y.oid = a.atttypid
     where a.attrelid = any (family.ids) and a.attnum > 0 and not a.attisdropped and y.typtype = 'd')
  select string_agg(x.told, ', ' order by x.told) from (
    select format('the trigger %I', g.tgname) from family, pg_catalog.pg_trigger g where g.tgrelid = any (family.ids) and not g.tgisinternal
    union
    select format('the domain %s', d.oid::regtype) from domains d join pg_catalog.pg_type b on b.oid = d.typbasetype and b.typtype = 'd'
    union
    select format('the function %s', d.refobjid::regprocedure) from family, pg_catalog.pg_depend d
     where d.refclassid = 'pg_catalog.pg_proc'::regclass and d.deptype = 'n' and pam_private.is_foreign_code(d.refobjid)
       and (d.classid = 'pg_catalog.pg_constraint'::regclass and d.objid in (
              select k.oid from pg_catalog.pg_constraint k where k.conrelid = any (family.ids) or k.contypid in (select oid from domains))
         or d.classid = 'pg_catalog.pg_class'::regclass and d.objid in (
              select i.indexrelid from pg_catalog.pg_index i where i.indrelid = any (family.ids))
         or d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid in (
              select e.oid from pg_catalog.pg_attrdef e join pg_catalog.pg_attribute a on a.attrelid = e.adrelid and a.attnum = e.adnum
               where e.adrelid = any (family.ids) and a.attgenerated <> ''))) as x (told)
$$;
comment on function pam_private.own_code_of is 'What of the team''s own code runs with a write to a table, defaults aside; null when nothing does.';

create function pam.open_writes_to_agent(
  t regclass, commands text[] default '{insert,update,delete}', own_code boolean default false, cascades boolean default false,
  max_rows int default 100) returns int
language plpgsql security invoker set search_path = '' as
$$
declare
  family constant oid[] := pam_private.family_of(t);
  keys constant int2[] := (select i.indkey::int2[] from pg_catalog.pg_index i where i.indrelid = t and i.indisprimary);
  command text;
  told text;
  mirrored text;
  columns text;
  fallback record;
  sequences oid[] := '{}';
  opened int := 0;
begin
  if not exists (select from pam_private.opened_tables o where o.table_id = t and o.policies_sha256 = pam_private.policies_digest(t)) then
    raise exception '% is not open to agents for reading: run select pam.open_to_agent(%) first', t, quote_literal(t);
  end if;
  if commands is null or cardinality(commands) = 0 or not commands <@ '{insert,update,delete}' then
    raise exception 'commands are insert, update and delete, or some of them';
  end if;
  if keys is null or exists (select from unnest(keys) as k where not has_column_privilege('authenticated', t, k, 'select')) then
    raise exception '% has no primary key that authenticated people may read: what a write changed could not be shown', t;
  end if;
  if exists (select from pg_catalog.pg_class c where c.oid = any (family) and c.relkind not in ('r', 'p'))
     or exists (select from pg_catalog.pg_rewrite w where w.ev_class = any (family)) then
    raise exception '% has a rule or a foreign table among its partitions: it cannot be opened for writing', t;
  end if;
  if exists (select from pg_catalog.pg_trigger g where g.tgrelid = any (family) and not g.tgisinternal and g.tgdeferrable) then
    raise exception '% has a deferred trigger, which would run when nobody is bound any more: it cannot be opened for writing', t;
  end if;
  told := pam_private.own_code_of(t);
  if told is not null and not own_code then
    raise exception 'with a write to % runs code of your own: %', t, told
      using hint = 'PAM cannot see what it does. If it may run with an agent''s writes, say own_code => true.';
  end if;
  if 'delete' = any (commands) and not cascades then
    select string_agg(distinct k.conrelid::regclass::text, ', ') into told from pg_catalog.pg_constraint k
     where k.contype = 'f' and k.confrelid = any (family) and k.confdeltype in ('c', 'n', 'd');
    if told is not null then
      raise exception 'deleting from % reaches rows of % that the person may not see: foreign keys pass row-level security by', t, told
        using hint = 'Leave delete out: commands => ''{insert,update}''; or say cascades => true.';
    end if;
  end if;

  perform pam_private.close_writes(t);
  foreach command in array (select array_agg(distinct x order by x) from unnest(commands) as x) loop
    opened := opened + pam_private.mirror_policies(t, command);
    told := format('(select pam_private.is_writable(%L::regclass))', t);
    perform pam_private.add_policy(t, command, format('pam: %s closed on drift', command), false,
      case when command <> 'insert' then told end, case when command <> 'delete' then told end);
    -- The key tells which rows were changed, and a key that others follow would change theirs.
    select string_agg(quote_ident(a.attname), ', ') into columns from pg_catalog.pg_attribute a
     where a.attrelid = t and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and command <> 'delete'
       and has_column_privilege('authenticated', t, a.attnum, command)
       and not (command = 'update' and (a.attnum = any (keys) or exists (
             select from pg_catalog.pg_constraint k where k.contype = 'f' and k.confrelid = t and k.confupdtype in ('c', 'n', 'd')
                and a.attnum = any (k.confkey))));
    if (command = 'delete' and not has_table_privilege('authenticated', t, 'delete')) or (command <> 'delete' and columns is null) then
      raise exception 'authenticated may not % %: there is nothing to open', command, t;
    end if;
    execute format('grant %s%s on %s to pam_agent', command, coalesce(' (' || columns || ')', ''), t);
  end loop;

  if 'insert' = any (commands) then
    for fallback in
      select d.oid, a.attname, a.attnum, pg_catalog.pg_get_expr(d.adbin, d.adrelid) as expression
        from pg_catalog.pg_attrdef d join pg_catalog.pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
       where d.adrelid = t and a.attgenerated = ''
    loop
      begin
        mirrored := pam_private.mirror_of('pg_catalog.pg_attrdef', fallback.oid, fallback.expression, format('the default of %s.%I', t, fallback.attname));
      exception when raise_exception then
        if not own_code then raise; end if;
        continue;
      end;
      -- Nobody may write this column, so people trust its default: it must be the bound person's, whatever a statement set.
      if mirrored <> fallback.expression and not has_column_privilege('authenticated', t, fallback.attnum, 'insert') then
        perform pam_private.add_policy(t, 'insert', format('pam: default %s %s', fallback.attnum, left(fallback.attname, 40)), false, null,
                                       format('%I is not distinct from (%s)', fallback.attname, mirrored));
      end if;
      sequences := sequences || array(
        select c.oid from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = d.refobjid and c.relkind = 'S'
         where d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid = fallback.oid and d.refclassid = 'pg_catalog.pg_class'::regclass
           and case when c.relkind = 'S' then has_sequence_privilege('authenticated', c.oid, 'usage') end);
    end loop;
    for told in select s.id::regclass::text from unnest(sequences) as s (id) loop
      execute format('grant usage on sequence %s to pam_agent', told);
    end loop;
  end if;
  insert into pam_private.opened_writes (table_id, commands, own_code, cascades, max_rows, sequences, writes_sha256)
  values (t, commands, own_code, cascades, max_rows, sequences, pam_private.writes_digest(t));
  return opened;
end $$;
comment on function pam.open_writes_to_agent is 'Open a table to agents for writing as well: the policies of these commands, mirrored. own_code: the table''s triggers and functions may run with a write. cascades: a delete may reach rows of other tables. For the owner of the project.';

create function pam_private.close_writes(t regclass) returns void
language plpgsql security invoker set search_path = '' as
$$
declare
  mirror text;
  counter regclass;
begin
  for mirror in select p.polname from pg_catalog.pg_policy p
                 where p.polrelid = t and p.polname like 'pam: %' and p.polcmd <> 'r' and p.polroles = array['pam_agent'::regrole::oid] loop
    execute format('drop policy %I on %s', mirror, t);
  end loop;
  execute format('revoke insert, update, delete on %s from pam_agent', t);
  for counter in select c.oid from pam_private.opened_writes w join pg_catalog.pg_class c on c.oid = any (w.sequences)
                  where w.table_id = t loop
    execute format('revoke all on sequence %s from pam_agent', counter);
  end loop;
  delete from pam_private.opened_writes w where w.table_id = t;
end $$;
comment on function pam_private.close_writes is 'Take back what open_writes_to_agent gave; the table stays open for reading.';

revoke execute on all functions in schema pam_private from public, anon, service_role;
revoke execute on function pam.open_writes_to_agent(regclass, text[], boolean, boolean, int) from public, anon, authenticated, service_role;
revoke all on pam_private.opened_writes from public, anon, authenticated, service_role;
grant execute on function pam_private.is_writable(regclass) to pam_agent;
