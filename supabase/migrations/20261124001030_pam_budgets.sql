-- Budgets that hold over many runs: an organisation's and a person's of a day or a month, and a run's with its jobs'.
-- What may be spent is reserved before it is, under the budget's lock; what was spent is counted in the transaction of the fact.

create type pam.budget_period as enum ('day', 'month');
comment on type pam.budget_period is 'A calendar day or month in UTC.';

create table pam.usage (
  org_id uuid not null references pam.organizations on delete cascade,
  user_id uuid not null,
  day date not null,
  cost_usd numeric(14, 6) not null default 0,
  tokens bigint not null default 0,
  steps bigint not null default 0,
  seconds numeric(14, 3) not null default 0,
  primary key (org_id, user_id, day)
);
comment on table pam.usage is 'What a person''s runs have used on a day in UTC: always the sum of what their runs'' totals rose by.';

create table pam.budgets (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  user_id uuid,
  period pam.budget_period not null,
  max_cost_usd numeric(14, 6) check (max_cost_usd >= 0),
  max_tokens bigint check (max_tokens >= 0),
  max_steps bigint check (max_steps >= 0),
  max_seconds bigint check (max_seconds >= 0),
  set_by uuid not null,
  set_at timestamptz not null default clock_timestamp(),
  primary key (org_id, id),
  constraint budgets_of_period unique nulls not distinct (org_id, user_id, period),
  check (num_nonnulls(max_cost_usd, max_tokens, max_steps, max_seconds) > 0)
);
comment on table pam.budgets is 'How much may be used in a period: by all runs of the organisation, or by those of one person.';
comment on column pam.budgets.user_id is 'Whose runs; null: everybody''s.';
alter table pam.usage enable row level security;
alter table pam.usage force row level security;
alter table pam.budgets enable row level security;
alter table pam.budgets force row level security;

create policy "People read what they have used, admins what everybody has"
on pam.usage for select to authenticated
using ( (user_id = (select auth.uid()) and org_id = any ((select pam_private.my_org_ids())::uuid[]))
        or org_id = any ((select pam_private.my_org_ids('admin'))::uuid[]) );

create policy "People read their own budgets and the organisation's, admins everybody's"
on pam.budgets for select to authenticated
using ( ((user_id is null or user_id = (select auth.uid())) and org_id = any ((select pam_private.my_org_ids())::uuid[]))
        or org_id = any ((select pam_private.my_org_ids('admin'))::uuid[]) );

alter table pam.runs
  add column root_run uuid,
  add column max_seconds int,
  add column worked_seconds numeric(12, 3) not null default 0,
  add column working_since timestamptz,
  add column reserved_usd numeric(12, 6) not null default 0 check (reserved_usd >= 0),
  add column reserved_tokens bigint not null default 0 check (reserved_tokens >= 0);
comment on column pam.runs.root_run is 'The run that a job''s run goes back to, through every job between: what they spend together is bounded by its limits.';
comment on column pam.runs.max_seconds is 'How long it may take, without waiting. deadline_at moves while it waits; this does not.';
comment on column pam.runs.worked_seconds is 'How long workers have held it, up to its last step or to when it left its worker.';
comment on column pam.runs.working_since is 'From when on its worker''s time is not yet in worked_seconds; null while no worker holds it.';
update pam.runs set working_since = clock_timestamp() where status = 'running';
create index runs_of_root on pam.runs (org_id, root_run) where root_run is not null;
comment on column pam.runs.reserved_usd is 'The most that the step under way may cost, where a budget asks; released when the step is recorded or the run leaves its worker.';
comment on column pam.runs.reserved_tokens is 'The same in tokens.';
create index tool_calls_reserved on pam.tool_calls (org_id, run_id) where reserved_usd > 0;

create function pam_private.release_reserved() returns trigger
language plpgsql security definer set search_path = '' as
$$
begin
  new.reserved_usd := 0;
  new.reserved_tokens := 0;
  return new;
end $$;
comment on function pam_private.release_reserved is 'Nothing is reserved any more.';
-- The sweep that takes a run from a lost worker changes its status, too.
create trigger "What a step reserved is released" before update of status, steps on pam.runs
for each row when (new.reserved_tokens > 0 and (new.status <> 'running' or new.steps > old.steps)) execute function pam_private.release_reserved();

create function pam_private.keep_allowance() returns trigger
language plpgsql set search_path = '' as
$$ begin new.max_seconds := extract(epoch from new.deadline_at - new.created_at); return new; end $$;
comment on function pam_private.keep_allowance is 'What a run was allowed when it was asked for.';
create trigger "A run's allowance is kept" before insert on pam.runs
for each row when (new.max_seconds is null) execute function pam_private.keep_allowance();

create function pam_private.keep_time() returns trigger
language plpgsql set search_path = '' as
$$
begin
  new.worked_seconds := old.worked_seconds + coalesce(extract(epoch from clock_timestamp() - old.working_since), 0);
  new.working_since := case when new.status = 'running' then clock_timestamp() end;
  return new;
end $$;
comment on function pam_private.keep_time is 'Add what a worker has worked on a run.';
create trigger "A run's time is kept" before update of status, steps on pam.runs
for each row when (new.status <> old.status or new.steps > old.steps) execute function pam_private.keep_time();

create function pam_private.count_usage() returns trigger
language plpgsql security definer set search_path = '' as
$$
begin
  insert into pam.usage as u (org_id, user_id, day, cost_usd, tokens, steps, seconds)
  values (new.org_id, new.user_id, (clock_timestamp() at time zone 'UTC')::date, new.cost_usd - old.cost_usd,
          new.input_tokens - old.input_tokens + new.output_tokens - old.output_tokens, new.steps - old.steps,
          new.worked_seconds - old.worked_seconds)
  on conflict (org_id, user_id, day) do update
     set cost_usd = u.cost_usd + excluded.cost_usd, tokens = u.tokens + excluded.tokens, steps = u.steps + excluded.steps,
         seconds = u.seconds + excluded.seconds;
  return null;
end $$;
comment on function pam_private.count_usage is 'Add what a run''s totals rose by to its person''s day.';
-- At the commit: a person's row is locked for that moment alone, and no transaction waits for a run while it holds one.
create constraint trigger "What a run uses is counted" after update of status, cost_usd, input_tokens, output_tokens, steps on pam.runs
deferrable initially deferred for each row
when (new.cost_usd <> old.cost_usd or new.input_tokens <> old.input_tokens or new.output_tokens <> old.output_tokens or new.steps <> old.steps
      or new.worked_seconds <> old.worked_seconds)
execute function pam_private.count_usage();

create function pam_private.period_start(period pam.budget_period) returns date
language sql stable set search_path = '' as
$$ select date_trunc(period::text, clock_timestamp() at time zone 'UTC')::date $$;
comment on function pam_private.period_start is 'The first day of the period that is now, in UTC.';

create function pam_private.budget_use(budget pam.budgets, except_run uuid default null, except_call uuid default null)
returns table (cost_usd numeric, tokens numeric, steps numeric, seconds numeric, held_usd numeric, held_tokens numeric, held_steps numeric)
language sql volatile security definer set search_path = '' as
$$
  select used.cost_usd, used.tokens, used.steps, used.seconds + working.seconds,
         coalesce(working.held_usd, 0) + coalesce(calls.cost_usd, 0), coalesce(working.held_tokens, 0), working.held_steps
    from (select coalesce(sum(u.cost_usd), 0) as cost_usd, coalesce(sum(u.tokens), 0) as tokens, coalesce(sum(u.steps), 0) as steps,
                 coalesce(sum(u.seconds), 0) as seconds
            from pam.usage u where u.org_id = budget.org_id and (budget.user_id is null or u.user_id = budget.user_id)
             and u.day >= pam_private.period_start(budget.period)) as used,
         (select coalesce(extract(epoch from sum(clock_timestamp() - r.working_since)), 0) as seconds,
                 sum(r.reserved_usd) filter (where r.id is distinct from except_run) as held_usd,
                 sum(r.reserved_tokens) filter (where r.id is distinct from except_run) as held_tokens,
                 count(*) filter (where r.reserved_tokens > 0 and r.id is distinct from except_run) as held_steps
            from pam.runs r where r.org_id = budget.org_id and r.status = 'running' and (budget.user_id is null or r.user_id = budget.user_id)) as working,
         (select sum(c.reserved_usd) as cost_usd from pam.tool_calls c join pam.runs r on r.org_id = c.org_id and r.id = c.run_id
           where c.org_id = budget.org_id and c.reserved_usd > 0 and (budget.user_id is null or r.user_id = budget.user_id)
             and c.id is distinct from except_call) as calls
$$;
comment on function pam_private.budget_use is 'What is used of a budget and what is held for what is under way, in one look.';

create function pam_private.shares_budget(run pam.runs) returns boolean
language sql stable security definer set search_path = '' as
$$ select run.root_run is not null
       or exists (select from pam.budgets b where b.org_id = run.org_id and (b.user_id is null or b.user_id = run.user_id))
       or exists (select from pam.runs r where r.org_id = run.org_id and r.root_run = run.id) $$;
comment on function pam_private.shares_budget is 'Whether there is a limit that this run shares with others.';

create function pam_private.room(run pam.runs, call uuid default null)
returns table (whose text, max_usd numeric, max_tokens numeric, max_steps numeric, max_seconds numeric,
               used_usd numeric, used_tokens numeric, used_steps numeric, used_seconds numeric, held_usd numeric, held_tokens numeric, held_steps numeric)
language plpgsql security definer set search_path = '' as
$$
declare
  root uuid := coalesce(run.root_run, run.id);
begin
  if run.root_run is not null or exists (select from pam.runs r where r.org_id = run.org_id and r.root_run = run.id) then
    perform pg_advisory_xact_lock(hashtextextended('pam budget of ' || root, 0));
    return query
      select format('The budget of the first run and its jobs ($%s, %s tokens, %s steps, %s s)', trim_scale(o.max_cost_usd), o.max_tokens, o.max_steps, o.max_seconds),
             o.max_cost_usd, o.max_tokens::numeric, o.max_steps::numeric, o.max_seconds::numeric, tree.cost_usd, tree.tokens, tree.steps, tree.seconds,
             tree.held_usd + coalesce(calls.cost_usd, 0), tree.held_tokens, tree.held_steps
        from pam.runs o,
             (select sum(r.cost_usd) as cost_usd, sum(r.input_tokens + r.output_tokens) as tokens, sum(r.steps)::numeric as steps,
                     sum(r.worked_seconds) + coalesce(extract(epoch from sum(clock_timestamp() - r.working_since)), 0) as seconds,
                     count(*) filter (where r.id <> run.id and r.reserved_tokens > 0)::numeric as held_steps,
                     coalesce(sum(r.reserved_usd) filter (where r.id <> run.id), 0) as held_usd,
                     coalesce(sum(r.reserved_tokens) filter (where r.id <> run.id), 0) as held_tokens
                from pam.runs r where r.org_id = run.org_id and (r.id = root or r.root_run = root)) as tree,
             (select sum(c.reserved_usd) as cost_usd from pam.tool_calls c join pam.runs r on r.org_id = c.org_id and r.id = c.run_id
               where c.org_id = run.org_id and c.reserved_usd > 0 and (r.id = root or r.root_run = root) and c.id is distinct from room.call) as calls
       where o.org_id = run.org_id and o.id = root;
  end if;
  -- Whoever holds these looks at what is used and held, and adds to it, alone.
  perform from pam.budgets b where b.org_id = run.org_id and (b.user_id is null or b.user_id = run.user_id) order by b.id for no key update;
  return query
    select format('%s budget for this %s (%s)', case when b.user_id is null then 'The organisation''s' else 'The asker''s' end, b.period,
                  concat_ws(', ', '$' || trim_scale(b.max_cost_usd), b.max_tokens || ' tokens', b.max_steps || ' steps', b.max_seconds || ' s')),
           b.max_cost_usd, b.max_tokens::numeric, b.max_steps::numeric, b.max_seconds::numeric, u.cost_usd, u.tokens, u.steps, u.seconds, u.held_usd, u.held_tokens, u.held_steps
      from pam.budgets b, pam_private.budget_use(b, run.id, room.call) as u
     where b.org_id = run.org_id and (b.user_id is null or b.user_id = run.user_id);
end $$;
comment on function pam_private.room is 'Every limit that this run shares with others, what is used of it and what others hold, locked until the end of the transaction.';

create function pam_private.ceiling_fault(run pam.runs, call uuid, ceiling_usd numeric) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  shared record;
begin
  if run.cost_usd + ceiling_usd + (
       select coalesce(sum(c.reserved_usd), 0) from pam.tool_calls c
        where c.org_id = run.org_id and c.run_id = run.id and c.status = 'started' and c.id <> call) > run.max_cost_usd then
    return pam_private.refusal('budget', format('This call may cost up to $%s; of the run''s $%s only $%s is left.',
      trim_scale(ceiling_usd), trim_scale(run.max_cost_usd), trim_scale(greatest(run.max_cost_usd - run.cost_usd, 0))));
  end if;
  for shared in select * from pam_private.room(run, call) loop
    if ceiling_usd > shared.max_usd - shared.used_usd - shared.held_usd then
      return pam_private.refusal('budget', format('This call may cost up to $%s. %s has $%s left%s.', trim_scale(ceiling_usd), shared.whose,
        trim_scale(greatest(shared.max_usd - shared.used_usd - shared.held_usd, 0)),
        case when shared.held_usd > 0 then format(', while $%s is held for work under way', trim_scale(shared.held_usd)) else '' end));
    end if;
  end loop;
  return null;
end $$;
comment on function pam_private.ceiling_fault is 'Why a call may not cost so much, as a refusal, or null.';

-- For the heart of a worker, which asks for all its runs at once: each budget is looked at once.
create function pam_private.out_of_time(runs uuid[]) returns setof uuid
language sql volatile security definer set search_path = '' as
$$
  with held as (select r.org_id, r.id, r.user_id, coalesce(r.root_run, r.id) as root from pam.runs r where r.id = any(out_of_time.runs)),
       spent as materialized (
         select b.org_id, b.user_id from pam.budgets b, pam_private.budget_use(b) as u
          where b.max_seconds is not null and b.org_id in (select h.org_id from held h) and u.seconds >= b.max_seconds),
       over as materialized (
         select o.org_id, o.id from pam.runs o, pam.runs r
          where (o.org_id, o.id) in (select h.org_id, h.root from held h) and exists (select from pam.runs j where j.org_id = o.org_id and j.root_run = o.id)
            and r.org_id = o.org_id and (r.id = o.id or r.root_run = o.id)
          group by o.org_id, o.id, o.max_seconds having sum(r.worked_seconds) + coalesce(extract(epoch from sum(clock_timestamp() - r.working_since)), 0) >= o.max_seconds)
  select h.id from held h
   where exists (select from spent s where s.org_id = h.org_id and (s.user_id is null or s.user_id = h.user_id))
      or exists (select from over t where t.org_id = h.org_id and t.id = h.root)
$$;
comment on function pam_private.out_of_time is 'Which of these runs stand under a budget whose time is used up: the organisation''s, the asker''s, or their first run''s.';

create or replace function pam_private.start_job(job pam.jobs) returns text
language plpgsql security definer set search_path = '' as
$$
declare
  tools jsonb := pam_private.current_tools(job.org_id, job.agent_id);
  is_agent boolean := job.task = 'agent';
  parent pam.runs;
  run pam.runs;
  thread uuid;
begin
  if coalesce(pam_private.role_in(job.org_id, job.user_id), 'viewer') < 'developer' then return 'access_revoked'; end if;
  -- Never more than the version that submitted it, and never more than the card by now.
  if not (case when is_agent then pam_private.granted_tools(job.org_id, job.agent_id, job.agent_version) <@ tools
               else tools ? job.task end) then
    return 'not_granted';
  end if;
  select p.* into parent from pam.runs p where p.org_id = job.org_id and p.id = job.submitted_by_run;
  insert into pam.threads as t (org_id, title, created_by)
  values (job.org_id, 'Job: ' || coalesce(job.name, job.task), job.user_id) returning t.id into thread;
  insert into pam.runs as r (org_id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens, max_cost_usd, deadline_at,
                             request_sha256, task, tainted_at, taint, root_run, paused_at)
  values (job.org_id, thread, job.agent_id, job.agent_version, job.user_id, (job.limits -> 'max_steps')::int, (job.limits -> 'max_tokens')::int,
          (job.limits -> 'max_cost_usd')::numeric, clock_timestamp() + make_interval(secs => (job.limits -> 'max_seconds')::int),
          encode(sha256(convert_to(job.arguments::text, 'UTF8')), 'hex'),
          case when not is_agent then jsonb_build_object('tool', job.task, 'arguments', job.arguments) end, job.tainted_at, job.taint,
          coalesce(parent.root_run, parent.id), case when parent.ended_at is null then parent.paused_at end)
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

create function pam_worker.begin_step(run_id uuid, fence bigint, input_tokens bigint, output_tokens bigint, input_usd numeric, output_usd numeric) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  least_output constant int := 128;
  run pam.runs := pam_private.hold(begin_step.run_id, begin_step.fence, to_write => false);
  allowed numeric := begin_step.output_tokens;
  unheld numeric := begin_step.output_tokens;
  shared record;
  is_shared boolean := false;
begin
  -- Mostly nobody has said anything and no budget asks: then nothing is written, and nothing waits for the disk.
  if pam_private.has_words(run) then
    return jsonb_build_object('messages', pam_private.take_messages(pam_private.hold(begin_step.run_id, begin_step.fence)));
  end if;
  if not pam_private.shares_budget(run) then
    return jsonb_build_object('output_tokens', begin_step.output_tokens, 'is_reserved', false);
  end if;
  run := pam_private.hold(begin_step.run_id, begin_step.fence);
  for shared in select * from pam_private.room(run) loop
    is_shared := true;
    unheld := least(floor((shared.max_usd - shared.used_usd - begin_step.input_usd) / nullif(begin_step.output_usd, 0)),
                    shared.max_tokens - shared.used_tokens - begin_step.input_tokens,
                    case when shared.used_usd + begin_step.input_usd > shared.max_usd or shared.used_steps >= shared.max_steps
                            or shared.used_seconds >= shared.max_seconds then 0 end, unheld);
    allowed := least(floor((shared.max_usd - shared.used_usd - shared.held_usd - begin_step.input_usd) / nullif(begin_step.output_usd, 0)),
                     shared.max_tokens - shared.used_tokens - shared.held_tokens - begin_step.input_tokens,
                     case when shared.used_usd + shared.held_usd + begin_step.input_usd > shared.max_usd
                            or shared.used_steps + shared.held_steps >= shared.max_steps then 0 end, allowed);
    if unheld < least_output then
      return pam_private.refusal('budget', shared.whose || ' is used up: nothing more is asked of a model.');
    elsif allowed < least_output then
      return pam_private.refusal('held', shared.whose || ' is held for work under way: the run waits for what that leaves.');
    end if;
  end loop;
  if is_shared then
    update pam.runs r set reserved_usd = begin_step.input_usd + allowed * begin_step.output_usd, reserved_tokens = begin_step.input_tokens + allowed::bigint
     where r.id = run.id;
  end if;
  return jsonb_build_object('output_tokens', allowed::bigint, 'is_reserved', is_shared);
end $$;
comment on function pam_worker.begin_step is 'Before a model is asked: {"messages"} that must be heard first, or {"output_tokens"} it may write; with is_reserved that and the input are all that is held for it. Prices are in dollars: of the whole input, and of one token of output.';

create function pam.set_budget(
  org_id uuid, period pam.budget_period, max_cost_usd numeric default null, max_tokens bigint default null, max_steps bigint default null,
  max_seconds bigint default null, user_id uuid default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(set_budget.org_id, auth.uid());
  about jsonb := jsonb_build_object('user_id', set_budget.user_id, 'period', set_budget.period, 'max_cost_usd', set_budget.max_cost_usd,
    'max_tokens', set_budget.max_tokens, 'max_steps', set_budget.max_steps, 'max_seconds', set_budget.max_seconds);
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'admin' then
    perform pam_private.record(set_budget.org_id, me, 'budget.set', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner sets a budget.');
  end if;
  if set_budget.user_id is not null and pam_private.role_in(set_budget.org_id, set_budget.user_id) is null then
    return pam_private.refusal('not_found', 'There is no such member of the organisation.');
  end if;
  if set_budget.period is null or least(set_budget.max_cost_usd, set_budget.max_tokens, set_budget.max_steps, set_budget.max_seconds) < 0
     or set_budget.max_cost_usd > 1000000 or set_budget.max_cost_usd = 'NaN' then
    return pam_private.refusal('invalid', 'A budget is for a day or a month, at least 0, and at most $1,000,000.');
  end if;
  if num_nonnulls(set_budget.max_cost_usd, set_budget.max_tokens, set_budget.max_steps, set_budget.max_seconds) = 0 then
    delete from pam.budgets b where b.org_id = set_budget.org_id and b.user_id is not distinct from set_budget.user_id and b.period = set_budget.period;
  else
    insert into pam.budgets as b (org_id, user_id, period, max_cost_usd, max_tokens, max_steps, max_seconds, set_by)
    values (set_budget.org_id, set_budget.user_id, set_budget.period, set_budget.max_cost_usd, set_budget.max_tokens, set_budget.max_steps,
            set_budget.max_seconds, me)
    on conflict on constraint budgets_of_period do update
       set max_cost_usd = excluded.max_cost_usd, max_tokens = excluded.max_tokens, max_steps = excluded.max_steps,
           max_seconds = excluded.max_seconds, set_by = excluded.set_by, set_at = clock_timestamp();
  end if;
  perform pam_private.record(set_budget.org_id, me, 'budget.set', true, about);
  return about;
end $$;
comment on function pam.set_budget is 'What all runs of an organisation, or of one member, may use in a day or month (UTC); what is null is not bounded, all null takes the budget away. Admins and owners.';

create function pam.read_budgets(org_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(read_budgets.org_id, auth.uid());
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  return jsonb_build_object('budgets', coalesce((
    select jsonb_agg(jsonb_build_object('user_id', b.user_id, 'period', b.period, 'max_cost_usd', b.max_cost_usd, 'max_tokens', b.max_tokens, 'max_steps', b.max_steps, 'max_seconds', b.max_seconds,
             'used_cost_usd', u.cost_usd, 'used_tokens', u.tokens, 'used_steps', u.steps, 'used_seconds', u.seconds, 'held_cost_usd', u.held_usd, 'held_tokens', u.held_tokens,
             'begins_anew_at', (pam_private.period_start(b.period) + ('1 ' || b.period)::interval) at time zone 'UTC')
             order by b.user_id nulls first, b.period)
      from pam.budgets b, pam_private.budget_use(b) as u
     where b.org_id = read_budgets.org_id and (b.user_id is null or b.user_id = me or mine >= 'admin')), '[]'));
end $$;
comment on function pam.read_budgets is '{"budgets"}: those that the caller may see, with what is used and held of each by now.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke execute on function pam.set_budget(uuid, pam.budget_period, numeric, bigint, bigint, bigint, uuid), pam.read_budgets(uuid) from public, anon, service_role;
revoke all on pam.usage, pam.budgets from public, anon, authenticated, service_role;
grant select on pam.usage, pam.budgets to authenticated;
grant execute on function pam.set_budget(uuid, pam.budget_period, numeric, bigint, bigint, bigint, uuid), pam.read_budgets(uuid) to authenticated;
grant execute on function pam_worker.begin_step(uuid, bigint, bigint, bigint, numeric, numeric) to pam_worker;
