-- What a worker may do to a run. Each verb locks the run's head, compares the fence, and writes the fact with its events.
-- The organisation and the person always come from the run's row, never from an argument.

create function pam_private.hold(run_id uuid, fence bigint, still_member boolean default true, to_write boolean default true) returns pam.runs
language plpgsql security definer set search_path = '' as
$$
declare
  current_fence bigint;
  run pam.runs;
begin
  if to_write then
    select h.fence into current_fence from pam_private.run_heads h where h.run_id = hold.run_id for update;
  else  -- a long look must not keep the heart from extending the lease
    select h.fence into current_fence from pam_private.run_heads h where h.run_id = hold.run_id;
  end if;
  if current_fence is null or current_fence is distinct from hold.fence then
    raise exception 'fence % of run % is old: another worker holds it, drop the run', hold.fence, hold.run_id using errcode = 'PM002';
  end if;
  select * into run from pam.runs r where r.id = hold.run_id;
  if run.status <> 'running' then
    raise exception 'run % is %, not running: drop it', hold.run_id, run.status using errcode = 'PM002';
  end if;
  if still_member and coalesce(pam_private.role_in(run.org_id, run.user_id), 'viewer') < 'developer' then
    raise exception 'the asker of run % may not work in this organisation any more', hold.run_id using errcode = 'PM003';
  end if;
  return run;
end $$;
comment on function pam_private.hold is 'Lock a run for one verb, unless it only reads. PM002: the fence is old. PM003: the asker lost membership or role.';

create function pam_worker.claim_run(run_id uuid, turn int, worker text, lease_seconds int) returns jsonb
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
  if run.cancel_requested_at is not null then
    perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    return pam_private.refusal('ended', 'The run was cancelled.');
  end if;
  if coalesce(pam_private.role_in(run.org_id, run.user_id), 'viewer') < 'developer' then
    perform pam_private.end_run(run, 'failed', 'access_revoked', 'The person who asked may not work in this organisation any more.');
    return pam_private.refusal('ended', 'The asker lost access.');
  end if;
  if run.deadline_at <= clock_timestamp() then
    perform pam_private.end_run(run, 'failed', 'deadline', 'The run reached its time limit.');
    return pam_private.refusal('ended', 'The run reached its time limit.');
  end if;
  if run.attempt >= 5 then
    perform pam_private.end_run(run, 'failed', 'attempts', 'The run was given up: five workers in a row could not finish its next step.');
    return pam_private.refusal('ended', 'The run was given up after five attempts at one step.');
  end if;
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
comment on function pam_worker.claim_run is 'Take a queued run for this worker until the lease ends: {"fence", "run", "agent"}, or a refusal.';

create function pam_worker.pulse_run(run_id uuid, fence bigint, lease_seconds int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  head pam_private.run_heads;
  run pam.runs;
begin
  select * into head from pam_private.run_heads h where h.run_id = pulse_run.run_id;
  select * into run from pam.runs r where r.id = pulse_run.run_id;
  if head.fence is null or head.fence is distinct from pulse_run.fence or run.status <> 'running' then
    raise exception 'fence % of run % is old: another worker holds it, drop the run', pulse_run.fence, pulse_run.run_id using errcode = 'PM002';
  end if;
  if head.lease_until < clock_timestamp() + make_interval(secs => lease_seconds * 0.67) then
    update pam_private.run_heads h set lease_until = clock_timestamp() + make_interval(secs => pulse_run.lease_seconds)
     where h.run_id = pulse_run.run_id and h.fence = pulse_run.fence;
  end if;
  return jsonb_build_object(
    'cancel_requested', run.cancel_requested_at is not null,
    'deadline_passed', run.deadline_at <= clock_timestamp(),
    'access_revoked', coalesce(pam_private.role_in(run.org_id, run.user_id), 'viewer') < 'developer');
end $$;
comment on function pam_worker.pulse_run is 'Keep the lease and hear whether to stop. Writes only when a third of the lease is used up.';

create function pam_worker.read_conversation(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(read_conversation.run_id, read_conversation.fence, to_write => false);
begin
  return jsonb_build_object(
    'finish', (select s.finish from pam.steps s where s.org_id = run.org_id and s.run_id = run.id and s.position = run.steps),
    -- Of earlier runs what was asked and what was answered; of this run all, so that no call stands without its result.
    'messages', coalesce((
      select jsonb_agg(jsonb_build_object('role', m.role, 'content', m.content, 'step', case when m.run_id = run.id then m.step end) order by m.position)
        from pam.messages m
       where m.org_id = run.org_id and m.thread_id = run.thread_id
         and (m.role = 'user' or m.run_id = run.id
              or not exists (select from pam.tool_calls c where c.org_id = m.org_id and c.run_id = m.run_id and c.step = m.step))), '[]'),
    'calls', coalesce((
      select jsonb_agg(to_jsonb(c) order by c.step, c.place) from pam.tool_calls c
       where c.org_id = run.org_id and c.run_id = run.id), '[]'));
end $$;
comment on function pam_worker.read_conversation is 'What the model must see, in order: {"messages", "calls"}, and how the last recorded step ended: "finish".';

create function pam_worker.append_events(run_id uuid, fence bigint, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(append_events.run_id, append_events.fence);
begin
  return to_jsonb(pam_private.append(run, events));
end $$;
comment on function pam_worker.append_events is 'Append events that belong to no other fact; answers the last seq.';

-- Previews share one allowance over all workers, well below what Realtime's smallest plan carries.
create unlogged table pam_private.preview_meter (
  is_only boolean primary key default true check (is_only),
  second bigint not null,
  sent int not null
);
comment on table pam_private.preview_meter is 'One row: previews sent in the current second, by everybody. A crash empties it; the next preview makes it anew.';
alter table pam_private.preview_meter enable row level security;
alter table pam_private.preview_meter force row level security;

create function pam_worker.preview_message(run_id uuid, fence bigint, preview jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  this_second bigint := extract(epoch from clock_timestamp())::bigint;
begin
  if not exists (select from pam_private.run_heads h where h.run_id = preview_message.run_id and h.fence = preview_message.fence) then
    raise exception 'fence % of run % is old: another worker holds it, drop the run', preview_message.fence, preview_message.run_id using errcode = 'PM002';
  end if;
  insert into pam_private.preview_meter as m (second, sent) values (this_second, 1)
  on conflict (is_only) do update set second = this_second, sent = case when m.second = this_second then m.sent + 1 else 1 end
   where m.second <> this_second or m.sent < 50;
  if not found then return 'false'; end if;
  perform realtime.send(preview, 'preview', 'run:' || preview_message.run_id, true);
  return 'true';
end $$;
comment on function pam_worker.preview_message is 'Show text that is still being written: outside the log, first to be dropped; answers whether it went out.';

create function pam_worker.record_step(run_id uuid, fence bigint, step jsonb, calls jsonb, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(record_step.run_id, record_step.fence);
begin
  if (step ->> 'position')::int <> run.steps + 1 then
    raise exception 'step % of run % does not follow step %', step ->> 'position', run.id, run.steps using errcode = 'PM002';
  end if;
  insert into pam.steps (org_id, run_id, position, model, input_sha256, finish, input_tokens, cached_input_tokens, output_tokens,
                         is_estimated, cost_usd, seconds, attempt)
  values (run.org_id, run.id, run.steps + 1, step ->> 'model', step ->> 'input_sha256', step ->> 'finish', (step ->> 'input_tokens')::bigint,
          (step ->> 'cached_input_tokens')::bigint, (step ->> 'output_tokens')::bigint, (step ->> 'is_estimated')::boolean,
          (step ->> 'cost_usd')::numeric, (step ->> 'seconds')::numeric, run.attempt);
  insert into pam.messages (org_id, id, thread_id, run_id, step, role, content)
  values (run.org_id, (step ->> 'message_id')::uuid, run.thread_id, run.id, run.steps + 1, 'assistant', step ->> 'text');
  insert into pam.tool_calls (org_id, id, run_id, step, place, call_id, tool, arguments, effect)
  select run.org_id, (c.call ->> 'id')::uuid, run.id, run.steps + 1, c.place, c.call ->> 'call_id', c.call ->> 'tool',
         c.call -> 'arguments', (c.call ->> 'effect')::pam.call_effect
    from jsonb_array_elements(calls) with ordinality as c (call, place);
  update pam.runs r set steps = r.steps + 1, attempt = 0, input_tokens = r.input_tokens + (step ->> 'input_tokens')::bigint,
         output_tokens = r.output_tokens + (step ->> 'output_tokens')::bigint, cost_usd = r.cost_usd + (step ->> 'cost_usd')::numeric
   where r.id = run.id returning * into run;
  perform pam_private.append(run, events);
  return to_jsonb(run);
end $$;
comment on function pam_worker.record_step is 'Store one model call with its message and its planned tool calls; answers the run with its new totals.';

create function pam_worker.begin_call(run_id uuid, fence bigint, id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(begin_call.run_id, begin_call.fence);
  call pam.tool_calls;
begin
  update pam.tool_calls c set status = 'started', started_at = clock_timestamp()
   where c.org_id = run.org_id and c.run_id = run.id and c.id = begin_call.id and c.status in ('planned', 'started') returning * into call;
  if not found then raise exception 'call % of run % was finished before', begin_call.id, run.id using errcode = 'PM002'; end if;
  perform pam_private.record(run.org_id, run.user_id, 'tool.' || call.tool, true, jsonb_build_object(
    'run_id', run.id, 'call', call.id, 'effect', call.effect, 'arguments_sha256', encode(sha256(convert_to(call.arguments::text, 'UTF8')), 'hex')));
  return to_jsonb(call);
end $$;
comment on function pam_worker.begin_call is 'Record the intent of a tool call before it runs.';

create function pam_worker.finish_call(run_id uuid, fence bigint, id uuid, status pam.call_status, result text, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(finish_call.run_id, finish_call.fence);
  call pam.tool_calls;
begin
  if finish_call.status not in ('succeeded', 'failed', 'refused', 'unknown') then
    raise exception '% is no outcome of a call', finish_call.status using errcode = '22023';
  end if;
  update pam.tool_calls c set status = finish_call.status, result = finish_call.result, ended_at = clock_timestamp()
   where c.org_id = run.org_id and c.run_id = run.id and c.id = finish_call.id and c.status in ('planned', 'started', 'answered') returning * into call;
  if not found then raise exception 'call % of run % was finished before', finish_call.id, run.id using errcode = 'PM002'; end if;
  if finish_call.status = 'refused' then
    perform pam_private.record(run.org_id, run.user_id, 'tool.' || left(call.tool, 100), false, jsonb_build_object('run_id', run.id, 'call', call.id));
  end if;
  perform pam_private.append(run, events);
  return to_jsonb(call);
end $$;
comment on function pam_worker.finish_call is 'Record the outcome of a tool call with its events.';

create function pam_worker.interrupt_run(run_id uuid, fence bigint, id uuid, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(interrupt_run.run_id, interrupt_run.fence);
begin
  update pam.tool_calls c set status = 'waiting'
   where c.org_id = run.org_id and c.run_id = run.id and c.id = interrupt_run.id and c.status in ('planned', 'started');
  if not found then raise exception 'call % of run % cannot wait', interrupt_run.id, run.id using errcode = 'PM002'; end if;
  if run.cancel_requested_at is not null then  -- cancelled in the same instant: nobody is asked
    perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    return 'null';
  end if;
  perform pam_private.append(run, events);
  update pam.runs r set status = 'interrupted', interrupted_at = clock_timestamp() where r.id = run.id;
  update pam_private.run_heads h set fence = h.fence + 1, lease_until = null where h.run_id = run.id;
  perform pam_private.record(run.org_id, run.user_id, 'run.interrupted', true, jsonb_build_object('run_id', run.id, 'call', interrupt_run.id));
  return 'null';
end $$;
comment on function pam_worker.interrupt_run is 'Let a run wait for a person; no worker is held meanwhile.';

create function pam_worker.finish_run(run_id uuid, fence bigint, status pam.run_status, reason text, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(finish_run.run_id, finish_run.fence, still_member => false);
begin
  if finish_run.status not in ('succeeded', 'failed', 'cancelled')
     or coalesce(events -> -1 ->> 'type', '') <> (case finish_run.status when 'failed' then 'RUN_ERROR' else 'RUN_FINISHED' end) then
    raise exception 'a run ends with one terminal event: RUN_ERROR when it failed, else RUN_FINISHED' using errcode = '22023';
  end if;
  update pam.tool_calls c set status = case c.status when 'planned' then 'refused' else 'unknown' end::pam.call_status, ended_at = clock_timestamp()
   where c.org_id = run.org_id and c.run_id = run.id and c.status in ('planned', 'started', 'answered');
  perform pam_private.append(run, events);
  update pam.runs r set status = finish_run.status, reason = finish_run.reason, ended_at = clock_timestamp() where r.id = run.id;
  update pam_private.run_heads h set lease_until = null, fence = h.fence + 1 where h.run_id = run.id;
  perform pam_private.record(run.org_id, run.user_id, 'run.' || finish_run.status, true, jsonb_build_object('run_id', run.id, 'reason', finish_run.reason));
  return 'null';
end $$;
comment on function pam_worker.finish_run is 'End a run with its one terminal event.';

create function pam_worker.release_run(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(release_run.run_id, release_run.fence, still_member => false);
begin
  update pam_private.run_heads h set lease_until = null, fence = h.fence + 1, rung_at = clock_timestamp() where h.run_id = run.id;
  update pam.runs r set status = 'queued', turn = r.turn + 1, attempt = greatest(r.attempt - 1, 0) where r.id = run.id;
  return 'null';
end $$;
comment on function pam_worker.release_run is 'Give a run back to the queue: the worker is leaving in good order, so no attempt is counted.';

create function pam_worker.list_files(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(list_files.run_id, list_files.fence, to_write => false);
begin
  return coalesce((select jsonb_agg(jsonb_build_object('path', f.path, 'size_bytes', f.size_bytes, 'version', f.version, 'is_text', f.is_text)
                          order by f.path collate "C") from pam.files f where f.org_id = run.org_id), '[]');
end $$;
comment on function pam_worker.list_files is 'The workspace of the run''s organisation, by path.';

create function pam_worker.search_files(run_id uuid, fence bigint, pattern text, paths text[], max_lines int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(search_files.run_id, search_files.fence, to_write => false);
begin
  return coalesce((
    select jsonb_agg(to_jsonb(hit) - 'file' order by hit.path collate "C", hit.line) from (
      select f.path, l.line, left(l.text, 300) as text
        from pam.files f
        join pam.file_versions v on v.org_id = f.org_id and v.file_id = f.id and v.version = f.version,
        lateral string_to_table(convert_from(v.content, 'UTF8'), E'\n') with ordinality as l (text, line)
       where f.org_id = run.org_id and f.is_text and f.path = any (search_files.paths) and l.text ~ search_files.pattern
       limit search_files.max_lines) as hit), '[]');
end $$;
comment on function pam_worker.search_files is 'Lines of text files that match a POSIX pattern: [{"path", "line", "text"}].';

create function pam_worker.read_file(run_id uuid, fence bigint, path text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(read_file.run_id, read_file.fence, to_write => false);
  answer jsonb;
begin
  select jsonb_build_object('path', f.path, 'version', f.version, 'size_bytes', f.size_bytes, 'is_text', f.is_text,
                            'content', encode(v.content, 'base64')) into answer
    from pam.files f join pam.file_versions v on v.org_id = f.org_id and v.file_id = f.id and v.version = f.version
   where f.org_id = run.org_id and f.path = read_file.path;
  return coalesce(answer, pam_private.refusal('not_found', 'There is no such file.'));
end $$;
comment on function pam_worker.read_file is 'A workspace file at its newest version, content as base64.';

create function pam_worker.write_file(run_id uuid, fence bigint, call uuid, path text, content text, expected_version int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(write_file.run_id, write_file.fence);
begin
  return pam_private.write_file(run.org_id, run.user_id, call, path, decode(content, 'base64'), expected_version);
end $$;
comment on function pam_worker.write_file is 'Write a file''s next version for a tool call, once; content as base64.';

create function pam_worker.find_write(run_id uuid, fence bigint, call uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(find_write.run_id, find_write.fence, to_write => false);
begin
  return coalesce((select jsonb_build_object('path', f.path, 'version', v.version)
    from pam.file_versions v join pam.files f on f.org_id = v.org_id and f.id = v.file_id
   where v.org_id = run.org_id and v.call_id = find_write.call), 'null');
end $$;
comment on function pam_worker.find_write is 'What a tool call wrote before its worker was lost, or null.';

-- Brings stranded, cancelled and expired runs back or to their end, and says what to enqueue. One runner at a time.
create function pam_worker.sweep_runs(max_runs int default 500) returns jsonb
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
             else h.rung_at < clock_timestamp() - interval '10 s' or r.deadline_at < clock_timestamp() end
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
comment on function pam_worker.sweep_runs is 'Find stranded, due and expired runs: [{"run_id", "turn"}] to enqueue. Ends those that can only end.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
grant execute on all functions in schema pam_worker to pam_worker;
grant execute on function pam_worker.sweep_runs(int) to pam_sweeper;
