-- What the operator calls, on the owner's connection: it takes a change, says what trying it showed, and applies it.
-- Nobody else may execute these: their grants are taken away at the end, the owner's own stay.

create function pam_private.operator_beat() returns void
language sql security definer set search_path = '' as
$$ insert into pam_private.operator_pulse (seen_at) values (clock_timestamp()) on conflict (is_one) do update set seen_at = excluded.seen_at $$;
comment on function pam_private.operator_beat is 'The operator lives.';

create function pam_private.take_change() returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  change pam.schema_changes;
begin
  -- There is one operator at a time, so what stands at applying was broken off: its transaction is gone with its connection.
  select * into change from pam.schema_changes c where c.status in ('checking', 'approved', 'applying')
   order by c.status = 'checking', c.created_at limit 1 for update skip locked;
  if not found then return 'null'; end if;
  if change.status = 'approved' then
    update pam.schema_changes c set status = 'applying' where c.org_id = change.org_id and c.id = change.id returning * into change;
  end if;
  return to_jsonb(change) || jsonb_build_object(
    'may_read_rows', coalesce(pam_private.role_in(change.org_id, change.checked_for), 'viewer') >= 'admin',
    'is_trusted', pam_private.may_change_schema(change.org_id));
end $$;
comment on function pam_private.take_change is 'The next change to check or to apply, approved ones first; null when there is none.';

create function pam_private.report_check(org uuid, change uuid, status pam.change_status, base text, report jsonb, failure text) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  person uuid;
begin
  if report_check.status not in ('proposed', 'checked', 'refused') then
    raise exception '% is no outcome of a check', report_check.status using errcode = '22023';
  end if;
  update pam.schema_changes c set status = report_check.status, base = report_check.base, report = report_check.report,
         failure = report_check.failure, checked_at = clock_timestamp()
   where c.org_id = report_check.org and c.id = report_check.change and c.status = 'checking' returning c.checked_for into person;
  if found then
    perform pam_private.record(report_check.org, person, 'schema.checked', report_check.status = 'checked',
      jsonb_build_object('change', report_check.change, 'base', report_check.base));
  end if;
end $$;
comment on function pam_private.report_check is 'What trying a change showed: checked, refused for good, or proposed again when it could not be tried.';

create function pam_private.begin_apply(org uuid, change uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  found_change pam.schema_changes;
begin
  perform pg_advisory_xact_lock(hashtextextended('pam applies a schema change', 0));
  select * into found_change from pam.schema_changes c where c.org_id = begin_apply.org and c.id = begin_apply.change for update;
  if not found or found_change.status <> 'applying' then
    return pam_private.refusal('conflict', 'The change is not to be applied (any more).');
  end if;
  return coalesce(pam_private.agreement_fault(found_change), to_jsonb(found_change));
end $$;
comment on function pam_private.begin_apply is 'Lock a change to apply it, and look at its approval once more.';

create function pam_private.end_apply(org uuid, change uuid, statements text[], report jsonb) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  applied pam.schema_changes;
  written jsonb;
begin
  select * into applied from pam.schema_changes c where c.org_id = end_apply.org and c.id = end_apply.change and c.status = 'applying' for update;
  if not found then raise exception 'change % is not being applied', end_apply.change using errcode = '55000'; end if;
  -- Word for word as the Supabase CLI makes its own.
  create schema if not exists supabase_migrations;
  create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
  alter table supabase_migrations.schema_migrations add column if not exists statements text[];
  alter table supabase_migrations.schema_migrations add column if not exists name text;
  execute 'insert into supabase_migrations.schema_migrations (version, name, statements) values ($1, $2, $3)'
    using applied.version, applied.name, end_apply.statements;
  written := pam_private.write_file(applied.org_id, applied.approved_by, applied.approval_call, pam_private.change_path(applied),
                                    convert_to(applied.sql, 'UTF8'), 0);
  update pam.schema_changes c set status = 'applied', applied_at = clock_timestamp(), failure = null,
         report = end_apply.report || case when written ? 'refused'
           then jsonb_build_object('file_refused', written -> 'refused' ->> 'message') else jsonb_build_object('file', written -> 'path') end
   where c.org_id = applied.org_id and c.id = applied.id;
  perform pam_private.record(applied.org_id, applied.approved_by, 'schema.apply', true, jsonb_build_object(
    'change', applied.id, 'version', applied.version, 'sql_sha256', applied.sql_sha256));
end $$;
comment on function pam_private.end_apply is 'In the transaction of the change itself: the Supabase CLI''s history, the workspace file, the status and the audit row.';

create function pam_private.fail_apply(org uuid, change uuid, status pam.change_status, failure text) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  person uuid;
begin
  if fail_apply.status not in ('proposed', 'checked', 'failed') then
    raise exception '% is no end of an application that failed', fail_apply.status using errcode = '22023';
  end if;
  update pam.schema_changes c set status = fail_apply.status, failure = fail_apply.failure, approval_call = null,
         base = case when fail_apply.status = 'proposed' then null else c.base end
   where c.org_id = fail_apply.org and c.id = fail_apply.change and c.status = 'applying' returning c.approved_by into person;
  if found then
    perform pam_private.record(fail_apply.org, person, 'schema.apply', false, jsonb_build_object('change', fail_apply.change));
  end if;
end $$;
comment on function pam_private.fail_apply is 'Applying did not work and left nothing: proposed again after a drift, checked again after a lock, failed for good otherwise.';

revoke execute on all functions in schema pam_private from public, anon, service_role;
