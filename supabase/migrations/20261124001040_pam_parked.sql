-- A run that costs one worker after another is parked: it ends, its log says what each attempt died of, and a person may
-- have it tried again.

alter table pam.runs add column retried_by uuid;
comment on column pam.runs.retried_by is 'The newest run that asked the same again, after this one had failed or was cancelled.';
create index runs_parked on pam.runs (org_id, ended_at desc) where reason = 'attempts' and retried_by is null;

create function pam_private.lost_event(run pam.runs, head pam_private.run_heads) returns jsonb
language sql volatile security definer set search_path = '' as
$$ select jsonb_build_object('type', 'CUSTOM', 'name', 'pam.lost', 'timestamp', pam_private.now_ms(), 'value', jsonb_build_object(
     'worker', head.worker, 'turn', run.turn, 'attempt', run.attempt, 'steps', run.steps, 'lease_until', head.lease_until,
     'calls', coalesce((select jsonb_agg(c.tool order by c.step, c.place) from pam.tool_calls c
                         where c.org_id = run.org_id and c.run_id = run.id and c.status = 'started'), '[]'))) $$;
comment on function pam_private.lost_event is 'What is known of a worker that fell silent: who it was, how far the run had come, and which calls were under way.';

create function pam_private.losses(run pam.runs) returns text
language sql stable security definer set search_path = '' as
$$ select string_agg(format('%s at %s UTC%s', l.value ->> 'worker', to_char(l.created_at at time zone 'utc', 'HH24:MI:SS'),
                            ' in ' || (select string_agg(c.tool, ', ') from jsonb_array_elements_text(l.value -> 'calls') as c (tool))), '; ' order by l.seq)
     from (select e.seq, e.created_at, e.payload -> 'value' as value from pam.events e
            where e.run_id = run.id and e.type = 'CUSTOM' and e.payload ->> 'name' = 'pam.lost'
            order by e.seq desc limit run.attempt) as l $$;
comment on function pam_private.losses is 'Which workers a run has lost since its last step, when, and in which calls; null where the log does not tell.';

create or replace function pam_worker.claim_run(run_id uuid, turn int, worker text, lease_seconds int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  head pam_private.run_heads;
  run pam.runs;
  is_open boolean;
begin
  select * into head from pam_private.run_heads h where h.run_id = claim_run.run_id for update;
  select * into run from pam.runs r where r.id = claim_run.run_id;
  if not found then return pam_private.refusal('not_found', 'There is no such run.'); end if;
  if run.turn <> claim_run.turn then return pam_private.refusal('old_turn', format('The run is at turn %s.', run.turn)); end if;
  if run.status <> 'queued' then return pam_private.refusal('not_queued', format('The run is %s.', run.status)); end if;
  if run.after_run is not null then return pam_private.refusal('waiting', 'The run waits for the one before it in its thread.'); end if;
  if run.cancel_requested_at is not null then
    perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    return pam_private.refusal('ended', 'The run was cancelled.');
  end if;
  if run.paused_at is not null then return pam_private.refusal('paused', 'Somebody lets the run rest.'); end if;
  if coalesce(pam_private.role_in(run.org_id, run.user_id), 'viewer') < 'developer' then
    perform pam_private.end_run(run, 'failed', 'access_revoked', 'The person who asked may not work in this organisation any more.');
    return pam_private.refusal('ended', 'The asker lost access.');
  end if;
  if run.deadline_at <= clock_timestamp() then
    perform pam_private.end_run(run, 'failed', 'deadline', 'The run reached its time limit.');
    return pam_private.refusal('ended', 'The run reached its time limit.');
  end if;
  if run.attempt >= 5 then
    perform pam_private.end_run(run, 'failed', 'attempts', format(
      'The run is parked: five workers in a row were lost after step %s%s. Once the cause is mended it can be tried again.',
      run.steps, coalesce(' (' || pam_private.losses(run) || ')', '')));
    return pam_private.refusal('ended', 'The run is parked after five attempts at one step.');
  end if;
  -- One organisation's claims go one after another: its cap is then kept without a race.
  perform pg_advisory_xact_lock(hashtextextended('pam claims of ' || run.org_id, 0));
  if pam_private.is_full(run.org_id) then return pam_private.refusal('full', 'The organisation has as many runs under way as it may.'); end if;
  update pam_private.run_heads h set fence = h.fence + 1, worker = left(claim_run.worker, 200),
         lease_until = clock_timestamp() + make_interval(secs => claim_run.lease_seconds)
   where h.run_id = run.id returning * into head;
  update pam.runs r set status = 'running', attempt = r.attempt + 1, started_at = coalesce(r.started_at, clock_timestamp())
   where r.id = run.id returning * into run;
  is_open := exists (
    select from pam.events e where e.run_id = run.id and e.type = 'RUN_STARTED'
     and not exists (select from pam.events f where f.run_id = run.id and f.seq > e.seq and f.type in ('RUN_FINISHED', 'RUN_ERROR')));
  perform pam_private.append(run, jsonb_build_array(case when is_open
    then jsonb_build_object('type', 'CUSTOM', 'name', 'pam.resumed', 'value', jsonb_build_object('attempt', run.attempt, 'turn', run.turn), 'timestamp', pam_private.now_ms())
    else pam_private.started_event(run) end));
  return jsonb_build_object('fence', head.fence, 'run', to_jsonb(run),
    'agent', (select v.definition || jsonb_build_object('name', a.name, 'version', v.version)
                from pam.agent_versions v join pam.agents a on a.org_id = v.org_id and a.id = v.agent_id
               where v.org_id = run.org_id and v.agent_id = run.agent_id and v.version = run.agent_version));
end $$;

create or replace function pam_worker.sweep_runs(max_runs int default 500) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  head pam_private.run_heads;
  run pam.runs;
  due jsonb := '[]';
begin
  if not pg_try_advisory_xact_lock(hashtextextended('pam sweep', 0)) then return '[]'; end if;
  for head in
    select h.* from pam.runs r join pam_private.run_heads h on h.run_id = r.id
     where r.status in ('queued', 'running', 'interrupted')
       and case r.status
             when 'running' then coalesce(h.lease_until, '-infinity') < clock_timestamp()
             when 'interrupted' then r.interrupted_at < clock_timestamp() - interval '7 days' or r.cancel_requested_at is not null
             else r.paused_at is null and (h.rung_at < clock_timestamp() - interval '10 s' or r.deadline_at < clock_timestamp()) end
     order by r.created_at limit max_runs
     for update of h skip locked
  loop
    -- The run as it is under the lock: since the loop began its worker may have ended it, or a person answered it.
    select r.* into run from pam.runs r
     where r.id = head.run_id
       and case r.status
             when 'running' then coalesce(head.lease_until, '-infinity') < clock_timestamp()
             when 'interrupted' then r.interrupted_at < clock_timestamp() - interval '7 days' or r.cancel_requested_at is not null
             when 'queued' then head.rung_at < clock_timestamp() - interval '10 s' or r.deadline_at < clock_timestamp()
             else false end;
    continue when not found;
    if run.status = 'running' then
      perform pam_private.append(run, jsonb_build_array(pam_private.lost_event(run, head)));
    end if;
    if run.cancel_requested_at is not null then
      perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    elsif run.status = 'interrupted' then
      perform pam_private.end_run(run, 'failed', 'unanswered', 'Nobody answered the run''s question for seven days.');
    elsif run.deadline_at < clock_timestamp() then
      perform pam_private.end_run(run, 'failed', 'deadline', 'The run reached its time limit.');
    elsif run.status = 'running' then
      update pam_private.run_heads h set fence = h.fence + 1, lease_until = null, rung_at = clock_timestamp() where h.run_id = run.id;
      update pam.runs r set status = 'queued', turn = r.turn + 1 where r.id = run.id returning * into run;
      due := due || jsonb_build_object('run_id', run.id, 'turn', run.turn);
    else
      update pam_private.run_heads h set rung_at = clock_timestamp() where h.run_id = run.id;
      due := due || jsonb_build_object('run_id', run.id, 'turn', run.turn);
    end if;
  end loop;
  return due;
end $$;

create function pam.retry_run(run_id uuid, despite_effects boolean default false) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  old pam.runs;
  run pam.runs;
  effects text;
begin
  select * into old from pam.runs r where r.id = retry_run.run_id;  -- an end is final: no lock is needed to judge it
  if not found or pam_private.role_in(old.org_id, me) is null then
    return pam_private.refusal('not_found', 'There is no such run.');
  end if;
  -- It is its asker's again, with their rights, so that nobody lends theirs to what somebody else has written.
  if pam_private.role_in(old.org_id, me) < (case when old.user_id = me then 'developer' else 'admin' end)::pam.member_role then
    perform pam_private.record(old.org_id, me, 'run.retry', false, jsonb_build_object('run_id', old.id));
    return pam_private.refusal('forbidden', 'The person who started the run tries it again, or an admin or owner.');
  end if;
  if coalesce(pam_private.role_in(old.org_id, old.user_id), 'viewer') < 'developer' then
    perform pam_private.record(old.org_id, me, 'run.retry', false, jsonb_build_object('run_id', old.id));
    return pam_private.refusal('forbidden', 'The person who asked may not work in this organisation any more: ask the same yourself.');
  end if;
  if old.status not in ('failed', 'cancelled') then
    return pam_private.refusal('conflict', format('Only a run that failed or was cancelled is tried again: this one is %s.', old.status));
  end if;
  if old.task is not null or exists (select from pam.jobs j where j.org_id = old.org_id and j.run_id = old.id) then
    return pam_private.refusal('conflict', 'This is the run of a job: let the job be tried again.');
  end if;
  select string_agg(format('%s in step %s (%s)', left(c.tool, 63), c.step, c.status), ', ' order by c.step, c.place) into effects
    from (select * from pam.tool_calls t where t.org_id = old.org_id and t.run_id = old.id
             and t.effect not in ('read', 'pause') and (t.status = 'succeeded' or (t.status = 'unknown' and t.started_at is not null)) order by t.step, t.place limit 10) as c;
  if effects is not null and retry_run.despite_effects is distinct from true then
    perform pam_private.record(old.org_id, me, 'run.retry', false, jsonb_build_object('run_id', old.id, 'effects', effects));
    return pam_private.refusal('conflict', format(
      'The run has or may have taken effect, and a second may do the same once more: %s. Look at what is there, then say despite_effects.', effects));
  end if;
  -- In the order of start_run: the person, then the thread.
  perform pg_advisory_xact_lock(hashtextextended('pam runs of ' || old.user_id::text, 0));
  if (select count(*) from pam.runs r where r.user_id = old.user_id and r.status in ('queued', 'running', 'interrupted')) >= 50 then
    return pam_private.refusal('limit', 'Whoever asked has 50 unfinished runs: wait for one to end, or cancel one.');
  end if;
  perform 1 from pam.threads t where t.org_id = old.org_id and t.id = old.thread_id for update;
  if exists (select from pam.runs r where r.org_id = old.org_id and r.thread_id = old.thread_id
              and r.status in ('queued', 'running', 'interrupted')) then
    return pam_private.refusal('busy', 'A run of this thread is not finished: wait for it, answer it or cancel it.');
  end if;
  insert into pam.runs as r (org_id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens, max_cost_usd, max_seconds,
                             deadline_at, request_sha256, priority)
  select old.org_id, old.thread_id, a.id, a.version, old.user_id, old.max_steps, old.max_tokens, old.max_cost_usd, old.max_seconds,
         now() + make_interval(secs => coalesce(old.max_seconds, 900)), old.request_sha256, old.priority
    from pam.agents a where a.org_id = old.org_id and a.id = old.agent_id
  returning * into run;
  insert into pam_private.run_claims (run_id, claims) values (run.id, case when old.user_id = me then coalesce(auth.jwt(), '{}') else '{}' end);
  insert into pam.messages (org_id, thread_id, run_id, role, content)
  select run.org_id, run.thread_id, run.id, 'user', m.content from pam.messages m
   where m.org_id = old.org_id and m.run_id = old.id and m.role = 'user' order by m.position limit 1;
  update pam.runs r set retried_by = run.id where r.org_id = old.org_id and r.id = old.id;
  perform pam_private.record(run.org_id, me, 'run.retry', true, jsonb_build_object(
    'run_id', run.id, 'of', old.id, 'asker', run.user_id, 'despite_effects', effects));
  return jsonb_build_object('run_id', run.id, 'thread_id', run.thread_id, 'status', run.status);
end $$;
comment on function pam.retry_run is 'Ask what a failed or cancelled run was asked once more, in its thread, as its asker and within its limits, of the agent as it is by now: {"run_id", "thread_id", "status"}. despite_effects: also when it has or may have taken effect.';

revoke execute on all functions in schema pam_private from public, anon, service_role;
revoke execute on function pam.retry_run(uuid, boolean) from public, anon, service_role;
grant execute on function pam.retry_run(uuid, boolean) to authenticated;
