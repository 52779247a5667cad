-- What a call leaves behind stands beside its intent: a row that names a call needs that call to have begun.

create function pam_private.require_begun() returns trigger
language plpgsql security definer set search_path = '' as
$$
declare
  call uuid := to_jsonb(new) ->> tg_argv[0];
begin
  if not exists (select from pam.tool_calls c where c.org_id = new.org_id and c.id = call and c.status = 'started') then
    raise exception 'call % has no recorded intent: nothing is written for it', call using errcode = 'PM002';
  end if;
  return new;
end $$;
comment on function pam_private.require_begun is 'Refuses a row of a call whose intent is not recorded, or that is over. Its argument: the column that names the call.';

create trigger "A call's file stands beside its intent"
before insert on pam.file_versions for each row when (new.call_id is not null)
execute function pam_private.require_begun('call_id');

create trigger "A proposal stands beside its call's intent"
before insert on pam.schema_changes for each row when (new.call_id is not null)
execute function pam_private.require_begun('call_id');

create trigger "A change is handed on beside its call's intent"
before update on pam.schema_changes for each row
when (new.approval_call is not null and new.approval_call is distinct from old.approval_call)
execute function pam_private.require_begun('approval_call');

revoke execute on all functions in schema pam_private from public, anon, service_role;
