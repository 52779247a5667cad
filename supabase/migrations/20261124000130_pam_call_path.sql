-- The path of a tool call as the database holds it: granted, allowed, affordable, agreed to, then the intent, then the outcome.

alter table pam.tool_calls
  add column origin text check (char_length(origin) <= 500),
  add column reserved_usd numeric(12, 6) not null default 0 check (reserved_usd >= 0),
  add column cost_usd numeric(12, 6) not null default 0 check (cost_usd >= 0);
comment on column pam.tool_calls.origin is 'Where the result comes from when PAM did not say it itself: such a result is data, and taints the run.';
comment on column pam.tool_calls.reserved_usd is 'The most that a started call may still cost; released when it ends.';
comment on type pam.call_status is 'started is the recorded intent; unknown is an effect whose outcome nobody saw; waiting is for a person, answered is when that person has decided.';

create table pam.call_outputs (
  org_id uuid not null,
  call_id uuid not null,
  content text not null,
  characters int not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (org_id, call_id),
  foreign key (org_id, call_id) references pam.tool_calls on delete cascade
);
comment on table pam.call_outputs is 'The whole of a result that was too long for the model: file_read reads on in it.';
alter table pam.call_outputs enable row level security;
alter table pam.call_outputs force row level security;

create policy "People read the long results of their organisations' runs"
on pam.call_outputs for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

drop function pam_worker.begin_call(uuid, bigint, uuid);
create function pam_worker.begin_call(run_id uuid, fence bigint, id uuid, ceiling_usd numeric default 0, only_ask boolean default false) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(begin_call.run_id, begin_call.fence);
  call pam.tool_calls;
  policy pam.tool_policies;
  needed pam.consent;
  definition jsonb;
  asked pam.approvals;
begin
  select c.* into call from pam.tool_calls c
   where c.org_id = run.org_id and c.run_id = run.id and c.id = begin_call.id and c.status in ('planned', 'started', 'answered');
  if not found then raise exception 'call % of run % was finished before', begin_call.id, run.id using errcode = 'PM002'; end if;

  select v.definition into definition from pam.agent_versions v
   where v.org_id = run.org_id and v.agent_id = run.agent_id and v.version = run.agent_version;
  if not (coalesce(definition -> 'tools', '[]') ? call.tool or coalesce(definition -> 'conduct_tools', '[]') ? call.tool) then
    return pam_private.refusal('not_granted', format('The agent''s card does not grant %s.', left(call.tool, 63)));
  end if;
  policy := pam_private.policy_of(run.org_id, pam_private.role_in(run.org_id, run.user_id), call.tool, call.effect);
  if call.effect <> 'pause' and not policy.is_allowed then
    return pam_private.refusal('forbidden', format('%s with the effect %s is not allowed for a run that somebody with the role %s asked for: an admin of the organisation can change that.',
                                                   left(call.tool, 63), call.effect, policy.role));
  end if;
  if begin_call.ceiling_usd > 0 and run.cost_usd + begin_call.ceiling_usd + (
       select coalesce(sum(c.reserved_usd), 0) from pam.tool_calls c
        where c.org_id = run.org_id and c.run_id = run.id and c.status = 'started' and c.id <> call.id) > run.max_cost_usd then
    return pam_private.refusal('budget', format('This call may cost up to $%s; of the run''s $%s only $%s is left.',
      trim_scale(begin_call.ceiling_usd), trim_scale(run.max_cost_usd), trim_scale(greatest(run.max_cost_usd - run.cost_usd, 0))));
  end if;

  needed := case when call.effect = 'pause' then 'never'
                 when run.tainted_at is not null then greatest(policy.consent, policy.consent_after_untrusted)
                 else policy.consent end;
  select a.* into asked from pam.approvals a where a.org_id = run.org_id and a.id = call.id;
  if needed <> 'never' then
    if not found then
      return jsonb_build_object('ask', jsonb_build_object(
        'why', case when policy.consent >= needed then 'The organisation''s policy asks a person before this.'
                    else format('The run has read what nobody vouches for (%s): a person must agree before anything leaves.', run.taint) end,
        'needs_role', policy.decided_by, 'is_four_eyes', needed = 'four_eyes',
        'expires_at', clock_timestamp() + interval '24 hours'));
    end if;
    -- An approval holds for what was decided, in time, by one who may still decide, as strictly as the policy asks by now.
    if asked.status <> 'approved' or asked.expires_at <= clock_timestamp()
       or asked.arguments_sha256 <> pam_private.arguments_digest(coalesce(asked.edited_arguments, call.arguments))
       or asked.tool <> call.tool or asked.effect <> call.effect
       or (needed = 'four_eyes' and asked.decided_by = run.user_id)
       or coalesce(pam_private.role_in(run.org_id, asked.decided_by), 'viewer') < greatest(policy.decided_by, asked.needs_role) then
      return pam_private.refusal('not_agreed', 'The approval of this call does not hold any more: ask for the call again.');
    end if;
  end if;
  if begin_call.only_ask then return '{"held": true}'; end if;

  update pam.tool_calls c set status = 'started', started_at = clock_timestamp(), reserved_usd = begin_call.ceiling_usd
   where c.org_id = run.org_id and c.id = call.id returning * into call;
  perform pam_private.record(run.org_id, run.user_id, 'tool.' || call.tool, true, jsonb_build_object(
    'run_id', run.id, 'call', call.id, 'effect', call.effect, 'agreed_by', asked.decided_by,
    'arguments_sha256', pam_private.arguments_digest(coalesce(asked.edited_arguments, call.arguments))));
  return jsonb_build_object('call', to_jsonb(call), 'agreed', case when asked.status = 'approved' then asked.facts end);
end $$;
comment on function pam_worker.begin_call is 'Record the intent of a tool call before it runs: {"call", "agreed"}; or {"ask"} when a person must agree first; or a refusal. only_ask: say which, and start nothing.';

drop function pam_worker.finish_call(uuid, bigint, uuid, pam.call_status, text, jsonb);
create function pam_worker.finish_call(
  run_id uuid, fence bigint, id uuid, status pam.call_status, result text, events jsonb,
  origin text default null, cost_usd numeric default 0, output text default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(finish_call.run_id, finish_call.fence);
  call pam.tool_calls;
  spent numeric;
begin
  if finish_call.status not in ('succeeded', 'failed', 'refused', 'unknown') then
    raise exception '% is no outcome of a call', finish_call.status using errcode = '22023';
  end if;
  select c.* into call from pam.tool_calls c
   where c.org_id = run.org_id and c.run_id = run.id and c.id = finish_call.id and c.status in ('planned', 'started', 'answered');
  if not found then raise exception 'call % of run % was finished before', finish_call.id, run.id using errcode = 'PM002'; end if;
  -- Where nobody saw the outcome nobody saw the bill: what was reserved is charged.
  spent := case when finish_call.status = 'unknown' then greatest(finish_call.cost_usd, call.reserved_usd) else finish_call.cost_usd end;
  update pam.tool_calls c set status = finish_call.status, result = finish_call.result, ended_at = clock_timestamp(),
         origin = left(finish_call.origin, 500), cost_usd = spent, reserved_usd = 0
   where c.org_id = run.org_id and c.id = call.id returning * into call;
  if spent > 0 or (finish_call.origin is not null and run.tainted_at is null) then
    update pam.runs r set cost_usd = r.cost_usd + spent,
           tainted_at = coalesce(r.tainted_at, case when finish_call.origin is not null then clock_timestamp() end),
           taint = coalesce(r.taint, left(finish_call.origin, 500))
     where r.id = run.id;
  end if;
  if finish_call.output is not null and (
       select coalesce(sum(o.characters), 0) from pam.call_outputs o join pam.tool_calls c on c.org_id = o.org_id and c.id = o.call_id
        where c.org_id = run.org_id and c.run_id = run.id) + char_length(finish_call.output) <= 33554432 then
    insert into pam.call_outputs (org_id, call_id, content, characters)
    values (run.org_id, call.id, left(finish_call.output, 4194304), least(char_length(finish_call.output), 4194304));
  end if;
  if finish_call.status = 'refused' then
    perform pam_private.record(run.org_id, run.user_id, 'tool.' || left(call.tool, 100), false, jsonb_build_object('run_id', run.id, 'call', call.id));
  end if;
  perform pam_private.append(run, events);
  return to_jsonb(call);
end $$;
comment on function pam_worker.finish_call is 'Record the outcome of a tool call with its events, its cost, and whether it brought in what nobody vouches for.';

create function pam_worker.read_output(run_id uuid, fence bigint, call uuid, first_character int, max_characters int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(read_output.run_id, read_output.fence, to_write => false);
  answer jsonb;
begin
  -- Only results of this conversation: what another thread's person has read is not this run's to see.
  select jsonb_build_object('characters', o.characters, 'origin', c.origin,
                            'text', substr(o.content, greatest(read_output.first_character, 1), least(greatest(read_output.max_characters, 0), 100000)))
    into answer
    from pam.call_outputs o join pam.tool_calls c on c.org_id = o.org_id and c.id = o.call_id
    join pam.runs r on r.org_id = c.org_id and r.id = c.run_id
   where o.org_id = run.org_id and o.call_id = read_output.call and r.thread_id = run.thread_id;
  return coalesce(answer, pam_private.refusal('not_found', 'There is no such result.'));
end $$;
comment on function pam_worker.read_output is 'A part of a long result of this conversation: {"characters", "origin", "text"}.';

drop function pam_worker.interrupt_run(uuid, bigint, uuid, jsonb);
create function pam_worker.interrupt_run(run_id uuid, fence bigint, asks jsonb, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(interrupt_run.run_id, interrupt_run.fence);
  call pam.tool_calls;
  policy pam.tool_policies;
  needed pam.consent;
  ask jsonb;
begin
  if jsonb_array_length(asks) not between 1 and 200 then
    raise exception 'a run waits for 1 to 200 decisions at once' using errcode = '22023';
  end if;
  if run.cancel_requested_at is not null then  -- cancelled in the same instant: nobody is asked
    perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    return 'null';
  end if;
  for ask in select a.entry from jsonb_array_elements(asks) as a (entry) loop
    update pam.tool_calls c set status = 'waiting'
     where c.org_id = run.org_id and c.run_id = run.id and c.id = (ask ->> 'id')::uuid and c.status in ('planned', 'started') returning * into call;
    if not found then raise exception 'call % of run % cannot wait', ask ->> 'id', run.id using errcode = 'PM002'; end if;
    policy := pam_private.policy_of(run.org_id, pam_private.role_in(run.org_id, run.user_id), call.tool, call.effect);
    needed := case when run.tainted_at is not null then greatest(policy.consent, policy.consent_after_untrusted) else policy.consent end;
    insert into pam.approvals (org_id, id, run_id, kind, asker_id, tool, effect, arguments, arguments_sha256, why, shown, facts,
                               needs_role, is_four_eyes, expires_at, remind_at)
    values (run.org_id, call.id, run.id, case call.effect when 'pause' then 'question' else 'approval' end::pam.approval_kind,
            run.user_id, call.tool, call.effect, call.arguments, pam_private.arguments_digest(call.arguments), coalesce(ask ->> 'why', ''),
            left(ask ->> 'shown', 100000), coalesce(nullif(ask -> 'facts', 'null'), '{}'),
            case call.effect when 'pause' then 'developer' else policy.decided_by end,
            call.effect <> 'pause' and needed = 'four_eyes',
            clock_timestamp() + case call.effect when 'pause' then interval '7 days' else interval '24 hours' end,
            clock_timestamp() + interval '1 hour');
  end loop;
  perform pam_private.append(run, events);
  update pam.runs r set status = 'interrupted', interrupted_at = clock_timestamp() where r.id = run.id;
  update pam_private.run_heads h set fence = h.fence + 1, lease_until = null where h.run_id = run.id;
  perform pam_private.record(run.org_id, run.user_id, 'run.interrupted', true, jsonb_build_object('run_id', run.id, 'calls', jsonb_array_length(asks)));
  return 'null';
end $$;
comment on function pam_worker.interrupt_run is 'Let a run wait for people to decide on these calls: [{"id", "why", "shown", "facts"}]; no worker is held meanwhile.';

-- What waits goes with its run, whoever ends it.
create function pam_private.withdraw_approvals() returns trigger
language plpgsql security definer set search_path = '' as
$$
begin
  update pam.approvals a set status = 'withdrawn', remind_at = null where a.org_id = new.org_id and a.run_id = new.id and a.status = 'pending';
  return null;
end $$;
comment on function pam_private.withdraw_approvals is 'Nobody decides for a run that has ended.';
create trigger "What waits is withdrawn with its run" after update of status on pam.runs
for each row when (new.status in ('succeeded', 'failed', 'cancelled') and old.status = 'interrupted') execute function pam_private.withdraw_approvals();

create or replace function pam_worker.read_conversation(run_id uuid, fence bigint) returns jsonb
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
      select jsonb_agg(to_jsonb(c) || case when a.id is null then '{}' else jsonb_build_object('decision', jsonb_build_object(
               'status', a.status, 'note', a.note, 'edited_arguments', a.edited_arguments, 'by_asker', a.decided_by = a.asker_id)) end order by c.step, c.place)
        from pam.tool_calls c left join pam.approvals a on a.org_id = c.org_id and a.id = c.id
       where c.org_id = run.org_id and c.run_id = run.id), '[]'));
end $$;

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke all on pam.call_outputs from public, anon, authenticated, service_role;
grant select on pam.call_outputs to authenticated;
grant execute on function pam_worker.begin_call(uuid, bigint, uuid, numeric, boolean),
  pam_worker.finish_call(uuid, bigint, uuid, pam.call_status, text, jsonb, text, numeric, text),
  pam_worker.read_output(uuid, bigint, uuid, int, int), pam_worker.interrupt_run(uuid, bigint, jsonb, jsonb) to pam_worker;
