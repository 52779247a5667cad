-- Jobs: work that is due now, later or by a schedule. A job only points to work; carrying it out is a run, through the one door.

create type pam.job_status as enum ('scheduled', 'queued', 'running', 'succeeded', 'failed', 'cancelled');
comment on type pam.job_status is 'scheduled waits for its time; queued and running are its run''s; the last three are final until somebody retries.';

create table pam.schedules (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  name text not null check (char_length(name) between 1 and 80),
  task text not null check (task ~ '^[a-z][a-z0-9_]{0,62}$'),
  arguments jsonb not null check (jsonb_typeof(arguments) = 'object' and octet_length(arguments::text) <= 65536),
  cron text not null check (char_length(cron) <= 100),
  time_zone text not null check (char_length(time_zone) <= 64),
  next_at timestamptz,
  ends_at timestamptz not null,
  is_active boolean not null default true,
  user_id uuid not null,
  agent_id uuid not null,
  agent_version int not null,
  limits jsonb not null,
  max_attempts int not null check (max_attempts between 1 and 5),
  depth int not null check (depth between 1 and 5),
  tainted_at timestamptz,
  taint text,
  submitted_by_run uuid,
  submitted_by_call uuid,
  last_job_id uuid,
  skipped int not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  primary key (org_id, id),
  foreign key (org_id, agent_id, agent_version) references pam.agent_versions
);
comment on table pam.schedules is 'Work that comes again by a cron expression in a time zone. The sweep finds next_at due, its caller says the time after it.';
comment on column pam.schedules.ends_at is 'A schedule ends by itself: one that nobody looks after does not run for ever.';
comment on column pam.schedules.skipped is 'Times at which the job before had not ended, or the organisation had too many open jobs.';
create index schedules_newest on pam.schedules (org_id, created_at desc, id desc);
create index schedules_of_agent on pam.schedules (org_id, agent_id, agent_version);
create index schedules_due on pam.schedules (next_at) where is_active;
create index schedules_of_run on pam.schedules (org_id, submitted_by_run);
create unique index schedules_once_per_call on pam.schedules (org_id, submitted_by_call);

create table pam.jobs (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  name text check (char_length(name) between 1 and 80),
  task text not null check (task ~ '^[a-z][a-z0-9_]{0,62}$'),
  arguments jsonb not null check (jsonb_typeof(arguments) = 'object' and octet_length(arguments::text) <= 65536),
  status pam.job_status not null default 'scheduled',
  reason text,
  due_at timestamptz not null,
  schedule_id uuid,
  schedule_due_at timestamptz,
  run_id uuid,
  user_id uuid not null,
  agent_id uuid not null,
  agent_version int not null,
  limits jsonb not null,
  attempt int not null default 0,
  max_attempts int not null check (max_attempts between 1 and 5),
  depth int not null check (depth between 1 and 5),
  tainted_at timestamptz,
  taint text,
  claims_until timestamptz,
  submitted_by_run uuid,
  submitted_by_call uuid,
  retried_by_call uuid,
  result text check (octet_length(result) <= 65536),
  result_origin text,
  created_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz,
  primary key (org_id, id),
  foreign key (org_id, schedule_id) references pam.schedules on delete cascade,
  foreign key (org_id, run_id) references pam.runs on delete set null (run_id),
  foreign key (org_id, agent_id, agent_version) references pam.agent_versions
);
comment on table pam.jobs is 'A piece of work by name: the agent itself, or one call of a tool without a model. run_id is its newest run, and that run''s log is its log.';
comment on column pam.jobs.task is '`agent`: ask the agent with arguments.message. Otherwise a tool''s name, called once with the arguments.';
comment on column pam.jobs.depth is 'How many jobs led to this one: work that begets work ends at five.';
comment on column pam.jobs.taint is 'What the run that submitted it had read, from a source that nobody vouches for: its own run has read it too.';
comment on column pam.jobs.claims_until is 'Until then its run acts with what the person''s token said; afterwards with what is read afresh alone.';
comment on column pam.jobs.result_origin is 'Where the result comes from when PAM did not say it itself.';
create index jobs_newest on pam.jobs (org_id, created_at desc, id desc);
create index jobs_of_agent on pam.jobs (org_id, agent_id, agent_version);
create index jobs_due on pam.jobs (user_id, due_at, id) where status = 'scheduled';
create index jobs_open on pam.jobs (org_id) where status in ('scheduled', 'queued', 'running');
create index jobs_submitted_by_run on pam.jobs (org_id, submitted_by_run);
create unique index jobs_one_per_run on pam.jobs (org_id, run_id);
create unique index jobs_once_per_call on pam.jobs (org_id, submitted_by_call);
create unique index jobs_once_per_due_time on pam.jobs (org_id, schedule_id, schedule_due_at);

alter table pam.runs add column task jsonb check (jsonb_typeof(task) = 'object');
comment on column pam.runs.task is '{"tool", "arguments"}: this run asks no model; its one step is this call, on the path that every call takes.';

alter table pam.schedules enable row level security;
alter table pam.schedules force row level security;
alter table pam.jobs enable row level security;
alter table pam.jobs force row level security;

create policy "People read the schedules of their organisations"
on pam.schedules for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "People read the jobs of their organisations"
on pam.jobs for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam_private.granted_tools(org uuid, agent uuid, version int) returns jsonb
language sql stable security definer set search_path = '' as
$$ select coalesce((select v.definition -> 'tools' from pam.agent_versions v
                     where v.org_id = org and v.agent_id = agent and v.version = granted_tools.version), '[]') $$;
comment on function pam_private.granted_tools is 'The tools that a version of an agent''s card lists.';

create function pam_private.current_tools(org uuid, agent uuid) returns jsonb
language sql stable security definer set search_path = '' as
$$ select pam_private.granted_tools(org, agent, (select a.version from pam.agents a where a.org_id = org and a.id = agent)) $$;
comment on function pam_private.current_tools is 'The tools that the agent''s card lists by now.';

-- A job's run: a thread of its own, the submitter's limits, what the submitter had read. Answers null, or why there is none.
create function pam_private.start_job(job pam.jobs) returns text
language plpgsql security definer set search_path = '' as
$$
declare
  tools jsonb := pam_private.current_tools(job.org_id, job.agent_id);
  is_agent boolean := job.task = 'agent';
  run pam.runs;
  thread uuid;
begin
  if coalesce(pam_private.role_in(job.org_id, job.user_id), 'viewer') < 'developer' then return 'access_revoked'; end if;
  -- Never more than the version that submitted it, and never more than the card by now.
  if not (case when is_agent then pam_private.granted_tools(job.org_id, job.agent_id, job.agent_version) <@ tools
               else tools ? job.task end) then
    return 'not_granted';
  end if;
  insert into pam.threads as t (org_id, title, created_by)
  values (job.org_id, 'Job: ' || coalesce(job.name, job.task), job.user_id) returning t.id into thread;
  insert into pam.runs as r (org_id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens, max_cost_usd, deadline_at,
                             request_sha256, task, tainted_at, taint)
  values (job.org_id, thread, job.agent_id, job.agent_version, job.user_id, (job.limits -> 'max_steps')::int, (job.limits -> 'max_tokens')::int,
          (job.limits -> 'max_cost_usd')::numeric, clock_timestamp() + make_interval(secs => (job.limits -> 'max_seconds')::int),
          encode(sha256(convert_to(job.arguments::text, 'UTF8')), 'hex'),
          case when not is_agent then jsonb_build_object('tool', job.task, 'arguments', job.arguments) end, job.tainted_at, job.taint)
  returning * into run;
  insert into pam_private.run_claims (run_id, claims)
  values (run.id, coalesce((select c.claims from pam_private.run_claims c
                             where c.run_id = job.submitted_by_run and job.claims_until > clock_timestamp()), '{}'));
  insert into pam.messages (org_id, thread_id, run_id, role, content)
  values (run.org_id, thread, run.id, 'user', case when is_agent then job.arguments ->> 'message' else format('Carry out %s once.', job.task) end);
  update pam.jobs j set status = 'queued', run_id = run.id, attempt = j.attempt + 1, reason = null, result = null, result_origin = null, ended_at = null
   where j.org_id = job.org_id and j.id = job.id;
  perform pam_private.record(job.org_id, job.user_id, 'job.start', true, jsonb_build_object('job_id', job.id, 'run_id', run.id, 'task', job.task));
  return null;
end $$;
comment on function pam_private.start_job is 'Make a due job''s run: the one way in which a job becomes work. Answers null, or the reason why it cannot.';

-- A call that the lost attempt may have carried out is not carried out again: that is for a person to say.
create function pam_private.is_safe_to_repeat(run pam.runs) returns boolean
language sql stable security definer set search_path = '' as
$$ select run.reason is distinct from 'access_revoked' and not exists (
     select from pam.tool_calls c where c.org_id = run.org_id and c.run_id = run.id and c.effect not in ('read', 'pause')
        and c.status not in ('planned', 'failed', 'waiting', 'answered') and not (c.status = 'refused' and run.task is null)) $$;
comment on function pam_private.is_safe_to_repeat is 'Whether a failed run had no effect, so that its job may be tried again by itself. A refused call of a job without a model is final.';

create function pam_private.follow_run() returns trigger
language plpgsql security definer set search_path = '' as
$$
declare
  job pam.jobs;
  said text;
begin
  select j.* into job from pam.jobs j where j.org_id = new.org_id and j.run_id = new.id for update;
  if not found then return null; end if;
  if new.status in ('queued', 'running', 'interrupted') then
    update pam.jobs j set status = case new.status when 'queued' then 'queued' else 'running' end::pam.job_status
     where j.org_id = job.org_id and j.id = job.id;
    return null;
  end if;
  said := coalesce(
    (select c.result from pam.tool_calls c where new.task is not null and c.org_id = new.org_id and c.run_id = new.id and c.step = 1 limit 1),
    (select m.content from pam.messages m where new.status = 'succeeded' and m.org_id = new.org_id and m.run_id = new.id and m.step = new.steps),
    (select e.payload ->> 'message' from pam.events e where e.run_id = new.id and e.type = 'RUN_ERROR' order by e.seq desc limit 1));
  while octet_length(said) > 65536 loop said := left(said, char_length(said) - greatest((octet_length(said) - 65536) / 4, 1)); end loop;
  if new.status = 'failed' and job.attempt < job.max_attempts and pam_private.is_safe_to_repeat(new) then
    update pam.jobs j set status = 'scheduled', reason = new.reason, result = said, result_origin = new.taint,
           due_at = clock_timestamp() + make_interval(secs => least(job.attempt * job.attempt * 10, 3600))
     where j.org_id = job.org_id and j.id = job.id;
  else
    update pam.jobs j set status = new.status::text::pam.job_status, reason = new.reason, result = said, result_origin = new.taint, ended_at = clock_timestamp()
     where j.org_id = job.org_id and j.id = job.id;
  end if;
  return null;
end $$;
comment on function pam_private.follow_run is 'A job is what its run is; one that failed without an effect is due again, after the square of its attempts times 10 s.';
create trigger "A job follows its run" after update of status on pam.runs
for each row when (old.status <> new.status) execute function pam_private.follow_run();

create function pam_private.announce_job() returns trigger
language plpgsql security definer set search_path = '' as
$$
begin
  perform realtime.send(jsonb_build_object('job_id', new.id, 'status', new.status, 'run_id', new.run_id), 'job', 'org:' || new.org_id, true);
  return null;
end $$;
comment on function pam_private.announce_job is 'Tell the organisation''s topic what a job is now: ids and its status, never contents.';
create trigger "A job's status is announced" after update of status on pam.jobs
for each row when (old.status <> new.status) execute function pam_private.announce_job();

create function pam_worker.sweep_jobs(max_jobs int default 100) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  found_id record;
  job pam.jobs;
  why text;
  due jsonb := '[]';
begin
  if not pg_try_advisory_xact_lock(hashtextextended('pam sweep of jobs', 0)) then return '[]'; end if;
  -- A person's jobs take 40 of their 50 unfinished runs: ten are left for themselves, and nobody waits behind another's heap.
  for found_id in
    select mine.org_id, mine.id
      from (select distinct j.user_id from pam.jobs j where j.status = 'scheduled' and j.due_at <= clock_timestamp()) as person,
      lateral (select j.org_id, j.id, j.due_at from pam.jobs j
                where j.user_id = person.user_id and j.status = 'scheduled' and j.due_at <= clock_timestamp()
                order by j.due_at, j.id
                limit greatest(40 - (select count(*) from pam.runs r where r.user_id = person.user_id
                                        and r.status in ('queued', 'running', 'interrupted')), 0)) as mine
     order by mine.due_at, mine.id limit max_jobs
  loop
    select j.* into job from pam.jobs j where j.org_id = found_id.org_id and j.id = found_id.id and j.status = 'scheduled' for update skip locked;
    continue when not found;
    begin
      why := pam_private.start_job(job);
    exception when others then  -- one job that breaks must not stop everybody's
      why := 'internal';
      raise warning 'PAM could not start job %: %', job.id, sqlstate;
    end;
    if why is null then
      due := due || (select jsonb_build_object('run_id', j.run_id, 'turn', 1) from pam.jobs j where j.org_id = job.org_id and j.id = job.id);
    else
      update pam.jobs j set status = 'failed', reason = why, ended_at = clock_timestamp() where j.org_id = job.org_id and j.id = job.id;
      perform pam_private.record(job.org_id, job.user_id, 'job.start', false, jsonb_build_object('job_id', job.id, 'reason', why));
    end if;
  end loop;
  return due;
end $$;
comment on function pam_worker.sweep_jobs is 'Make due jobs into queued runs, each once: [{"run_id", "turn"}] to enqueue.';

create function pam_worker.due_schedules(max_schedules int default 100) returns jsonb
language sql stable security definer set search_path = '' as
$$ select coalesce(jsonb_agg(jsonb_build_object('org_id', s.org_id, 'id', s.id, 'cron', s.cron, 'time_zone', s.time_zone, 'due_at', s.next_at,
                                                'after', greatest(s.next_at, clock_timestamp()))), '[]')
     from (select d.* from pam.schedules d where d.is_active and d.next_at <= clock_timestamp() order by d.next_at limit max_schedules) s $$;
comment on function pam_worker.due_schedules is 'Schedules whose time has come: the caller reckons the time after `after` and calls advance_schedule.';

create function pam_worker.advance_schedule(org_id uuid, id uuid, due_at timestamptz, next_at timestamptz) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  schedule pam.schedules;
  is_over boolean;
  job uuid;
begin
  select s.* into schedule from pam.schedules s
   where s.org_id = advance_schedule.org_id and s.id = advance_schedule.id for update;
  if not found or not schedule.is_active or schedule.next_at is distinct from advance_schedule.due_at or schedule.next_at > clock_timestamp() then
    return 'null';  -- somebody else was here, or nothing is due
  end if;
  if advance_schedule.next_at < schedule.next_at + interval '1 minute' or advance_schedule.next_at < clock_timestamp() - interval '1 minute' then
    return pam_private.refusal('invalid', 'The next time must be at least a minute after this one, and not behind the clock: times that were missed are not made up for.');
  end if;
  is_over := advance_schedule.next_at is null or advance_schedule.next_at > schedule.ends_at;
  if coalesce(pam_private.role_in(schedule.org_id, schedule.user_id), 'viewer') < 'developer' then
    update pam.schedules s set is_active = false, next_at = null where s.org_id = schedule.org_id and s.id = schedule.id;
    perform pam_private.record(schedule.org_id, schedule.user_id, 'schedule.stop', true, jsonb_build_object('schedule_id', schedule.id, 'reason', 'access_revoked'));
    return 'null';
  end if;
  if not exists (select from pam.jobs j where j.org_id = schedule.org_id and j.id = schedule.last_job_id and j.status in ('scheduled', 'queued', 'running'))
     and (select count(*) from (select from pam.jobs j where j.org_id = schedule.org_id and j.status in ('scheduled', 'queued', 'running') limit 10000) o) < 10000 then
    insert into pam.jobs as j (org_id, name, task, arguments, due_at, schedule_id, schedule_due_at, user_id, agent_id, agent_version, limits,
                               max_attempts, depth, tainted_at, taint)
    values (schedule.org_id, schedule.name, schedule.task, schedule.arguments, clock_timestamp(), schedule.id, schedule.next_at, schedule.user_id,
            schedule.agent_id, schedule.agent_version, schedule.limits, schedule.max_attempts, schedule.depth, schedule.tainted_at, schedule.taint)
    on conflict do nothing returning j.id into job;
  end if;
  update pam.schedules s set next_at = case when not is_over then advance_schedule.next_at end, is_active = not is_over,
         last_job_id = coalesce(job, s.last_job_id), skipped = s.skipped + case when job is null then 1 else 0 end
   where s.org_id = schedule.org_id and s.id = schedule.id;
  return coalesce(to_jsonb(job), 'null');
end $$;
comment on function pam_worker.advance_schedule is 'Make the job of a schedule whose time has come and say when it comes next (null: never): once, for due_at must still be its next time.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke all on pam.schedules, pam.jobs from public, anon, authenticated, service_role;
grant select on pam.schedules, pam.jobs to authenticated;
grant execute on function pam_worker.sweep_jobs(int), pam_worker.due_schedules(int),
  pam_worker.advance_schedule(uuid, uuid, timestamptz, timestamptz) to pam_worker, pam_sweeper;
