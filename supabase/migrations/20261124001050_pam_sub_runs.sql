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

create or replace function pam_worker.submit_job(run_id uuid, fence bigint, call uuid, job jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(submit_job.run_id, submit_job.fence);
  due timestamptz := coalesce((job ->> 'due_at')::timestamptz, clock_timestamp() + make_interval(secs => coalesce((job ->> 'in_seconds')::numeric, 0)));
  depth int := pam_private.depth_of(run) + 1;
  made pam.jobs;
  schedule pam.schedules;
  refusal jsonb;
  about jsonb := jsonb_build_object('run_id', run.id, 'call', submit_job.call, 'task', left(job ->> 'task', 63));
begin
  if not pam_private.has_begun(run, submit_job.call) then
    raise exception 'call % of run % has no recorded intent to submit a job', submit_job.call, run.id using errcode = 'PM002';
  end if;
  select j.* into made from pam.jobs j where j.org_id = run.org_id and j.submitted_by_call = submit_job.call;
  if found then return jsonb_build_object('job_id', made.id, 'status', made.status, 'due_at', made.due_at, 'is_replay', true); end if;
  select s.* into schedule from pam.schedules s where s.org_id = run.org_id and s.submitted_by_call = submit_job.call;
  if found then return jsonb_build_object('schedule_id', schedule.id, 'next_at', schedule.next_at, 'ends_at', schedule.ends_at, 'is_replay', true); end if;

  if run.cancel_requested_at is not null then
    return pam_private.refusal('conflict', 'The run is being cancelled: it begins nothing more.');
  end if;
  refusal := coalesce(
    pam_private.job_fault(run.org_id, run.user_id, job, pam_private.granted_tools(run.org_id, run.agent_id, run.agent_version), depth),
    pam_private.due_fault(due));
  if refusal is null and (select count(*) from pam.jobs j where j.org_id = run.org_id and j.submitted_by_run = run.id)
                       + (select count(*) from pam.schedules s where s.org_id = run.org_id and s.submitted_by_run = run.id) >= 100 then
    refusal := pam_private.refusal('limit', 'One run submits 100 jobs and schedules: let one job do more of the work.');
  end if;
  if refusal is null and job ? 'cron' and (select count(*) from pam.schedules s where s.org_id = run.org_id and s.is_active) >= 200 then
    refusal := pam_private.refusal('limit', 'The organisation has 200 active schedules: cancel one that is not needed any more.');
  end if;
  if refusal is not null then
    perform pam_private.record(run.org_id, run.user_id, 'job.submit', false, about);
    return refusal;
  end if;
  if job ? 'cron' then
    insert into pam.schedules as s (org_id, name, task, arguments, cron, time_zone, next_at, ends_at, user_id, agent_id, agent_version, limits,
                                    max_attempts, depth, tainted_at, taint, submitted_by_run, submitted_by_call)
    values (run.org_id, coalesce(job ->> 'name', job ->> 'task'), job ->> 'task', job -> 'arguments', job ->> 'cron', job ->> 'time_zone', due,
            clock_timestamp() + interval '366 days', run.user_id, run.agent_id, run.agent_version, pam_private.limits_of(run),
            coalesce((job ->> 'max_attempts')::int, 1), depth, run.tainted_at, run.taint, run.id, submit_job.call)
    returning * into schedule;
    perform pam_private.record(run.org_id, run.user_id, 'schedule.submit', true, about || jsonb_build_object('schedule_id', schedule.id));
    return jsonb_build_object('schedule_id', schedule.id, 'next_at', schedule.next_at, 'ends_at', schedule.ends_at, 'is_replay', false);
  end if;
  insert into pam.jobs as j (org_id, name, task, arguments, due_at, user_id, agent_id, agent_version, limits, max_attempts, depth,
                             tainted_at, taint, claims_until, submitted_by_run, submitted_by_call)
  values (run.org_id, job ->> 'name', job ->> 'task', job -> 'arguments', due, run.user_id, run.agent_id, run.agent_version, pam_private.limits_of(run),
          coalesce((job ->> 'max_attempts')::int, 1), depth, run.tainted_at, run.taint, pam_private.claims_end(run.id), run.id, submit_job.call)
  returning * into made;
  perform pam_private.record(run.org_id, run.user_id, 'job.submit', true, about || jsonb_build_object('job_id', made.id));
  return jsonb_build_object('job_id', made.id, 'status', made.status, 'due_at', made.due_at, 'is_replay', false);
end $$;

revoke execute on all functions in schema pam_private from public, anon, service_role;
