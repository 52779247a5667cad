-- A person lets a run rest, and its jobs' runs with it, and lets them go on: a worker stops within a pulse, and nobody takes
-- the run meanwhile. Unlike a cancelled one it loses nothing.

create function pam_private.let_rest(run pam.runs, person uuid) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  begotten pam.runs;
begin
  update pam.runs r set paused_at = clock_timestamp(), paused_by = person where r.id = run.id and r.paused_at is null;
  for begotten in
    select r.* from pam.jobs j join pam.runs r on r.org_id = j.org_id and r.id = j.run_id
     where j.org_id = run.org_id and j.submitted_by_run = run.id and r.status in ('queued', 'running', 'interrupted') order by r.id
  loop
    perform 1 from pam_private.run_heads h where h.run_id = begotten.id for update;
    perform pam_private.let_rest(begotten, person);
  end loop;
end $$;
comment on function pam_private.let_rest is 'Pause a run that has not ended, and the runs of its jobs, down to the last.';

create function pam_private.let_go_on(run pam.runs) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  begotten pam.runs;
begin
  -- A turn more rings for one that waits for a worker; one that has not stopped yet goes on as if nothing had been said.
  update pam.runs r set paused_at = null, paused_by = null, deadline_at = r.deadline_at + (clock_timestamp() - r.paused_at),
         turn = r.turn + case when r.status = 'queued' and r.after_run is null then 1 else 0 end
   where r.id = run.id and r.paused_at is not null;
  if found then
    update pam_private.run_heads h set rung_at = clock_timestamp() where h.run_id = run.id;
  end if;
  for begotten in
    select r.* from pam.jobs j join pam.runs r on r.org_id = j.org_id and r.id = j.run_id
     where j.org_id = run.org_id and j.submitted_by_run = run.id and r.status in ('queued', 'running', 'interrupted') order by r.id
  loop
    perform 1 from pam_private.run_heads h where h.run_id = begotten.id for update;
    perform pam_private.let_go_on(begotten);
  end loop;
end $$;
comment on function pam_private.let_go_on is 'Resume a paused run and the runs of its jobs, down to the last; their clocks stood still.';

create function pam_private.pausable(wanted uuid, action text, out run pam.runs, out fault jsonb)
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
begin
  perform 1 from pam_private.run_heads h where h.run_id = wanted for update;
  select * into run from pam.runs r where r.id = wanted;
  if not found or pam_private.role_in(run.org_id, me) is null then
    fault := pam_private.refusal('not_found', 'There is no such run.');
  elsif pam_private.role_in(run.org_id, me) < (case when run.user_id = me then 'developer' else 'admin' end)::pam.member_role then
    perform pam_private.record(run.org_id, me, action, false, jsonb_build_object('run_id', run.id));
    fault := pam_private.refusal('forbidden', 'The person who started the run pauses and resumes it, or an admin or owner.');
  elsif run.status not in ('queued', 'running', 'interrupted') or run.cancel_requested_at is not null then
    fault := pam_private.refusal('conflict', 'The run is over.');
  end if;
end $$;
comment on function pam_private.pausable is 'The run, locked; and why the caller may not do this to it, if that is so.';

create function pam.pause_run(run_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  looked record := pam_private.pausable(pause_run.run_id, 'run.pause');
  run pam.runs := looked.run;
begin
  if looked.fault is not null then return looked.fault; end if;
  perform pam_private.let_rest(run, auth.uid());
  perform pam_private.record(run.org_id, auth.uid(), 'run.pause', true, jsonb_build_object('run_id', run.id));
  return jsonb_build_object('run_id', run.id, 'status', run.status, 'message',
    case when run.status = 'running' then 'The run stops where it is, an effect under way first comes to its end.' else 'The run rests until it is resumed.' end);
end $$;
comment on function pam.pause_run is 'Let a run rest, with its jobs'' runs, until it is resumed; safe to repeat. Its asker, admins and owners.';

create function pam.resume_run(run_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  looked record := pam_private.pausable(resume_run.run_id, 'run.resume');
  run pam.runs := looked.run;
begin
  if looked.fault is not null then return looked.fault; end if;
  if run.paused_at is null then return pam_private.refusal('conflict', 'The run is not paused.'); end if;
  perform pam_private.let_go_on(run);
  perform pam_private.record(run.org_id, auth.uid(), 'run.resume', true, jsonb_build_object('run_id', run.id));
  return jsonb_build_object('run_id', run.id, 'status', run.status, 'message', 'The run goes on.');
end $$;
comment on function pam.resume_run is 'Let a paused run go on, with its jobs'' runs. Its asker, admins and owners.';

-- Who cancels while a worker gives the run back has cancelled it, too: no worker looks at one that is paused.
create or replace function pam_worker.release_run(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(release_run.run_id, release_run.fence, still_member => false);
begin
  if run.cancel_requested_at is not null then
    perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    return 'null';
  end if;
  update pam_private.run_heads h set lease_until = null, fence = h.fence + 1, rung_at = clock_timestamp() where h.run_id = run.id;
  update pam.runs r set status = 'queued', turn = r.turn + 1, attempt = greatest(r.attempt - 1, 0) where r.id = run.id;
  return 'null';
end $$;

revoke execute on all functions in schema pam_private from public, anon, service_role;
revoke execute on function pam.pause_run(uuid), pam.resume_run(uuid) from public, anon, service_role;
grant execute on function pam.pause_run(uuid), pam.resume_run(uuid) to authenticated;
