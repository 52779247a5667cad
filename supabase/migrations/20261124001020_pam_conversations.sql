-- One conversation, many messages: what becomes of a message to a thread whose run is not finished, and words that a run
-- takes on its way. Nothing that a person said is dropped.

create type pam.when_busy as enum ('reject', 'queue', 'interrupt', 'roll_back');
comment on type pam.when_busy is 'A new message meets a run that is not finished: refuse it, let it wait, cancel the run, or cancel and forget the run.';

alter table pam.runs add column is_rolled_back boolean not null default false, add column seen_position bigint not null default 0;
comment on column pam.runs.is_rolled_back is 'Its person took it back: later runs of the thread do not see what was said in it.';
comment on column pam.runs.seen_position is 'The last message to this run that a worker of it has taken.';
alter table pam_private.run_heads add column allowed_seconds int;
comment on column pam_private.run_heads.allowed_seconds is 'How long a run may take once it no longer waits for another.';
create index runs_waiting_of_thread on pam.runs (org_id, thread_id, created_at) where status = 'queued' and after_run is not null;
drop index pam.runs_one_live_per_thread;
create unique index runs_one_live_per_thread on pam.runs (org_id, thread_id)
 where status in ('queued', 'running', 'interrupted') and after_run is null;

create or replace function pam_private.ring() returns trigger
language plpgsql security definer set search_path = '' as
$$
declare
  hook_url text := (select s.value from pam_private.settings s where s.name = 'webhook_url');
  secret text := (select s.value from pam_private.settings s where s.name = 'webhook_secret');
  announcement jsonb := jsonb_build_object('run_id', new.id, 'turn', new.turn);
  delivery text := new.id || '-' || new.turn;
  sent_at text := extract(epoch from clock_timestamp())::bigint::text;
begin
  insert into pam_private.run_heads (run_id) values (new.id) on conflict do nothing;
  if new.after_run is not null or new.due_at > clock_timestamp() then return null; end if;
  if hook_url is not null and secret is not null and to_regnamespace('net') is not null then
    begin
      perform net.http_post(
        url => hook_url, body => announcement, timeout_milliseconds => 5000,
        headers => jsonb_build_object(
          'content-type', 'application/json', 'webhook-id', delivery, 'webhook-timestamp', sent_at,
          'webhook-signature', 'v1,' || encode(pam_private.hmac_sha256(
            convert_to(secret, 'UTF8'), convert_to(delivery || '.' || sent_at || '.' || announcement::text, 'UTF8')), 'base64')));
    exception when others then
      raise warning 'PAM could not ring for run %: %; the sweeper will', new.id, sqlerrm;
    end;
  end if;
  return null;
end $$;

create trigger "A run that waited rings" after update of after_run on pam.runs
for each row when (new.status = 'queued' and old.after_run is not null and new.after_run is null) execute function pam_private.ring();

-- What was read while it waited, it will hear of, too.
create trigger "A run that waited inherits what its thread has read" before update of after_run on pam.runs
for each row when (new.tainted_at is null and old.after_run is not null and new.after_run is null) execute function pam_private.inherit_taint();

create function pam_private.let_next_follow(org uuid, thread uuid) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  next_run pam.runs;
  said uuid;
begin
  -- Who starts a run in this thread holds the same lock while looking for one to wait for.
  perform 1 from pam.threads t where t.org_id = org and t.id = thread for no key update;
  if exists (select from pam.runs r where r.org_id = org and r.thread_id = thread
              and r.status in ('queued', 'running', 'interrupted') and r.after_run is null) then return; end if;
  select r.* into next_run from pam.runs r
   where r.org_id = org and r.thread_id = thread and r.status = 'queued' and r.after_run is not null order by r.created_at, r.id limit 1;
  if not found then return; end if;
  update pam.runs r set after_run = null,
         deadline_at = clock_timestamp() + make_interval(secs => (select coalesce(h.allowed_seconds, 900) from pam_private.run_heads h where h.run_id = r.id))
   where r.id = next_run.id;
  update pam_private.run_heads h set rung_at = clock_timestamp() where h.run_id = next_run.id;
  -- What was said to it while it waited comes after what was said before it.
  for said in select m.id from pam.messages m where m.org_id = org and m.run_id = next_run.id order by m.position loop
    update pam.messages m set position = default where m.org_id = org and m.id = said;
  end loop;
end $$;
comment on function pam_private.let_next_follow is 'Let the oldest run that waits in a thread begin, once none is under way there.';

create function pam_private.follow() returns trigger
language plpgsql security definer set search_path = '' as
$$ begin perform pam_private.let_next_follow(new.org_id, new.thread_id); return null; end $$;
comment on function pam_private.follow is 'When a run ends, the next of its thread follows.';
-- One that only waited leaves nobody to follow; it must not ask for the thread whose holder may ask for its head.
create trigger "The next run of a thread follows" after update of status on pam.runs
for each row when (new.status in ('succeeded', 'failed', 'cancelled') and old.status not in ('succeeded', 'failed', 'cancelled') and old.after_run is null)
execute function pam_private.follow();

create function pam_private.give_way(org uuid, thread uuid, newest uuid, person uuid, rolls_back boolean) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs;
begin
  -- Those that wait end at once; the one under way last, for the newest follows it.
  for run in
    select r.* from pam.runs r where r.org_id = org and r.thread_id = thread and r.id <> newest
       and r.status in ('queued', 'running', 'interrupted') order by r.after_run is null, r.created_at
  loop
    if rolls_back then update pam.runs r set is_rolled_back = true where r.id = run.id; end if;
    update pam.runs r set cancel_requested_at = coalesce(r.cancel_requested_at, clock_timestamp()) where r.id = run.id returning * into run;
    perform pam_private.record(org, person, 'run.cancel', true, jsonb_build_object('run_id', run.id, 'for', newest, 'rolls_back', rolls_back));
    if not exists (select from pam_private.run_heads h where h.run_id = run.id and h.lease_until > clock_timestamp()) then
      perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    end if;
  end loop;
end $$;
comment on function pam_private.give_way is 'Cancel every unfinished run of a thread but the newest: at once where no worker holds it, else at its next step.';

drop function pam.start_run(uuid, text, text, uuid, jsonb, text);
create function pam.start_run(
  org_id uuid, agent text, message text, thread_id uuid default null,
  limits jsonb default '{}', idempotency_key text default null, if_busy pam.when_busy default 'reject', priority int default 0) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(start_run.org_id, auth.uid());
  chosen pam.agent_versions;
  digest text;
  run pam.runs;
  thread uuid := start_run.thread_id;
  live pam.runs;
  ceilings constant jsonb := '{"max_steps": 200, "max_tokens": 20000000, "max_cost_usd": 100, "max_seconds": 86400}';
  defaults constant jsonb := '{"max_steps": 30, "max_tokens": 400000, "max_cost_usd": 0.5, "max_seconds": 900}';
  wanted jsonb;
  entry record;
begin
  if me is null then return pam_private.refusal('signed_out', 'Sign in first.'); end if;
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'developer' then
    perform pam_private.record(start_run.org_id, me, 'run.start', false);
    return pam_private.refusal('forbidden', 'Viewers watch runs; a developer, admin or owner starts them.');
  end if;
  if coalesce(start_run.message, '') !~ '\S' then
    return pam_private.refusal('invalid', 'The message is empty: say what the agent should do.');
  end if;
  if char_length(start_run.message) > 100000 then
    return pam_private.refusal('too_large', 'A message may hold 100,000 characters: put larger text into a workspace file and name it.');
  end if;
  if start_run.if_busy is null or start_run.priority is null or start_run.priority not between -10 and 10 then
    return pam_private.refusal('invalid', 'priority is a number from -10 to 10, and if_busy is reject, queue, interrupt or roll_back.');
  end if;
  if char_length(start_run.idempotency_key) not between 1 and 200 then
    return pam_private.refusal('invalid', 'An idempotency key has 1 to 200 characters.');
  end if;
  select v.* into chosen from pam.agents a
    join pam.agent_versions v on v.org_id = a.org_id and v.agent_id = a.id and v.version = a.version
   where a.org_id = start_run.org_id and a.name = start_run.agent;
  if not found then
    return pam_private.refusal('unknown_agent', format('There is no agent %s in this organisation: import it first.', left(coalesce(start_run.agent, '(none)'), 63)));
  end if;

  if jsonb_typeof(coalesce(start_run.limits, '{}')) <> 'object' then
    return pam_private.refusal('invalid', 'limits is an object of max_steps, max_tokens, max_cost_usd, max_seconds.');
  end if;
  wanted := defaults || coalesce(nullif(chosen.definition -> 'limits', 'null'), '{}') || coalesce(start_run.limits, '{}');
  for entry in select key, value from jsonb_each(wanted) loop
    if not ceilings ? entry.key then
      return pam_private.refusal('invalid', format('%s is no limit: use max_steps, max_tokens, max_cost_usd, max_seconds.', left(entry.key, 63)));
    end if;
    if jsonb_typeof(entry.value) <> 'number' or round((entry.value)::numeric, 6) <= 0 or (entry.value)::numeric > (ceilings -> entry.key)::numeric
       or (entry.key <> 'max_cost_usd' and (entry.value)::numeric <> trunc((entry.value)::numeric)) then
      return pam_private.refusal('invalid', format('%s must be a number above 0 and at most %s.', entry.key, ceilings ->> entry.key));
    end if;
  end loop;

  digest := encode(sha256(convert_to(jsonb_build_array(start_run.agent, start_run.message, start_run.thread_id, start_run.limits)::text || case when start_run.if_busy = 'reject' and start_run.priority = 0 then '' else concat(start_run.if_busy, start_run.priority) end, 'UTF8')), 'hex');
  -- One person's starts go one after another: the key, the cap and the thread are then decided without a race.
  perform pg_advisory_xact_lock(hashtextextended('pam runs of ' || me::text, 0));
  select r.* into run from pam.runs r
   where r.org_id = start_run.org_id and r.user_id = me and r.idempotency_key = start_run.idempotency_key;
  if found then
    if run.request_sha256 <> digest then
      return pam_private.refusal('conflict', 'This idempotency key was used for another request: take a new one.');
    end if;
    return jsonb_build_object('run_id', run.id, 'thread_id', run.thread_id, 'status', run.status, 'is_replay', true);
  end if;
  if (select count(*) from pam.runs r where r.user_id = me and r.status in ('queued', 'running', 'interrupted')) >= 50 then
    perform pam_private.record(start_run.org_id, me, 'run.start', false, '{"limit": "50 unfinished runs"}');
    return pam_private.refusal('limit', 'You have 50 unfinished runs: wait for one to end, or cancel one.');
  end if;

  if thread is null then
    insert into pam.threads as t (org_id, title, created_by)
    values (start_run.org_id, left(btrim(split_part(btrim(start_run.message), E'\n', 1)), 80), me) returning t.id into thread;
  else
    if start_run.if_busy in ('interrupt', 'roll_back') then  -- a worker that ends a run locks its head, then the thread
      perform 1 from pam.runs r join pam_private.run_heads h on h.run_id = r.id
        where r.org_id = start_run.org_id and r.thread_id = thread and r.status in ('queued', 'running', 'interrupted') order by r.id for update of h;
    end if;
    perform 1 from pam.threads t where t.org_id = start_run.org_id and t.id = thread for update;
    if not found then
      perform pam_private.record(start_run.org_id, me, 'run.start', false, jsonb_build_object('thread_id', thread));
      return pam_private.refusal('not_found', 'There is no such thread in this organisation.');
    end if;
    -- The run that the new one would meet: the last of those that wait, else the one under way.
    select r.* into live from pam.runs r
     where r.org_id = start_run.org_id and r.thread_id = thread and r.status in ('queued', 'running', 'interrupted')
     order by r.after_run is null, r.created_at desc limit 1;
    if found and start_run.if_busy = 'reject' then
      return pam_private.refusal('busy', 'A run of this thread is not finished: wait for it, answer it or cancel it, or say with if_busy what becomes of it.');
    end if;
    if live.id is not null and start_run.if_busy in ('interrupt', 'roll_back')
       and exists (select from pam.runs r where r.org_id = start_run.org_id and r.thread_id = thread
                    and r.status in ('queued', 'running', 'interrupted') and r.user_id <> me) and mine < 'admin' then
      perform pam_private.record(start_run.org_id, me, 'run.start', false, jsonb_build_object('thread_id', thread, 'if_busy', start_run.if_busy));
      return pam_private.refusal('forbidden', 'Only the person who started a run, an admin or an owner may cancel it: queue yours behind it.');
    end if;
  end if;
  insert into pam.runs as r (org_id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens, max_cost_usd,
                             deadline_at, idempotency_key, request_sha256, priority, after_run)
  values (start_run.org_id, thread, chosen.agent_id, chosen.version, me,
          (wanted -> 'max_steps')::int, (wanted -> 'max_tokens')::int, (wanted -> 'max_cost_usd')::numeric,
          now() + make_interval(secs => (wanted -> 'max_seconds')::int), start_run.idempotency_key, digest, start_run.priority, live.id)
  returning * into run;
  if live.id is not null then  -- its clock begins when it may
    update pam_private.run_heads h set allowed_seconds = (wanted -> 'max_seconds')::int where h.run_id = run.id;
    update pam.runs r set deadline_at = now() + interval '30 days' where r.id = run.id;
  end if;
  insert into pam_private.run_claims (run_id, claims) values (run.id, coalesce(auth.jwt(), '{}'));
  insert into pam.messages (org_id, thread_id, run_id, role, content)
  values (run.org_id, run.thread_id, run.id, 'user', start_run.message);
  perform pam_private.record(run.org_id, me, 'run.start', true, jsonb_build_object('run_id', run.id, 'agent', start_run.agent, 'version', chosen.version));
  if live.id is not null and start_run.if_busy in ('interrupt', 'roll_back') then
    perform pam_private.give_way(start_run.org_id, thread, run.id, me, start_run.if_busy = 'roll_back');
  end if;
  return jsonb_build_object('run_id', run.id, 'thread_id', run.thread_id, 'status', run.status, 'is_replay', false);
end $$;
comment on function pam.start_run is 'Ask an agent: {"run_id", "thread_id", "status", "is_replay"}. Limits not given come from the card, else 30 steps, 400,000 tokens, $0.50, 15 minutes. if_busy: what becomes of an unfinished run of the thread. priority: which of the organisation''s queued runs comes first.';

create function pam.steer_run(run_id uuid, message text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  run pam.runs;
  said uuid;
begin
  perform 1 from pam_private.run_heads h where h.run_id = steer_run.run_id for update;
  select * into run from pam.runs r where r.id = steer_run.run_id;
  if not found or pam_private.role_in(run.org_id, me) is null then
    return pam_private.refusal('not_found', 'There is no such run.');
  end if;
  -- The run goes on with its asker's rights, so that whoever speaks to it steers what those rights are used for.
  if pam_private.role_in(run.org_id, me) < (case when run.user_id = me then 'developer' else 'admin' end)::pam.member_role then
    perform pam_private.record(run.org_id, me, 'run.steer', false, jsonb_build_object('run_id', run.id));
    return pam_private.refusal('forbidden', 'The person who started the run speaks to it, or an admin or owner.');
  end if;
  if run.status not in ('queued', 'running', 'interrupted') or run.cancel_requested_at is not null then
    return pam_private.refusal('conflict', 'The run is over: start another in its thread.');
  end if;
  if run.task is not null then
    return pam_private.refusal('conflict', 'A job''s one call listens to nobody: cancel it, or let it end.');
  end if;
  if coalesce(steer_run.message, '') !~ '\S' then
    return pam_private.refusal('invalid', 'The message is empty: say what the agent should do.');
  end if;
  if char_length(steer_run.message) > 100000 then
    return pam_private.refusal('too_large', 'A message may hold 100,000 characters: put larger text into a workspace file and name it.');
  end if;
  if (select count(*) from pam.messages m where m.org_id = run.org_id and m.run_id = run.id and m.role = 'user') >= 100 then
    return pam_private.refusal('limit', 'A run takes 100 messages: start another in its thread.');
  end if;
  insert into pam.messages as m (org_id, thread_id, run_id, role, content)
  values (run.org_id, run.thread_id, run.id, 'user', steer_run.message) returning m.id into said;
  perform pam_private.record(run.org_id, me, 'run.steer', true, jsonb_build_object('run_id', run.id, 'message_id', said));
  return jsonb_build_object('run_id', run.id, 'status', run.status, 'message_id', said);
end $$;
comment on function pam.steer_run is 'Say something to a run on its way: it is taken before its next step, and no run succeeds without having read it.';

create function pam_private.has_words(run pam.runs) returns boolean
language sql stable security definer set search_path = '' as
$$ select exists (
     select from pam.messages m where m.org_id = run.org_id and m.run_id = run.id and m.role = 'user' and m.position > run.seen_position
        and m.position > (select min(q.position) from pam.messages q where q.org_id = run.org_id and q.run_id = run.id and q.role = 'user')) $$;
comment on function pam_private.has_words is 'Whether somebody has said something to this run that it has not taken. The first is the question itself.';

create function pam_private.take_messages(run pam.runs) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  said record;
  moved bigint;
  taken jsonb := '[]';
begin
  -- What is taken now comes after what the run has said by now, whoever reads the thread later. The question was there first.
  for said in
    select m.id, m.content from pam.messages m
     where m.org_id = run.org_id and m.run_id = run.id and m.role = 'user' and m.position > run.seen_position
       and m.position > (select min(q.position) from pam.messages q where q.org_id = run.org_id and q.run_id = run.id and q.role = 'user')
     order by m.position
  loop
    update pam.messages m set position = default where m.org_id = run.org_id and m.id = said.id returning m.position into moved;
    taken := taken || jsonb_build_object('role', 'user', 'content', said.content, 'step', null);
    perform pam_private.append(run, jsonb_build_array(jsonb_build_object('type', 'CUSTOM', 'name', 'pam.steered',
      'timestamp', pam_private.now_ms(), 'value', jsonb_build_object('messageId', said.id, 'content', said.content))));
  end loop;
  if moved is not null then update pam.runs r set seen_position = moved where r.id = run.id; end if;
  return taken;
end $$;
comment on function pam_private.take_messages is 'What people have said to this run since it was last asked; the log says that it knows it from here on.';

create function pam_worker.take_messages(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(take_messages.run_id, take_messages.fence, to_write => false);
begin
  if not pam_private.has_words(run) then
    return '[]';
  end if;
  return pam_private.take_messages(pam_private.hold(take_messages.run_id, take_messages.fence));
end $$;
comment on function pam_worker.take_messages is 'Before the thread is read: what was said to this run takes its place in it.';

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
         -- What waits behind this run is not its business, and what was rolled back was never said.
         and (m.run_id is null or m.run_id = run.id
              or exists (select from pam.runs o where o.org_id = m.org_id and o.id = m.run_id
                      and not (o.status = 'queued' and o.after_run is not null) and not o.is_rolled_back))
         -- A step whose answer broke off said nothing, as whoever took it knows.
         and not exists (select from pam.steps s where s.org_id = m.org_id and s.run_id = m.run_id and s.position = m.step and s.finish = 'failed')
         and (m.role = 'user' or m.run_id = run.id
              or not exists (select from pam.tool_calls c where c.org_id = m.org_id and c.run_id = m.run_id and c.step = m.step))), '[]'),
    'calls', coalesce((
      select jsonb_agg(to_jsonb(c) || case when a.id is null then '{}' else jsonb_build_object('decision', jsonb_build_object(
               'status', a.status, 'note', a.note, 'edited_arguments', a.edited_arguments, 'by_asker', a.decided_by = a.asker_id)) end order by c.step, c.place)
        from pam.tool_calls c left join pam.approvals a on a.org_id = c.org_id and a.id = c.id
       where c.org_id = run.org_id and c.run_id = run.id), '[]'));
end $$;

-- What nobody saw is charged, as where the database ends a run.
create or replace function pam_worker.finish_run(run_id uuid, fence bigint, status pam.run_status, reason text, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  unseen numeric;
  run pam.runs := pam_private.hold(finish_run.run_id, finish_run.fence, still_member => false);
begin
  if finish_run.status not in ('succeeded', 'failed', 'cancelled')
     or coalesce(events -> -1 ->> 'type', '') <> (case finish_run.status when 'failed' then 'RUN_ERROR' else 'RUN_FINISHED' end) then
    raise exception 'a run ends with one terminal event: RUN_ERROR when it failed, else RUN_FINISHED' using errcode = '22023';
  end if;
  if finish_run.status = 'succeeded' and run.task is null and exists (
    -- Neither taken, nor answered since it was taken. The first is the question itself.
    select from pam.messages m where m.org_id = run.org_id and m.run_id = run.id and m.role = 'user'
       and m.position > least(run.seen_position, (select coalesce(max(w.position), 0) from pam.messages w
                                                   where w.org_id = run.org_id and w.run_id = run.id and w.role = 'assistant'))
       and m.position > (select min(q.position) from pam.messages q where q.org_id = run.org_id and q.run_id = run.id and q.role = 'user')) then
    return pam_private.refusal('steered', 'Somebody has said something more: it is taken before the run ends.');
  end if;
  select coalesce(sum(greatest(c.reserved_usd - c.cost_usd, 0)), 0) into unseen from pam.tool_calls c
   where c.org_id = run.org_id and c.run_id = run.id and c.status = 'started';
  update pam.tool_calls c set reserved_usd = 0, cost_usd = case c.status when 'started' then greatest(c.cost_usd, c.reserved_usd) else c.cost_usd end,
         status = case when c.status <> 'started' and c.started_at is null then 'refused' else 'unknown' end::pam.call_status, result = null, ended_at = clock_timestamp()
   where c.org_id = run.org_id and c.run_id = run.id and c.status in ('planned', 'started', 'answered');
  perform pam_private.append(run, events);
  update pam.runs r set status = finish_run.status, reason = finish_run.reason, ended_at = clock_timestamp(), cost_usd = r.cost_usd + unseen where r.id = run.id;
  update pam_private.run_heads h set lease_until = null, fence = h.fence + 1 where h.run_id = run.id;
  perform pam_private.record(run.org_id, run.user_id, 'run.' || finish_run.status, true, jsonb_build_object('run_id', run.id, 'reason', finish_run.reason));
  return 'null';
end $$;

create function pam_worker.sweep_threads(max_threads int default 200) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  thread record;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('pam sweep threads', 0)) then return '[]'; end if;
  for thread in
    select distinct w.org_id, w.thread_id from pam.runs w where w.status = 'queued' and w.after_run is not null
       and not exists (select from pam.runs r where r.org_id = w.org_id and r.thread_id = w.thread_id
                        and r.status in ('queued', 'running', 'interrupted') and r.after_run is null) limit max_threads
  loop
    perform pam_private.let_next_follow(thread.org_id, thread.thread_id);
  end loop;
  return '[]';
end $$;
comment on function pam_worker.sweep_threads is 'Let runs follow whose thread is free, should that ever have been missed. Their trigger rings.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke execute on function pam.start_run(uuid, text, text, uuid, jsonb, text, pam.when_busy, int), pam.steer_run(uuid, text) from public, anon, service_role;
grant execute on function pam.start_run(uuid, text, text, uuid, jsonb, text, pam.when_busy, int), pam.steer_run(uuid, text) to authenticated;
grant execute on function pam_worker.take_messages(uuid, bigint), pam_worker.sweep_threads(int) to pam_worker;
grant execute on function pam_worker.sweep_threads(int) to pam_sweeper;
