-- Where nobody has spoken and no budget asks, the next step needs no leave, and the outcome of the call before it says so.

create or replace function pam_worker.finish_call(
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
  return to_jsonb(call) || jsonb_build_object('is_free', not pam_private.has_words(run) and not pam_private.shares_budget(run));
end $$;
comment on function pam_worker.finish_call is 'Record the outcome of a tool call with its events, its cost, and whether it brought in what nobody vouches for. is_free: begin_step would say that nobody has spoken and no budget asks.';
