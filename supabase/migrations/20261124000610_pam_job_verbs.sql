-- How jobs and schedules are submitted, looked at, cancelled and tried again: by a run for its person, and by people themselves.

-- What holds for every job, whoever submits it. Answers a refusal, or null.
create function pam_private.job_fault(org uuid, person uuid, job jsonb, tools jsonb, depth int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  task text := job ->> 'task';
begin
  if coalesce(task, '') !~ '^[a-z][a-z0-9_]{0,62}$' then
    return pam_private.refusal('invalid', 'A task is `agent` or the name of a tool.');
  end if;
  if coalesce(jsonb_typeof(job -> 'arguments'), '') <> 'object' or octet_length((job -> 'arguments')::text) > 65536 then
    return pam_private.refusal('too_large', 'Arguments are a JSON object of at most 64 KiB: put more into a workspace file and name it.');
  end if;
  if char_length(job ->> 'name') not between 1 and 80 then
    return pam_private.refusal('invalid', 'A job''s name has 1 to 80 characters.');
  end if;
  if coalesce(job ->> 'max_attempts', '1') !~ '^[1-5]$' then
    return pam_private.refusal('invalid', 'max_attempts is 1 to 5.');
  end if;
  if task in ('celery_task', 'ask_person') then
    return pam_private.refusal('forbidden', format('%s is no task: a job that plans or asks is a job of the task `agent`.', task));
  end if;
  if task = 'agent' and (coalesce(job -> 'arguments' ->> 'message', '') !~ '\S' or char_length(job -> 'arguments' ->> 'message') > 60000
                         or exists (select from jsonb_object_keys(job -> 'arguments') as k (name) where k.name <> 'message')) then
    return pam_private.refusal('invalid', 'The arguments of the task `agent` are {"message"}: 1 to 60,000 characters that say what to do.');
  end if;
  if task <> 'agent' and not tools ? task then
    return pam_private.refusal('not_granted', format('The agent''s card does not grant %s, so no job of its may call it.', task));
  end if;
  if depth > 5 then
    return pam_private.refusal('limit', 'Jobs that submit jobs end at the fifth: this run is the fifth in its chain.');
  end if;
  -- Submissions of one organisation go one after another: the caps are then counted without a race.
  perform pg_advisory_xact_lock(hashtextextended('pam jobs of ' || org, 0));
  if (select count(*) from (select from pam.jobs j where j.org_id = org and j.status in ('scheduled', 'queued', 'running') limit 10000) o) >= 10000 then
    return pam_private.refusal('limit', 'The organisation has 10,000 open jobs: wait until some have ended, or cancel some.');
  end if;
  return null;
end $$;
comment on function pam_private.job_fault is 'Why a job may not be submitted, as a refusal, or null.';

create function pam_private.due_fault(due_at timestamptz) returns jsonb
language sql volatile set search_path = '' as
$$ select case when not isfinite(due_at) or due_at > clock_timestamp() + interval '366 days'
               then pam_private.refusal('invalid', 'A job is due within a year.') end $$;
comment on function pam_private.due_fault is 'Why a time is no time for a job, as a refusal, or null.';

create function pam_private.limits_of(run pam.runs) returns jsonb
language sql immutable set search_path = '' as
$$ select jsonb_build_object('max_steps', run.max_steps, 'max_tokens', run.max_tokens, 'max_cost_usd', run.max_cost_usd,
            'max_seconds', least(greatest(round(extract(epoch from run.deadline_at - run.created_at)), 60), 86400)::int) $$;
comment on function pam_private.limits_of is 'What a run may use up: its jobs may each use no more.';

create function pam_private.depth_of(run pam.runs) returns int
language sql stable security definer set search_path = '' as
$$ select coalesce((select j.depth from pam.jobs j where j.org_id = run.org_id and j.run_id = run.id), 0) $$;
comment on function pam_private.depth_of is 'How many jobs led to this run.';

create function pam_private.has_begun(run pam.runs, call uuid) returns boolean
language sql stable security definer set search_path = '' as
$$ select exists (select from pam.tool_calls c where c.org_id = run.org_id and c.run_id = run.id and c.id = call
                     and c.tool = 'celery_task' and c.status = 'started') $$;
comment on function pam_private.has_begun is 'Whether this call''s intent is recorded: nothing is submitted beside the ledger.';

-- A token that has expired says nothing more: its claims go with a job only as long as it would have been let in.
create function pam_private.claims_end(run uuid) returns timestamptz
language sql stable security definer set search_path = '' as
$$ select case when c.claims ->> 'exp' ~ '^\d{1,12}$' then to_timestamp((c.claims ->> 'exp')::bigint) end
     from pam_private.run_claims c where c.run_id = run $$;
comment on function pam_private.claims_end is 'When the token expires that a run was started with; null when it does not say.';

create function pam_worker.submit_job(run_id uuid, fence bigint, call uuid, job jsonb) returns jsonb
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
comment on function pam_worker.submit_job is 'Submit work for the run''s person, under its agent''s version and limits, once per call: {"job_id", "status", "due_at"}, or with cron {"schedule_id", "next_at", "ends_at"}.';

create function pam_worker.read_job(run_id uuid, fence bigint, job uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(read_job.run_id, read_job.fence, to_write => false);
begin
  return coalesce((
    select jsonb_build_object('job_id', j.id, 'name', j.name, 'task', j.task, 'status', j.status, 'reason', j.reason, 'due_at', j.due_at,
             'attempt', j.attempt, 'max_attempts', j.max_attempts, 'run_id', j.run_id, 'result', j.result,
             'is_waiting', exists (select from pam.runs r where r.org_id = j.org_id and r.id = j.run_id and r.status = 'interrupted'),
             'origin', coalesce(j.result_origin, case when j.user_id <> run.user_id then 'a colleague''s job' end))
      from pam.jobs j where j.org_id = run.org_id and j.id = read_job.job),
    pam_private.refusal('not_found', 'There is no such job in this organisation.'));
end $$;
comment on function pam_worker.read_job is 'A job of the run''s organisation with its result, and where that comes from when nobody vouches for it.';

create function pam_worker.list_jobs(run_id uuid, fence bigint, status text default null, max_rows int default 50) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(list_jobs.run_id, list_jobs.fence, to_write => false);
begin
  return jsonb_build_object(
    'jobs', coalesce((select jsonb_agg(to_jsonb(listed)) from (
      select j.id as job_id, j.name, j.task, j.status, j.due_at, j.attempt, j.run_id, j.taint is not null or j.user_id <> run.user_id as is_foreign
        from pam.jobs j where j.org_id = run.org_id and (list_jobs.status is null or j.status::text = list_jobs.status)
       order by j.created_at desc, j.id desc limit least(list_jobs.max_rows, 200)) as listed), '[]'),
    'schedules', coalesce((select jsonb_agg(to_jsonb(listed)) from (
      select s.id as schedule_id, s.name, s.task, s.cron, s.time_zone, s.next_at, s.skipped, s.taint is not null or s.user_id <> run.user_id as is_foreign
        from pam.schedules s where s.org_id = run.org_id and s.is_active
       order by s.created_at desc, s.id desc limit 200) as listed), '[]'));
end $$;
comment on function pam_worker.list_jobs is 'Newest jobs and active schedules of the run''s organisation: no arguments, no results. is_foreign: its name is not the person''s own word.';

-- Whoever writes to a run locks its head first; so does who ends one through its job.
create function pam_private.cancel_job(org uuid, wanted uuid, person uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  schedule pam.schedules;
  job pam.jobs;
  run pam.runs;
  leased boolean;
begin
  select s.* into schedule from pam.schedules s where s.org_id = org and s.id = wanted for update;
  if found then
    if schedule.user_id <> person and coalesce(pam_private.role_in(org, person), 'viewer') < 'admin' then
      perform pam_private.record(org, person, 'schedule.stop', false, jsonb_build_object('schedule_id', schedule.id));
      return pam_private.refusal('forbidden', 'Only the person whose schedule it is, an admin or an owner may cancel it.');
    end if;
    update pam.schedules s set is_active = false, next_at = null where s.org_id = org and s.id = schedule.id;
    perform pam_private.record(org, person, 'schedule.stop', true, jsonb_build_object('schedule_id', schedule.id));
    return jsonb_build_object('schedule_id', schedule.id, 'status', 'cancelled');
  end if;
  select h.lease_until > clock_timestamp() into leased from pam_private.run_heads h
   where h.run_id = (select j.run_id from pam.jobs j where j.org_id = org and j.id = wanted) for update;
  select j.* into job from pam.jobs j where j.org_id = org and j.id = wanted for update;
  if not found then return pam_private.refusal('not_found', 'There is no such job or schedule in this organisation.'); end if;
  if job.user_id <> person and coalesce(pam_private.role_in(org, person), 'viewer') < 'admin' then
    perform pam_private.record(org, person, 'job.cancel', false, jsonb_build_object('job_id', job.id));
    return pam_private.refusal('forbidden', 'Only the person whose job it is, an admin or an owner may cancel it.');
  end if;
  if job.status in ('succeeded', 'failed', 'cancelled') then
    return pam_private.refusal('conflict', format('The job has ended already: it %s.', case job.status when 'cancelled' then 'was cancelled' else job.status::text end));
  end if;
  perform pam_private.record(org, person, 'job.cancel', true, jsonb_build_object('job_id', job.id));
  if job.status = 'scheduled' then
    update pam.jobs j set status = 'cancelled', reason = 'cancelled', ended_at = clock_timestamp() where j.org_id = org and j.id = job.id;
    return jsonb_build_object('job_id', job.id, 'status', 'cancelled');
  end if;
  update pam.runs r set cancel_requested_at = clock_timestamp() where r.org_id = org and r.id = job.run_id returning * into run;
  if run.status = 'running' and leased then
    return jsonb_build_object('job_id', job.id, 'status', 'running');
  end if;
  perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
  return jsonb_build_object('job_id', job.id, 'status', 'cancelled');
end $$;
comment on function pam_private.cancel_job is 'Stop a schedule, or a job and its run: at once when no worker holds it, else at its next step.';

create function pam_private.retry_job(org uuid, wanted uuid, person uuid, call uuid, depth int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  job pam.jobs;
begin
  select j.* into job from pam.jobs j where j.org_id = org and j.id = wanted for update;
  if not found then return pam_private.refusal('not_found', 'There is no such job in this organisation.'); end if;
  if job.retried_by_call = call then return jsonb_build_object('job_id', job.id, 'status', job.status, 'is_replay', true); end if;
  if job.user_id <> person then
    -- It runs with its own person's rights: whoever starts it again steers what those are used for.
    if call is not null or coalesce(pam_private.role_in(org, person), 'viewer') < 'admin' then
      perform pam_private.record(org, person, 'job.retry', false, jsonb_build_object('job_id', job.id));
      return pam_private.refusal('forbidden', 'Only the person whose job it is may try it again, or an admin or owner from their own screen.');
    end if;
  end if;
  if job.status not in ('failed', 'cancelled') then
    return pam_private.refusal('conflict', format('Only a job that failed or was cancelled is tried again: this one is %s.', job.status));
  end if;
  -- A retry counts as work begotten by the one who asks for it, so that two jobs cannot try each other again for ever.
  if greatest(job.depth, depth) > 5 then
    return pam_private.refusal('limit', 'Jobs that submit or retry jobs end at the fifth: this run is the fifth in its chain.');
  end if;
  update pam.jobs j set status = 'scheduled', due_at = clock_timestamp(), attempt = 0, retried_by_call = call, depth = greatest(job.depth, retry_job.depth),
         claims_until = null, ended_at = null, reason = null
   where j.org_id = org and j.id = job.id;
  perform pam_private.record(org, person, 'job.retry', true, jsonb_build_object('job_id', job.id));
  return jsonb_build_object('job_id', job.id, 'status', 'scheduled', 'is_replay', false);
end $$;
comment on function pam_private.retry_job is 'Let a job that failed or was cancelled be due again, now, with all its attempts.';

create function pam_worker.cancel_job(run_id uuid, fence bigint, job uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(cancel_job.run_id, cancel_job.fence, to_write => false);
begin
  return pam_private.cancel_job(run.org_id, cancel_job.job, run.user_id);
end $$;
comment on function pam_worker.cancel_job is 'Cancel a job or a schedule, as the run''s person.';

create function pam_worker.retry_job(run_id uuid, fence bigint, call uuid, job uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(retry_job.run_id, retry_job.fence, to_write => false);
begin
  if not pam_private.has_begun(run, retry_job.call) then
    raise exception 'call % of run % has no recorded intent to retry a job', retry_job.call, run.id using errcode = 'PM002';
  end if;
  return pam_private.retry_job(run.org_id, retry_job.job, run.user_id, retry_job.call, pam_private.depth_of(run) + 1);
end $$;
comment on function pam_worker.retry_job is 'Try a job again, as the run''s person, once per call.';

create function pam.cancel_job(org_id uuid, job_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
begin
  if pam_private.role_in(cancel_job.org_id, me) is null then
    return pam_private.refusal('not_found', 'There is no such job or schedule in this organisation.');
  end if;
  return pam_private.cancel_job(cancel_job.org_id, cancel_job.job_id, me);
end $$;
comment on function pam.cancel_job is 'Cancel a job or a schedule: its person, admins and owners.';

create function pam.retry_job(org_id uuid, job_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(retry_job.org_id, auth.uid());
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such job in this organisation.'); end if;
  if mine < 'developer' then
    perform pam_private.record(retry_job.org_id, me, 'job.retry', false, jsonb_build_object('job_id', retry_job.job_id));
    return pam_private.refusal('forbidden', 'Viewers watch jobs; a developer, admin or owner tries them again.');
  end if;
  return pam_private.retry_job(retry_job.org_id, retry_job.job_id, me, null, 1);
end $$;
comment on function pam.retry_job is 'Try a failed or cancelled job again: its person, admins and owners.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke execute on function pam.cancel_job(uuid, uuid), pam.retry_job(uuid, uuid) from public, anon, service_role;
grant execute on function pam.cancel_job(uuid, uuid), pam.retry_job(uuid, uuid) to authenticated;
grant execute on function pam_worker.submit_job(uuid, bigint, uuid, jsonb), pam_worker.read_job(uuid, bigint, uuid),
  pam_worker.list_jobs(uuid, bigint, text, int), pam_worker.cancel_job(uuid, bigint, uuid), pam_worker.retry_job(uuid, bigint, uuid, uuid) to pam_worker;
