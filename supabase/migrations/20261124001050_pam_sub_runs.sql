-- A run that is cancelled takes with it what it began and what has not ended, down to the last. What comes by a schedule was
-- made to outlast it, and stays.

create function pam_private.cancel_begotten() returns trigger
language plpgsql security definer set search_path = '' as
$$
declare
  begotten uuid;
begin
  for begotten in
    select j.id from pam.jobs j where j.org_id = new.org_id and j.submitted_by_run = new.id and j.status in ('scheduled', 'queued', 'running') order by j.id
  loop
    -- One that starts in this moment has a run at the second look.
    if pam_private.cancel_job(new.org_id, begotten, new.user_id) ? 'refused' then
      perform pam_private.cancel_job(new.org_id, begotten, new.user_id);
    end if;
  end loop;
  return null;
end $$;
comment on function pam_private.cancel_begotten is 'Cancel the unfinished jobs of a run that is cancelled; their runs cancel theirs.';
create trigger "A cancelled run takes its jobs with it" after update of cancel_requested_at on pam.runs
for each row when (old.cancel_requested_at is null and new.cancel_requested_at is not null) execute function pam_private.cancel_begotten();

revoke execute on all functions in schema pam_private from public, anon, service_role;
