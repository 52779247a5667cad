-- Statement statistics of the database, for organisations that the project's owner trusts with them: they are everybody's.

create table pam_private.diagnostics_trust (
  org_id uuid primary key references pam.organizations on delete cascade,
  trusted_at timestamptz not null default now()
);
comment on table pam_private.diagnostics_trust is 'Organisations whose agents may read statistics of the whole database. Only the owner of the project writes here.';
alter table pam_private.diagnostics_trust enable row level security;
alter table pam_private.diagnostics_trust force row level security;

create function pam.trust_organization_with_diagnostics(org_id uuid) returns jsonb
language plpgsql security invoker set search_path = '' as
$$
begin
  if not exists (select from pam.organizations o where o.id = trust_organization_with_diagnostics.org_id) then
    return pam_private.refusal('not_found', 'There is no such organisation.');
  end if;
  insert into pam_private.diagnostics_trust (org_id) values (trust_organization_with_diagnostics.org_id) on conflict do nothing;
  perform pam_private.record(trust_organization_with_diagnostics.org_id, null, 'diagnostics.trusted', true);
  return jsonb_build_object('org_id', trust_organization_with_diagnostics.org_id, 'is_trusted', true);
end $$;
comment on function pam.trust_organization_with_diagnostics is 'Let an organisation''s agents read pg_stat_statements, which shows the statements of everybody in this database. For the owner of the project.';

create function pam.distrust_organization_with_diagnostics(org_id uuid) returns jsonb
language plpgsql security invoker set search_path = '' as
$$
begin
  delete from pam_private.diagnostics_trust t where t.org_id = distrust_organization_with_diagnostics.org_id;
  if found then
    perform pam_private.record(distrust_organization_with_diagnostics.org_id, null, 'diagnostics.distrusted', true);
  end if;
  return jsonb_build_object('org_id', distrust_organization_with_diagnostics.org_id, 'is_trusted', false);
end $$;
comment on function pam.distrust_organization_with_diagnostics is 'Take back what trust_organization_with_diagnostics gave. For the owner of the project.';

create function pam_worker.read_statements(run_id uuid, fence bigint, order_by text default 'total_time', words text default null, max_rows int default 20) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(read_statements.run_id, read_statements.fence, to_write => false);
  home text;
  sorting constant text := case read_statements.order_by
    when 'total_time' then 'total_exec_time' when 'mean_time' then 'mean_exec_time' when 'calls' then 'calls'
    when 'rows' then 'rows' when 'reads' then 'shared_blks_read' end;
  answer jsonb;
begin
  if not exists (select from pam_private.diagnostics_trust t where t.org_id = run.org_id) then
    perform pam_private.record(run.org_id, run.user_id, 'diagnostics.read', false, jsonb_build_object('run_id', run.id));
    return pam_private.refusal('forbidden', format('Statement statistics show what everybody runs in this database, so the project''s owner must trust the organisation with them first: select pam.trust_organization_with_diagnostics(''%s'').', run.org_id));
  end if;
  if sorting is null then
    return pam_private.refusal('invalid', 'Statements are ordered by total_time, mean_time, calls, rows or reads.');
  end if;
  select n.nspname into home from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
   where e.extname = 'pg_stat_statements';
  if home is null then
    return pam_private.refusal('unavailable', 'This database keeps no statement statistics: its owner runs create extension pg_stat_statements with schema extensions.');
  end if;
  perform pam_private.record(run.org_id, run.user_id, 'diagnostics.read', true, jsonb_build_object('run_id', run.id));
  -- Comments may carry anything; a quote means that a constant was not replaced; utility statements never have theirs replaced.
  execute format($query$
    select coalesce(jsonb_agg(to_jsonb(x)), '[]') from (
      select left(s.told, 2000) as query, s.calls, round(s.total_exec_time::numeric, 3) as total_ms, round(s.mean_exec_time::numeric, 3) as mean_ms,
             round(s.max_exec_time::numeric, 3) as max_ms, s.rows, s.shared_blks_hit as blocks_hit, s.shared_blks_read as blocks_read,
             s.temp_blks_written as temp_blocks_written, r.rolname as role
        from (select t.*, btrim(regexp_replace(regexp_replace(t.query, '/\*.*?\*/', ' ', 'g'), '--[^\n]*', ' ', 'g')) as told from %I.pg_stat_statements t) s
        join pg_catalog.pg_roles r on r.oid = s.userid
       where s.dbid = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
         and r.rolname not in ('pam_worker', 'pam_agent_sql', 'pam_sweeper')
         and s.told ~* '^\(*\s*(select|insert|update|delete|merge|with|values|table)\M'
         and s.told !~ '[''\\]|\$[a-zA-Z_]*\$'
         and ($1 is null or position(lower($1) in lower(s.told)) > 0)
       order by s.%I desc, s.queryid limit $2) x $query$, home, sorting)
    into answer using nullif(read_statements.words, ''), least(greatest(read_statements.max_rows, 1), 100);
  return answer;
end $$;
comment on function pam_worker.read_statements is 'The statements that cost most, with $1 for every constant, for an organisation that the project''s owner trusts with them.';

revoke all on pam_private.diagnostics_trust from public, anon, authenticated, service_role;
revoke execute on function pam.trust_organization_with_diagnostics(uuid), pam.distrust_organization_with_diagnostics(uuid),
  pam_worker.read_statements(uuid, bigint, text, text, int) from public, anon, authenticated, service_role;
grant execute on function pam_worker.read_statements(uuid, bigint, text, text, int) to pam_worker;
