-- Changes of the project's schema: proposed by a run, checked and applied by the operator, approved by a person.
-- The schema is the whole project's and organisations are tenants: none may touch it until the project's owner says so.

create type pam.change_status as enum ('proposed', 'checking', 'refused', 'checked', 'approved', 'applying', 'applied', 'failed', 'exported');
comment on type pam.change_status is 'proposed waits for a check; checked may be approved; refused, applied, failed and exported are final.';

create table pam.schema_changes (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  name text not null check (name ~ '^[a-z][a-z0-9_]{0,79}$'),
  version text not null check (version ~ '^[0-9]{14}$'),
  sql text not null check (char_length(sql) between 1 and 200000),
  sql_sha256 text not null check (sql_sha256 = encode(sha256(convert_to(sql, 'UTF8')), 'hex')),
  status pam.change_status not null default 'proposed',
  findings jsonb not null default '[]',
  acknowledged jsonb not null default '{}',
  base text,
  report jsonb not null default '{}',
  failure text,
  run_id uuid,
  call_id uuid,
  proposed_by uuid not null,
  checked_for uuid,
  approval_call uuid,
  approved_by uuid,
  created_at timestamptz not null default clock_timestamp(),
  checked_at timestamptz,
  approved_at timestamptz,
  applied_at timestamptz,
  primary key (org_id, id),
  unique (org_id, version),
  foreign key (org_id, run_id) references pam.runs on delete set null (run_id),
  foreign key (org_id, call_id) references pam.tool_calls on delete set null (call_id)
);
comment on table pam.schema_changes is 'A migration that a run proposed. Its text stands: another text is another change.';
comment on column pam.schema_changes.base is 'The digest of the target''s schema and history that it was checked against; it is applied to no other.';
comment on column pam.schema_changes.acknowledged is 'Rules whose errors the proposer wants to stand, each with a reason that the approver reads.';
comment on column pam.schema_changes.checked_for is 'Who asked for the check: only for an admin may its outcome depend on rows.';
create unique index schema_changes_of_call on pam.schema_changes (org_id, call_id);
create index schema_changes_of_run on pam.schema_changes (org_id, run_id);
create index schema_changes_for_operator on pam.schema_changes (status, created_at) where status in ('checking', 'approved', 'applying');

create table pam_private.trusted_organizations (
  org_id uuid primary key references pam.organizations on delete cascade,
  trusted_at timestamptz not null default now()
);
comment on table pam_private.trusted_organizations is 'The organisations that may work on the project''s schema: named by the project''s owner alone.';

create table pam_private.operator_pulse (
  is_one boolean primary key default true check (is_one),
  seen_at timestamptz not null
);
comment on table pam_private.operator_pulse is 'When the operator, the one process with the owner''s connection, was last heard of.';

alter table pam.schema_changes enable row level security;
alter table pam.schema_changes force row level security;
alter table pam_private.trusted_organizations enable row level security;
alter table pam_private.trusted_organizations force row level security;
alter table pam_private.operator_pulse enable row level security;
alter table pam_private.operator_pulse force row level security;

create policy "People read their organisations' schema changes"
on pam.schema_changes for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam_private.change_stands() returns trigger
language plpgsql set search_path = '' as
$$
begin
  if (old.org_id, old.id, old.name, old.version, old.sql, old.sql_sha256, old.proposed_by)
     is distinct from (new.org_id, new.id, new.name, new.version, new.sql, new.sql_sha256, new.proposed_by)
     or (old.status in ('refused', 'applied', 'failed', 'exported') and old.status <> new.status) then
    raise exception 'a schema change keeps its text, and its end: propose another' using errcode = '42501';
  end if;
  return new;
end $$;
comment on function pam_private.change_stands is 'What was approved is what is applied: no text of a change is ever edited.';
create trigger "A change's text stands" before update on pam.schema_changes
for each row execute function pam_private.change_stands();

create function pam.trust_organization_with_schema(org_id uuid) returns void
language plpgsql security invoker set search_path = '' as
$$
begin
  if not exists (select from pam.organizations o where o.id = trust_organization_with_schema.org_id) then
    raise exception 'there is no organisation %', trust_organization_with_schema.org_id;
  end if;
  insert into pam_private.trusted_organizations as t (org_id) values (trust_organization_with_schema.org_id) on conflict do nothing;
  perform pam_private.record(trust_organization_with_schema.org_id, null, 'schema.trust', true);
end $$;
comment on function pam.trust_organization_with_schema is 'Let an organisation''s agents propose changes of the project''s schema. For the owner of the project.';

create function pam.distrust_organization_with_schema(org_id uuid) returns void
language plpgsql security invoker set search_path = '' as
$$
begin
  delete from pam_private.trusted_organizations t where t.org_id = distrust_organization_with_schema.org_id;
  perform pam_private.record(distrust_organization_with_schema.org_id, null, 'schema.distrust', true);
end $$;
comment on function pam.distrust_organization_with_schema is 'Take back trust_organization_with_schema: nothing of it is checked or applied any more. For the owner of the project.';

create function pam_private.may_change_schema(org uuid) returns boolean
language sql stable security definer set search_path = '' as
$$ select exists (select from pam_private.trusted_organizations t where t.org_id = org) $$;
comment on function pam_private.may_change_schema is 'Whether the project''s owner trusts an organisation with the schema.';

create function pam_private.distrusted() returns jsonb
language sql immutable set search_path = '' as
$$ select pam_private.refusal('forbidden', 'The schema is the whole project''s, and this organisation is not trusted with it: the project''s owner can run select pam.trust_organization_with_schema(''<organisation id>'').') $$;
comment on function pam_private.distrusted is 'The refusal for an organisation that may not touch the schema.';

create function pam_private.is_operator_alive() returns boolean
language sql stable security definer set search_path = '' as
$$ select exists (select from pam_private.operator_pulse p where p.seen_at > clock_timestamp() - interval '20 seconds') $$;
comment on function pam_private.is_operator_alive is 'Whether an operator was heard of in the last 20 seconds.';

-- The Supabase CLI's own table; a project that never pushed has none.
create function pam_private.migration_history() returns table (version text, name text)
language plpgsql stable security definer set search_path = '' as
$$
begin
  if to_regclass('supabase_migrations.schema_migrations') is null then return; end if;
  if exists (select from pg_catalog.pg_attribute a where a.attrelid = to_regclass('supabase_migrations.schema_migrations') and a.attname = 'name' and not a.attisdropped) then
    return query execute 'select m.version::text, m.name::text from supabase_migrations.schema_migrations m order by m.version';
  else
    return query execute 'select m.version::text, null::text from supabase_migrations.schema_migrations m order by m.version';
  end if;
end $$;
comment on function pam_private.migration_history is 'What the Supabase CLI knows to be applied, in order.';

create function pam_private.next_change_version() returns text
language plpgsql security definer set search_path = '' as
$$
declare
  at timestamp := date_trunc('second', clock_timestamp() at time zone 'utc');
  last text;
begin
  perform pg_advisory_xact_lock(hashtextextended('pam versions of schema changes', 0));
  select max(v.version) into last from (
    select h.version from pam_private.migration_history() h where h.version ~ '^2[0-9]{13}$'
    union all select c.version from pam.schema_changes c) v;
  if last >= to_char(at, 'YYYYMMDDHH24MISS') then
    at := to_timestamp(last, 'YYYYMMDDHH24MISS')::timestamp + interval '1 second';
  end if;
  return to_char(at, 'YYYYMMDDHH24MISS');
end $$;
comment on function pam_private.next_change_version is 'The time, as the Supabase CLI names files, and later than every version there is.';

create function pam_worker.schema_state(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(schema_state.run_id, schema_state.fence, to_write => false);
begin
  if not pam_private.may_change_schema(run.org_id) then return pam_private.distrusted(); end if;
  return jsonb_build_object(
    'is_operator_alive', pam_private.is_operator_alive(),
    'history', coalesce((select jsonb_agg(jsonb_build_object('version', h.version, 'name', h.name) order by h.version collate "C") from pam_private.migration_history() h), '[]'),
    'changes', coalesce((select jsonb_agg(to_jsonb(c) - 'sql' - 'report' - 'findings' order by c.created_at desc) from (
        select * from pam.schema_changes c where c.org_id = run.org_id order by c.created_at desc limit 20) c), '[]'),
    'files', coalesce((select jsonb_agg(f.path order by f.path collate "C") from pam.files f
        where f.org_id = run.org_id and f.path ~ '^supabase/migrations/[0-9]+_[^/]*\.sql$'), '[]'));
end $$;
comment on function pam_worker.schema_state is 'The target''s history, the organisation''s latest changes, its migration files, and whether an operator lives.';

create function pam_worker.propose_change(run_id uuid, fence bigint, call uuid, name text, sql text, findings jsonb, acknowledged jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(propose_change.run_id, propose_change.fence);
  change pam.schema_changes;
begin
  if not pam_private.may_change_schema(run.org_id) then
    perform pam_private.record(run.org_id, run.user_id, 'schema.propose', false, jsonb_build_object('run_id', run.id));
    return pam_private.distrusted();
  end if;
  select * into change from pam.schema_changes c where c.org_id = run.org_id and c.call_id = propose_change.call;
  if found then return to_jsonb(change); end if;
  if (select count(*) from pam.schema_changes c where c.org_id = run.org_id and c.created_at > now() - interval '1 day') >= 200 then
    return pam_private.refusal('limit', 'An organisation may propose 200 schema changes a day.');
  end if;
  insert into pam.schema_changes as c (org_id, name, version, sql, sql_sha256, findings, acknowledged, run_id, call_id, proposed_by)
  values (run.org_id, propose_change.name, pam_private.next_change_version(), propose_change.sql,
          encode(sha256(convert_to(propose_change.sql, 'UTF8')), 'hex'), propose_change.findings, propose_change.acknowledged,
          run.id, propose_change.call, run.user_id)
  returning * into change;
  perform pam_private.record(run.org_id, run.user_id, 'schema.propose', true, jsonb_build_object(
    'run_id', run.id, 'change', change.id, 'version', change.version, 'sql_sha256', change.sql_sha256));
  return to_jsonb(change);
end $$;
comment on function pam_worker.propose_change is 'Keep a proposal with what the lint said; a repeated call gets its own back.';

create function pam_worker.read_change(run_id uuid, fence bigint, change uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(read_change.run_id, read_change.fence, to_write => false);
  found_change pam.schema_changes;
begin
  if not pam_private.may_change_schema(run.org_id) then return pam_private.distrusted(); end if;
  select * into found_change from pam.schema_changes c where c.org_id = run.org_id and c.id = read_change.change;
  if not found then return pam_private.refusal('not_found', 'There is no such change in this organisation: status lists them.'); end if;
  return to_jsonb(found_change);
end $$;
comment on function pam_worker.read_change is 'One schema change of the run''s organisation, with its report.';

create function pam_worker.request_check(run_id uuid, fence bigint, change uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(request_check.run_id, request_check.fence);
  found_change pam.schema_changes;
begin
  if not pam_private.may_change_schema(run.org_id) then return pam_private.distrusted(); end if;
  select * into found_change from pam.schema_changes c where c.org_id = run.org_id and c.id = request_check.change for update;
  if not found then return pam_private.refusal('not_found', 'There is no such change in this organisation: status lists them.'); end if;
  if found_change.status = 'checking' then return to_jsonb(found_change); end if;
  if found_change.status not in ('proposed', 'checked') then
    return pam_private.refusal('conflict', format('The change is %s: propose it anew.', found_change.status));
  end if;
  if not pam_private.is_operator_alive() then
    return pam_private.refusal('no_operator', 'No operator is there to try the change: a person starts one with `pam operator`, or applies the exported file by hand.');
  end if;
  update pam.schema_changes c set status = 'checking', checked_for = run.user_id, failure = null, base = null, report = '{}'
   where c.org_id = run.org_id and c.id = found_change.id returning * into found_change;
  perform pam_private.record(run.org_id, run.user_id, 'schema.check', true, jsonb_build_object('run_id', run.id, 'change', found_change.id));
  perform pg_notify('pam_operator', found_change.id::text);
  return to_jsonb(found_change);
end $$;
comment on function pam_worker.request_check is 'Ask the operator to try a change; it is rolled back.';

-- Who agreed, to which text, seen against which schema. Null when it holds.
create function pam_private.agreement_fault(change pam.schema_changes) returns jsonb
language plpgsql stable security definer set search_path = '' as
$$
declare
  asked record;
begin
  if not pam_private.may_change_schema(change.org_id) then return pam_private.distrusted(); end if;
  select a.status, a.facts, a.tool, a.decided_by, a.decided_at, a.expires_at, a.asker_id, a.is_four_eyes into asked
    from pam.approvals a where a.org_id = change.org_id and a.id = change.approval_call;
  if not found or asked.status::text <> 'approved' or asked.tool <> 'supabase_migrate' then
    return pam_private.refusal('not_agreed', 'Nobody has approved this change: call apply, and a person is asked.');
  end if;
  if not asked.facts @> jsonb_build_object('change', change.id, 'sql_sha256', change.sql_sha256, 'base', change.base) then
    return pam_private.refusal('not_agreed', 'What was approved is another text, or was checked against another schema: check the change and call apply again.');
  end if;
  if asked.decided_at > asked.expires_at or asked.decided_at < clock_timestamp() - interval '1 hour' then
    return pam_private.refusal('not_agreed', 'The approval is too old: call apply again.');
  end if;
  if coalesce(pam_private.role_in(change.org_id, asked.decided_by), 'viewer') < 'admin' then
    return pam_private.refusal('not_agreed', 'A schema change needs the word of an admin or owner of the organisation.');
  end if;
  if asked.is_four_eyes and asked.decided_by = asked.asker_id then
    return pam_private.refusal('not_agreed', 'Four eyes: somebody other than the person who asked must approve.');
  end if;
  return null;
end $$;
comment on function pam_private.agreement_fault is 'Why a change may not be applied, as a refusal, or null: trusted, approved in time, by an admin, this text on this schema.';

create function pam_worker.approve_change(run_id uuid, fence bigint, call uuid, change uuid, sql_sha256 text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(approve_change.run_id, approve_change.fence);
  found_change pam.schema_changes;
  fault jsonb;
begin
  select * into found_change from pam.schema_changes c where c.org_id = run.org_id and c.id = approve_change.change for update;
  if not found then return pam_private.refusal('not_found', 'There is no such change in this organisation: status lists them.'); end if;
  -- The same call again, after its worker was lost: what it began goes on.
  if found_change.approval_call = approve_change.call and found_change.status in ('approved', 'applying', 'applied', 'failed') then
    return to_jsonb(found_change);
  end if;
  if found_change.status <> 'checked' then
    return pam_private.refusal('conflict', format('The change is %s: only a checked one is applied.', found_change.status));
  end if;
  if not exists (select from pam.tool_calls c where c.org_id = run.org_id and c.run_id = run.id and c.id = approve_change.call and c.tool = 'supabase_migrate') then
    return pam_private.refusal('not_agreed', 'The approval belongs to another call.');
  end if;
  found_change.approval_call := approve_change.call;
  fault := case when found_change.sql_sha256 is distinct from approve_change.sql_sha256
    then pam_private.refusal('not_agreed', 'What was approved is another text: call apply again.')
    else pam_private.agreement_fault(found_change) end;
  if fault is not null then
    perform pam_private.record(run.org_id, run.user_id, 'schema.approve', false, jsonb_build_object('run_id', run.id, 'change', found_change.id, 'call', approve_change.call));
    return fault;
  end if;
  update pam.schema_changes c set status = 'approved', approval_call = approve_change.call, approved_at = clock_timestamp(), failure = null,
         approved_by = (select a.decided_by from pam.approvals a where a.org_id = run.org_id and a.id = approve_change.call)
   where c.org_id = run.org_id and c.id = found_change.id returning * into found_change;
  perform pam_private.record(run.org_id, found_change.approved_by, 'schema.approve', true, jsonb_build_object(
    'run_id', run.id, 'change', found_change.id, 'call', approve_change.call, 'sql_sha256', found_change.sql_sha256));
  perform pg_notify('pam_operator', found_change.id::text);
  return to_jsonb(found_change);
end $$;
comment on function pam_worker.approve_change is 'Hand a change to the operator, once a person with the right approved exactly this text for this call.';

create function pam_private.change_path(change pam.schema_changes) returns text
language sql immutable set search_path = '' as
$$ select format('supabase/migrations/%s_%s.sql', change.version, change.name) $$;
comment on function pam_private.change_path is 'The migration file of a change, as the Supabase CLI names it.';

create function pam_worker.export_change(run_id uuid, fence bigint, call uuid, change uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(export_change.run_id, export_change.fence);
  found_change pam.schema_changes;
  written jsonb;
begin
  if not pam_private.may_change_schema(run.org_id) then return pam_private.distrusted(); end if;
  select * into found_change from pam.schema_changes c where c.org_id = run.org_id and c.id = export_change.change for update;
  if not found then return pam_private.refusal('not_found', 'There is no such change in this organisation: status lists them.'); end if;
  if found_change.status = 'exported' then return to_jsonb(found_change); end if;
  if found_change.status not in ('proposed', 'checking', 'checked') then
    return pam_private.refusal('conflict', format('The change is %s.', found_change.status));
  end if;
  written := pam_private.write_file(run.org_id, run.user_id, export_change.call, pam_private.change_path(found_change),
                                    convert_to(found_change.sql, 'UTF8'), 0);
  if written ? 'refused' then return written; end if;
  update pam.schema_changes c set status = 'exported' where c.org_id = run.org_id and c.id = found_change.id returning * into found_change;
  perform pam_private.record(run.org_id, run.user_id, 'schema.export', true, jsonb_build_object(
    'run_id', run.id, 'change', found_change.id, 'path', pam_private.change_path(found_change), 'sql_sha256', found_change.sql_sha256));
  return to_jsonb(found_change);
end $$;
comment on function pam_worker.export_change is 'Write a change as a migration file of the workspace, for a person to push: there is no operator.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke all on pam.schema_changes, pam_private.trusted_organizations, pam_private.operator_pulse from public, anon, authenticated, service_role;
grant select on pam.schema_changes to authenticated;
revoke execute on function pam.trust_organization_with_schema(uuid), pam.distrust_organization_with_schema(uuid) from public, anon, authenticated, service_role;
grant execute on function pam_worker.schema_state(uuid, bigint), pam_worker.propose_change(uuid, bigint, uuid, text, text, jsonb, jsonb),
  pam_worker.read_change(uuid, bigint, uuid), pam_worker.request_check(uuid, bigint, uuid),
  pam_worker.approve_change(uuid, bigint, uuid, uuid, text), pam_worker.export_change(uuid, bigint, uuid, uuid) to pam_worker;
