-- What must hold of every ended run after every fault: each row of the last statement is a breach.
-- What only the outside knows comes in the setting chaos.evidence: {"accepted": [run ids], "received": [{path, key, run, step,
-- is_effect}] of the outside ledger, "left": [{what, about}] that was found in Redis and among the processes}.

-- I5 as members see it: rows of other organisations that a member's own eyes find, in every table of schema pam that has one.
create or replace function pg_temp.seen_of_strangers() returns table (breach text, subject text) language plpgsql as
$$
declare
  person record;
  kind text;
  is_seen boolean;
begin
  for person in select m.user_id, array_agg(m.org_id) as orgs from pam.members m group by m.user_id loop
    for kind in
      select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'pam'
        join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id'
       where c.relkind in ('r', 'p', 'v') and has_table_privilege('authenticated', c.oid, 'select')
    loop
      perform set_config('request.jwt.claims', jsonb_build_object('sub', person.user_id, 'role', 'authenticated')::text, true);
      perform set_config('role', 'authenticated', true);
      execute format('select exists (select from pam.%I t where t.org_id <> all ($1))', kind) into is_seen using person.orgs;
      perform set_config('role', 'none', true);
      perform set_config('request.jwt.claims', '', true);
      if is_seen then
        breach := 'I5 nobody sees a row of an organisation that is not theirs'; subject := person.user_id || ' in ' || kind;
        return next;
      end if;
    end loop;
  end loop;
end $$;

-- I5 as rows are kept: whatever names a run belongs to the run's organisation.
create or replace function pg_temp.astray() returns table (breach text, subject text) language plpgsql as
$$
declare
  kind regclass;
begin
  for kind in
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname in ('pam', 'pam_private')
     where c.relkind in ('r', 'p')
       and 2 = (select count(*) from pg_attribute a where a.attrelid = c.oid and a.attname in ('org_id', 'run_id'))
  loop
    return query execute format(
      'select %L, t.run_id::text from %s t join pam.runs r on r.id = t.run_id where r.org_id <> t.org_id',
      'I5 what names a run belongs to its organisation', kind);
  end loop;
end $$;

with evidence as (
  select coalesce(nullif(current_setting('chaos.evidence', true), ''), '{}')::jsonb as told
),
received as (
  select r.* from evidence,
         jsonb_to_recordset(coalesce(told -> 'received', '[]')) as r (path text, key text, run text, step int, is_effect boolean)
),
runs as (
  select r.*, h.lease_until, h.last_seq from pam.runs r join pam_private.run_heads h on h.run_id = r.id
   where r.status in ('succeeded', 'failed', 'cancelled')
),
told as not materialized (  -- a run's events are found by their index, however many others there are
  select e.run_id, e.seq, e.type, e.payload,
         e.type = 'RUN_ERROR' or (e.type = 'RUN_FINISHED' and e.payload #>> '{outcome,type}' is distinct from 'interrupt') as is_terminal
    from pam.events e join runs r on r.id = e.run_id
),
-- Each claim says so in the log; what follows up to the next claim was written under that claim's fence.
claimed as (
  select t.*, count(*) filter (where t.type = 'RUN_STARTED' or (t.type = 'CUSTOM' and t.payload ->> 'name' = 'pam.resumed'))
                over (partition by t.run_id order by t.seq) as claim
    from told t where t.type in ('RUN_STARTED', 'CUSTOM', 'STEP_STARTED', 'TOOL_CALL_START', 'TOOL_CALL_RESULT')
)
select 'I1 a run ends exactly once, with its end in the log' as breach, r.id::text as subject
  from runs r where r.ended_at is null or (select count(*) from told t where t.run_id = r.id and t.is_terminal) <> 1
union all
select 'I1 an accepted run ends in time', a.id
  from evidence, jsonb_array_elements_text(coalesce(told -> 'accepted', '[]')) as a (id)
 where not exists (select from runs r where r.id = a.id::uuid)
union all
select 'I2 events run from 1 to n without a gap, the terminal one last', r.id::text
  from runs r
 where r.last_seq <> (select count(*) from told t where t.run_id = r.id)
    or r.last_seq <> (select max(t.seq) from told t where t.run_id = r.id)
    or not (select t.is_terminal from told t where t.run_id = r.id order by t.seq desc limit 1)
union all
select 'I3 a call has one result, and ends in one state', c.run_id::text
  from pam.tool_calls c join runs r on r.id = c.run_id
 where c.status in ('planned', 'started', 'answered')
    or (select count(*) from told t where t.run_id = r.id and t.type = 'TOOL_CALL_RESULT' and t.payload ->> 'toolCallId' = c.id::text)
       <> case when c.ended_at is null or c.result is null then 0 else 1 end
union all
select 'I3 a file version belongs to a call that asked for it, and no call has two', v.call_id::text
  from pam.file_versions v left join pam.tool_calls c on c.org_id = v.org_id and c.id = v.call_id
 where v.call_id is not null
   and (c.tool is null or c.tool not in ('file_write', 'supabase_migrate', 'code_execution', 'openai_api_call') or c.status not in ('succeeded', 'unknown')
        or c.tool = 'file_write' and 1 <> (select count(*) from pam.file_versions w where w.call_id = v.call_id))
union all
select 'I3 a file_write that succeeded wrote its version', c.run_id::text
  from pam.tool_calls c
 where c.tool = 'file_write' and c.status = 'succeeded'
   and not exists (select from pam.file_versions v where v.org_id = c.org_id and v.call_id = c.id)
union all
select 'I3 an effect outside happens once', format('%s, step %s', e.run, e.step)
  from received e where e.is_effect group by e.run, e.step having count(*) > 1
union all
select 'I3 whatever has no key of the other side''s is asked once', e.key
  from received e where e.path = '/unkeyed' group by e.key having count(*) > 1
union all
select 'I3 a request outside has a call that intended it, and that may have taken effect', format('%s, step %s: %s', e.run, e.step, c.status)
  from received e left join pam.tool_calls c on c.id::text = e.key
 where c.tool is distinct from 'api_call' or c.status not in ('succeeded', 'unknown')
    or c.arguments #>> '{json_body,run}' is distinct from e.run
union all
select 'I3 a call that succeeded outside was carried out there', c.id::text
  from pam.tool_calls c join runs r on r.id = c.run_id
 where c.tool = 'api_call' and c.status = 'succeeded' and (select told ? 'received' from evidence)
   and not exists (select from received e where e.key = c.id::text and e.is_effect)
union all
select 'I3 a message is sent by a call that asked for it', m.call_id::text
  from pam.sent_messages m left join pam.tool_calls c on c.org_id = m.org_id and c.id = m.call_id
 where c.tool is distinct from 'websocket_send' or c.run_id <> m.run_id or c.status not in ('succeeded', 'started', 'unknown')
union all
select 'I3 a call submits one job at most', j.submitted_by_call::text
  from pam.jobs j where j.schedule_id is null and j.submitted_by_call is not null group by j.submitted_by_call having count(*) > 1
union all
select 'I4 steps follow one another: none is begun twice, and none under an older claim', r.id::text
  from runs r
 where exists (
   select from (select t.claim, (substr(t.payload ->> 'stepName', 6))::int as step,
                       row_number() over (order by t.seq) as place
                  from claimed t where t.run_id = r.id and t.type = 'STEP_STARTED') s
    where s.step <> s.place)
    or r.steps <> (select count(*) from told t where t.run_id = r.id and t.type = 'STEP_FINISHED')
union all
select 'I4 a call is answered under no older claim than the one that asked', c.run_id::text
  from pam.tool_calls c
  join claimed asked on asked.run_id = c.run_id and asked.type = 'TOOL_CALL_START' and asked.payload ->> 'toolCallId' = c.id::text
  join claimed answer on answer.run_id = c.run_id and answer.type = 'TOOL_CALL_RESULT' and answer.payload ->> 'toolCallId' = c.id::text
 where answer.claim < asked.claim
union all
select 'I6 a run''s totals are the sum of its steps and calls', r.id::text
  from runs r
  cross join lateral (
    select count(*) as steps, coalesce(sum(s.input_tokens), 0) as input_tokens, coalesce(sum(s.output_tokens), 0) as output_tokens,
           coalesce(sum(s.cost_usd), 0) as cost_usd
      from pam.steps s where s.org_id = r.org_id and s.run_id = r.id) sums
 where r.steps <> sums.steps or r.input_tokens <> sums.input_tokens or r.output_tokens <> sums.output_tokens or r.cost_usd <> sums.cost_usd
       + (select coalesce(sum(c.cost_usd), 0) from pam.tool_calls c where c.org_id = r.org_id and c.run_id = r.id)
union all
select 'I6 an ended run reserves nothing', c.run_id::text from pam.tool_calls c join runs r on r.id = c.run_id where c.reserved_usd <> 0
union all
select 'I6 an ended run reserves nothing', r.id::text from runs r where r.reserved_usd <> 0 or r.reserved_tokens <> 0
union all
select 'I6 a person''s usage is what all their runs have used', r.user_id::text
  from (select r.org_id, r.user_id, sum(r.cost_usd) as cost_usd, sum(r.input_tokens + r.output_tokens) as tokens, sum(r.steps) as steps,
               sum(r.worked_seconds) as seconds
          from pam.runs r group by 1, 2) r
  left join (select u.org_id, u.user_id, sum(u.cost_usd) as cost_usd, sum(u.tokens) as tokens, sum(u.steps) as steps,
                    sum(u.seconds) as seconds
               from pam.usage u group by 1, 2) u on u.org_id = r.org_id and u.user_id = r.user_id
 where (r.cost_usd, r.tokens, r.steps, r.seconds)
       is distinct from (coalesce(u.cost_usd, 0), coalesce(u.tokens, 0), coalesce(u.steps, 0), coalesce(u.seconds, 0))
union all
select 'I6 a budget is not passed', b.id::text
  from pam.budgets b, pam_private.budget_use(b) as u
 where u.cost_usd > b.max_cost_usd or u.tokens > b.max_tokens or u.steps > b.max_steps
union all
select 'I6 a run stays below its money limit', r.id::text from runs r where r.cost_usd > r.max_cost_usd
union all
select 'I7 an ended run holds no lease', r.id::text from runs r where r.lease_until is not null
union all
select 'I5 a message goes to a topic of its own organisation', m.call_id::text
  from pam.sent_messages m where m.topic like 'org:%' and m.topic <> 'org:' || m.org_id
union all
select s.breach, s.subject from pg_temp.seen_of_strangers() s
union all
select s.breach, s.subject from pg_temp.astray() s
union all
select 'I7 no job outlives its run', j.id::text
  from pam.jobs j join runs r on r.id = j.run_id where j.status in ('queued', 'running')
union all
select 'I7 nobody is asked about an ended run', a.run_id::text
  from pam.approvals a join runs r on r.id = a.run_id where a.status = 'pending'
union all
select 'I7 no identity outlives its transaction', b.user_id::text from pam_private.agent_bindings b
union all
select 'I7 no worker''s connection sits in a transaction', format('%s: %s', a.usename, a.state)
  from pg_stat_activity a
 where a.usename in ('pam_worker', 'pam_agent_sql', 'pam_sweeper') and a.xact_start < clock_timestamp() - interval '10 s'
union all
select 'I7 ' || l.what, l.about from evidence, jsonb_to_recordset(coalesce(told -> 'left', '[]')) as l (what text, about text)
