-- Ends, retries and sweeps made firm: what nobody saw is charged, what may have taken effect is a person's to repeat, and a sweep
-- reads what is due and no more.

-- The bill of a call that was cut off is what it could have cost.
create or replace function pam_private.end_run(run pam.runs, outcome pam.run_status, why text, sentence text) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  unseen numeric;
  started boolean := exists (
    select from pam.events e where e.run_id = run.id and e.type = 'RUN_STARTED'
     and not exists (select from pam.events f where f.run_id = run.id and f.seq > e.seq and f.type in ('RUN_FINISHED', 'RUN_ERROR')));
begin
  -- A call whose end nobody saw is unknown, and what was reserved for it is charged; one that never began, or was never answered, is refused.
  select coalesce(sum(greatest(c.reserved_usd - c.cost_usd, 0)), 0) into unseen from pam.tool_calls c
   where c.org_id = run.org_id and c.run_id = run.id and c.status = 'started';
  update pam.tool_calls c set ended_at = clock_timestamp(), reserved_usd = 0,
         cost_usd = case c.status when 'started' then greatest(c.cost_usd, c.reserved_usd) else c.cost_usd end,
         status = case when c.status <> 'started' and c.started_at is null then 'refused' else 'unknown' end::pam.call_status, result = null
   where c.org_id = run.org_id and c.run_id = run.id and c.status in ('planned', 'started', 'waiting', 'answered');
  update pam.runs r set status = outcome, reason = why, ended_at = clock_timestamp(), cost_usd = r.cost_usd + unseen where r.id = run.id;
  update pam_private.run_heads h set fence = h.fence + 1, lease_until = null where h.run_id = run.id;
  perform pam_private.append(run,
    case when started then '[]'::jsonb else jsonb_build_array(pam_private.started_event(run)) end
    || jsonb_build_array(case outcome
         when 'cancelled' then jsonb_build_object('type', 'RUN_FINISHED', 'threadId', run.thread_id, 'runId', run.id,
                                                  'outcome', '{"type": "cancelled"}'::jsonb, 'timestamp', pam_private.now_ms())
         else jsonb_build_object('type', 'RUN_ERROR', 'message', sentence, 'code', why, 'timestamp', pam_private.now_ms()) end));
  perform pam_private.record(run.org_id, run.user_id, 'run.' || outcome, true, jsonb_build_object('run_id', run.id, 'reason', why));
end $$;
-- Arguments that are sent back as they are, written in another way, are no edit.
create or replace function pam_private.decide(asked pam.approvals, person uuid, through text, verdict text, edited jsonb, words text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  fault jsonb := pam_private.decision_fault(asked, person);
  outcome pam.approval_status;
  about jsonb := jsonb_build_object('run_id', asked.run_id, 'call', asked.id, 'kind', asked.kind, 'tool', asked.tool, 'asker', asked.asker_id);
begin
  if fault is not null then
    if pam_private.role_in(asked.org_id, person) is not null then
      perform pam_private.record(asked.org_id, person, 'approval.decide', false, about);
    end if;
    return fault;
  end if;
  if asked.status <> 'pending' then
    return pam_private.refusal('conflict', case asked.status
      when 'expired' then 'Too late: nobody decided in time, and the run was told so.'
      when 'withdrawn' then 'Too late: the run has ended.'
      else format('This was decided already: it was %s.', asked.status) end);
  end if;
  if asked.expires_at <= clock_timestamp() then
    return pam_private.refusal('conflict', 'Too late: the time to decide is over.');
  end if;
  if verdict is null or verdict <> all (case asked.kind when 'question' then array['answer'] else array['approve', 'reject'] end) then
    return pam_private.refusal('invalid', case asked.kind when 'question' then 'A question is answered: verdict is answer.' else 'The verdict is approve or reject.' end);
  end if;
  words := nullif(btrim(words), '');
  if char_length(words) > 20000 or (verdict = 'answer' and coalesce(words, '') !~ '\S') then
    return pam_private.refusal('invalid', case verdict when 'answer' then 'An answer has 1 to 20,000 characters.' else 'A note has at most 20,000 characters.' end);
  end if;
  if edited is not null and (verdict <> 'approve' or jsonb_typeof(edited) <> 'object' or octet_length(edited::text) > 2500000) then
    return pam_private.refusal('invalid', 'Edited arguments are a JSON object, and come with an approval.');
  end if;
  outcome := case verdict when 'approve' then 'approved' when 'reject' then 'rejected' else 'answered' end;
  update pam.approvals a set status = outcome, decided_by = person, decided_at = clock_timestamp(), decided_through = through,
         edited_arguments = nullif(edited, a.arguments), note = words,
         arguments_sha256 = pam_private.arguments_digest(coalesce(nullif(edited, a.arguments), a.arguments)), remind_at = null
   where a.org_id = asked.org_id and a.id = asked.id;
  update pam.tool_calls c set status = 'answered', result = case verdict when 'answer' then words end
   where c.org_id = asked.org_id and c.id = asked.id and c.status = 'waiting';
  perform pam_private.record(asked.org_id, person, 'approval.decide', true, about || jsonb_build_object('verdict', verdict,
    'through', through, 'is_edited', edited is not null and edited <> asked.arguments, 'arguments_sha256', pam_private.arguments_digest(coalesce(nullif(edited, asked.arguments), asked.arguments))));
  return jsonb_build_object('approval_id', asked.id, 'run_id', asked.run_id, 'status', outcome);
end $$;
-- Found by their keys, however many an organisation has.
create or replace function pam.decide(decisions jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  wanted record;
  asked pam.approvals;
  told jsonb;
  results jsonb := '[]';
  touched uuid[] := '{}';
  run uuid;
  states jsonb := '[]';
  uuid_form constant text := '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$';
begin
  if me is null then return pam_private.refusal('signed_out', 'Sign in first.'); end if;
  if coalesce(jsonb_typeof(decisions), '') <> 'array' or jsonb_array_length(decisions) not between 1 and 200
     or decisions @? '$[*] ? (@.type() != "object")' then
    return pam_private.refusal('invalid', 'decisions is a list of 1 to 200 objects: {"approval_id", "verdict": approve, reject or answer, "note", "arguments"}.');
  end if;
  -- Every head in one order, so that two batches never wait for each other.
  perform 1 from pam_private.run_heads h where h.run_id in (
    select a.run_id from pam.approvals a
     where a.org_id = any (pam_private.my_org_ids()) and a.id in (
             select case when d.entry ->> 'approval_id' ~ uuid_form then (d.entry ->> 'approval_id')::uuid end from jsonb_array_elements(decisions) as d (entry)))
   order by h.run_id for update;
  for wanted in select d.entry, d.place from jsonb_array_elements(decisions) with ordinality as d (entry, place) order by d.place loop
    told := null;
    if coalesce(wanted.entry ->> 'approval_id', '') ~ uuid_form then
      select a.* into asked from pam.approvals a where a.id = (wanted.entry ->> 'approval_id')::uuid and a.org_id = any (pam_private.my_org_ids());
      if found then
        told := pam_private.decide(asked, me, 'session', wanted.entry ->> 'verdict', nullif(wanted.entry -> 'arguments', 'null'), wanted.entry ->> 'note');
        if told ? 'status' then touched := touched || asked.run_id; end if;
      end if;
    end if;
    told := coalesce(told, pam_private.refusal('not_found', 'There is nothing to decide under this id.'));
    results := results || jsonb_build_array(jsonb_build_object('approval_id', wanted.entry -> 'approval_id') || told);
  end loop;
  for run in select distinct t.id from unnest(touched) as t (id) order by 1 loop
    states := states || jsonb_build_array(jsonb_build_object('run_id', run, 'status', pam_private.go_on(run)));
  end loop;
  return jsonb_build_object('results', results, 'runs', states);
end $$;
-- A moment that is read once can be looked up in an index.
create or replace function pam_worker.sweep_approvals(max_runs int default 500) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  moment timestamptz := clock_timestamp();
  waiting record;
  run pam.runs;
  due jsonb := '[]';
  open_interrupts jsonb;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('pam sweep approvals', 0)) then return '[]'; end if;
  for waiting in
    select h.run_id from pam_private.run_heads h where h.run_id in (
      select a.run_id from pam.approvals a where a.status = 'pending' and least(a.remind_at, a.expires_at) <= moment
       order by least(a.remind_at, a.expires_at) limit max_runs)
     for update skip locked
  loop
    select r.* into run from pam.runs r where r.id = waiting.run_id;
    continue when run.status <> 'interrupted';
    update pam.approvals a set status = 'expired', remind_at = null
     where a.org_id = run.org_id and a.run_id = run.id and a.kind = 'approval' and a.status = 'pending' and a.expires_at <= clock_timestamp();
    if found then
      update pam.tool_calls c set status = 'answered'
       where c.org_id = run.org_id and c.run_id = run.id and c.status = 'waiting'
         and exists (select from pam.approvals a where a.org_id = c.org_id and a.id = c.id and a.status = 'expired');
      perform pam_private.record(run.org_id, run.user_id, 'approval.expire', true, jsonb_build_object('run_id', run.id));
      if pam_private.go_on(run.id) = 'queued' then
        due := due || jsonb_build_object('run_id', run.id, 'turn', run.turn + 1);
        continue;
      end if;
    end if;
    -- A reminder is a closed part of the log of its own: the run wakes, says what still waits, and waits on.
    update pam.approvals a set reminders = a.reminders + 1,
           remind_at = case when a.reminders < 2 then clock_timestamp() + interval '6 hours' end
     where a.org_id = run.org_id and a.run_id = run.id and a.status = 'pending' and a.remind_at <= clock_timestamp();
    if found then
      select jsonb_agg(i.asked order by i.place) into open_interrupts
        from (select e.payload from pam.events e where e.run_id = run.id and e.type = 'RUN_FINISHED' order by e.seq desc limit 1) as last,
             jsonb_array_elements(last.payload -> 'outcome' -> 'interrupts') with ordinality as i (asked, place)
       where exists (select from pam.approvals a where a.org_id = run.org_id and a.id::text = i.asked ->> 'id' and a.status = 'pending');
      perform pam_private.append(run, jsonb_build_array(
        pam_private.started_event(run),
        jsonb_build_object('type', 'CUSTOM', 'name', 'pam.reminder', 'timestamp', pam_private.now_ms(), 'value', jsonb_build_object(
          'waiting', (select jsonb_agg(jsonb_build_object('approval_id', a.id, 'kind', a.kind, 'tool', a.tool, 'needs_role', a.needs_role,
                                                          'is_four_eyes', a.is_four_eyes, 'expires_at', a.expires_at) order by a.created_at, a.id)
                        from pam.approvals a where a.org_id = run.org_id and a.run_id = run.id and a.status = 'pending'))),
        jsonb_build_object('type', 'RUN_FINISHED', 'threadId', run.thread_id, 'runId', run.id, 'timestamp', pam_private.now_ms(),
                           'outcome', jsonb_build_object('type', 'interrupt', 'interrupts', coalesce(open_interrupts, '[]')))));
      -- Whoever could decide hears of it on a topic of their own, whether they watch the run or not.
      perform realtime.send(jsonb_build_object('event', 'pam.reminder', 'payload', jsonb_build_object('run_id', run.id, 'waiting', able.waiting)),
                            'pam.reminder', 'user:' || able.user_id, true)
         from (select m.user_id, count(*) as waiting from pam.members m
                 join pam.approvals a on a.org_id = m.org_id and a.run_id = run.id and a.status = 'pending'
                where m.org_id = run.org_id and pam_private.decision_fault(a, m.user_id) is null group by 1) as able;
    end if;
  end loop;
  return due;
end $$;
-- A place that is there already is replaced, however many there are.
create or replace function pam.record_checkout(org_id uuid, remote text, path text, ref text, commit_id text, since timestamptz) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(record_checkout.org_id, auth.uid());
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'developer' then
    perform pam_private.record(record_checkout.org_id, me, 'checkout.record', false);
    return pam_private.refusal('forbidden', 'Viewers read the workspace; a developer, admin or owner pulls into it.');
  end if;
  if coalesce(since, 'infinity') > clock_timestamp() or since < clock_timestamp() - interval '1 day' then
    return pam_private.refusal('invalid', 'A pull began within the last day: since is what read_workspace said of the time then.');
  end if;
  perform 1 from pam.organizations o where o.id = record_checkout.org_id for update;
  if (select count(*) from pam.checkouts c where c.org_id = record_checkout.org_id) >= 100 and not exists (
       select from pam.checkouts c where c.org_id = record_checkout.org_id and c.remote = record_checkout.remote and c.path = coalesce(record_checkout.path, '')) then
    return pam_private.refusal('limit', 'A workspace comes from at most 100 places.');
  end if;
  begin
    insert into pam.checkouts as c (org_id, remote, path, ref, commit_id, pulled_by, pulled_at)
    values (record_checkout.org_id, record_checkout.remote, coalesce(record_checkout.path, ''), record_checkout.ref, record_checkout.commit_id, me, since)
    on conflict on constraint checkouts_org_id_remote_path_key do update
      set ref = excluded.ref, commit_id = excluded.commit_id, pulled_by = excluded.pulled_by, pulled_at = excluded.pulled_at;
  exception when check_violation or not_null_violation then
    return pam_private.refusal('invalid', 'A checkout names an address without credentials, a folder, a ref and a commit.');
  end;
  perform pam_private.record(record_checkout.org_id, me, 'checkout.record', true, jsonb_build_object('commit_id', record_checkout.commit_id));
  return jsonb_build_object('commit_id', record_checkout.commit_id, 'pulled_at', since);
end $$;
-- The key stays until the deposit that was sealed to it is seen.
create or replace function pam_private.deposit_fault(deposit text) returns text
language plpgsql volatile security definer set search_path = '' as
$$
declare
  given bytea;
begin
  if coalesce(char_length(deposit), 0) not between 100 and 40000 then
    return 'The secret must be sealed to the key of pam.sealing_key() before it is sent, and hold at most 24 KiB.';
  end if;
  begin
    given := decode(deposit, 'base64');
  exception when others then return 'The sealed secret is no base64.';
  end;
  if substring(given from 1 for 5) <> '\x50414d6401'::bytea or octet_length(given) < 433 then
    return 'The secret must be sealed to the key of pam.sealing_key() before it is sent: what came is not sealed.';
  end if;
  perform 1 from pam_private.sealing_keys k where k.retired_at is null and uuid_send(k.id) = substring(given from 6 for 16) for share;
  if not found then
    return 'The secret is sealed to a key that was replaced: ask for pam.sealing_key() again and seal it anew.';
  end if;
  return null;
end $$;
-- A call that the run never came to is no refusal of the job.
create or replace function pam_private.is_safe_to_repeat(run pam.runs) returns boolean
language sql stable security definer set search_path = '' as
$$ select run.reason is distinct from 'access_revoked' and not exists (
     select from pam.tool_calls c where c.org_id = run.org_id and c.run_id = run.id and c.effect not in ('read', 'pause')
        and c.status not in ('planned', 'failed', 'waiting', 'answered') and not (c.status = 'refused' and (run.task is null or (c.started_at is null and c.result is null)))) $$;
-- As above.
create or replace function pam_worker.sweep_jobs(max_jobs int default 100) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  moment timestamptz := clock_timestamp();
  found_id record;
  job pam.jobs;
  why text;
  due jsonb := '[]';
begin
  if not pg_try_advisory_xact_lock(hashtextextended('pam sweep of jobs', 0)) then return '[]'; end if;
  -- A person's jobs take 40 of their 50 unfinished runs: ten are left for themselves, and nobody waits behind another's heap.
  for found_id in
    select mine.org_id, mine.id
      from (select distinct j.user_id from pam.jobs j where j.status = 'scheduled' and j.due_at <= moment) as person,
      lateral (select j.org_id, j.id, j.due_at from pam.jobs j
                where j.user_id = person.user_id and j.status = 'scheduled' and j.due_at <= moment
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
create index jobs_due_at on pam.jobs (due_at) include (user_id) where status = 'scheduled';

-- As above.
create or replace function pam_worker.due_schedules(max_schedules int default 100) returns jsonb
language sql stable security definer set search_path = '' as
$$ select coalesce(jsonb_agg(jsonb_build_object('org_id', s.org_id, 'id', s.id, 'cron', s.cron, 'time_zone', s.time_zone, 'due_at', s.next_at,
                                                'after', greatest(s.next_at, clock_timestamp()))), '[]')
     from (select d.* from pam.schedules d where d.is_active and d.next_at <= statement_timestamp() order by d.next_at limit max_schedules) s $$;
-- The run whose head was locked is the run that ends.
create or replace function pam_private.cancel_job(org uuid, wanted uuid, person uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  schedule pam.schedules;
  job pam.jobs;
  run pam.runs;
  leased boolean;
  seen uuid;
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
  select j.run_id into seen from pam.jobs j where j.org_id = org and j.id = wanted;
  select h.lease_until > clock_timestamp() into leased from pam_private.run_heads h where h.run_id = seen for update;
  select j.* into job from pam.jobs j where j.org_id = org and j.id = wanted for update;
  if not found then return pam_private.refusal('not_found', 'There is no such job or schedule in this organisation.'); end if;
  if job.user_id <> person and coalesce(pam_private.role_in(org, person), 'viewer') < 'admin' then
    perform pam_private.record(org, person, 'job.cancel', false, jsonb_build_object('job_id', job.id));
    return pam_private.refusal('forbidden', 'Only the person whose job it is, an admin or an owner may cancel it.');
  end if;
  if job.status in ('succeeded', 'failed', 'cancelled') then
    return pam_private.refusal('conflict', format('The job has ended already: it %s.', case job.status when 'cancelled' then 'was cancelled' else job.status::text end));
  end if;
  if job.run_id is distinct from seen then
    return pam_private.refusal('conflict', 'The job is starting at this moment: cancel it again.');
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
-- What may have taken effect is repeated by a person, not by an agent.
create or replace function pam_private.retry_job(org uuid, wanted uuid, person uuid, call uuid, depth int) returns jsonb
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
  if call is not null and not coalesce((select pam_private.is_safe_to_repeat(r) from pam.runs r where r.org_id = org and r.id = job.run_id), true) then
    perform pam_private.record(org, person, 'job.retry', false, jsonb_build_object('job_id', job.id));
    return pam_private.refusal('forbidden', 'This job may have taken effect, or was refused: a person looks, and tries it again.');
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
-- A writing transaction settles by its call alone.
create unique index agent_writes_of_call on pam_private.agent_writes (call_id);
