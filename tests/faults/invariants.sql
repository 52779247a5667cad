-- What must hold of every ended run after every fault: each row found is a breach.
with runs as (
  select r.*, h.lease_until, h.last_seq from pam.runs r join pam_private.run_heads h on h.run_id = r.id
   where r.status in ('succeeded', 'failed', 'cancelled')
),
told as (
  select e.run_id, e.seq, e.type, e.payload,
         e.type = 'RUN_ERROR' or (e.type = 'RUN_FINISHED' and e.payload #>> '{outcome,type}' is distinct from 'interrupt') as is_terminal
    from pam.events e join runs r on r.id = e.run_id
),
-- Each claim says so in the log; what follows up to the next claim was written under that claim's fence.
claimed as (
  select t.*, count(*) filter (where t.type = 'RUN_STARTED' or (t.type = 'CUSTOM' and t.payload ->> 'name' = 'pam.resumed'))
                over (partition by t.run_id order by t.seq) as claim
    from told t
)
select 'I1 a run ends exactly once, with its end in the log' as breach, r.id as run_id
  from runs r where r.ended_at is null or (select count(*) from told t where t.run_id = r.id and t.is_terminal) <> 1
union all
select 'I2 events run from 1 to n without a gap, the terminal one last', r.id
  from runs r
 where r.last_seq <> (select count(*) from told t where t.run_id = r.id)
    or r.last_seq <> (select max(t.seq) from told t where t.run_id = r.id)
    or not (select t.is_terminal from told t where t.run_id = r.id order by t.seq desc limit 1)
union all
select 'I3 a call has one result, and ends in one state', c.run_id
  from pam.tool_calls c join runs r on r.id = c.run_id
 where c.status in ('planned', 'started', 'answered')
    or (select count(*) from told t where t.run_id = r.id and t.type = 'TOOL_CALL_RESULT' and t.payload ->> 'toolCallId' = c.id::text)
       <> case when c.ended_at is null or c.result is null then 0 else 1 end
union all
select 'I3 a file version belongs to a call that asked for it, and no call has two', v.call_id
  from pam.file_versions v left join pam.tool_calls c on c.org_id = v.org_id and c.id = v.call_id
 where v.call_id is not null
   and (c.tool is distinct from 'file_write' or c.status not in ('succeeded', 'unknown')
        or 1 <> (select count(*) from pam.file_versions w where w.call_id = v.call_id))
union all
select 'I3 a file_write that succeeded wrote its version', c.run_id
  from pam.tool_calls c
 where c.tool = 'file_write' and c.status = 'succeeded'
   and not exists (select from pam.file_versions v where v.org_id = c.org_id and v.call_id = c.id)
union all
select 'I4 steps follow one another: none is begun twice, and none under an older claim', r.id
  from runs r
 where exists (
   select from (select t.claim, (substr(t.payload ->> 'stepName', 6))::int as step,
                       row_number() over (order by t.seq) as place
                  from claimed t where t.run_id = r.id and t.type = 'STEP_STARTED') s
    where s.step <> s.place)
    or r.steps <> (select count(*) from told t where t.run_id = r.id and t.type = 'STEP_FINISHED')
union all
select 'I4 a call is answered under no older claim than the one that asked', c.run_id
  from pam.tool_calls c
  join claimed asked on asked.run_id = c.run_id and asked.type = 'TOOL_CALL_START' and asked.payload ->> 'toolCallId' = c.id::text
  join claimed answer on answer.run_id = c.run_id and answer.type = 'TOOL_CALL_RESULT' and answer.payload ->> 'toolCallId' = c.id::text
 where answer.claim < asked.claim
union all
select 'I6 a run''s totals are the sum of its steps', r.id
  from runs r
  cross join lateral (
    select count(*) as steps, coalesce(sum(s.input_tokens), 0) as input_tokens, coalesce(sum(s.output_tokens), 0) as output_tokens,
           coalesce(sum(s.cost_usd), 0) as cost_usd
      from pam.steps s where s.org_id = r.org_id and s.run_id = r.id) sums
 where r.steps <> sums.steps or r.input_tokens <> sums.input_tokens or r.output_tokens <> sums.output_tokens or r.cost_usd <> sums.cost_usd
union all
select 'I6 a run stays below its money limit', r.id from runs r where r.cost_usd > r.max_cost_usd
union all
select 'I7 an ended run holds no lease', r.id from runs r where r.lease_until is not null
