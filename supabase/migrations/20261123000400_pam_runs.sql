-- Threads, messages and runs: the one door by which work starts, and the doorbell behind it.

create type pam.run_status as enum ('queued', 'running', 'interrupted', 'succeeded', 'failed', 'cancelled');
comment on type pam.run_status is 'interrupted waits for a person and holds no worker; the last three are final.';

create table pam.threads (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  title text not null default '' check (char_length(title) <= 200),
  created_by uuid not null,
  created_at timestamptz not null default now(),
  primary key (org_id, id)
);
comment on table pam.threads is 'A conversation of an organisation with its agents.';
create index threads_newest on pam.threads (org_id, created_at desc, id desc);

create table pam.runs (
  org_id uuid not null,
  id uuid not null default gen_random_uuid(),
  thread_id uuid not null,
  agent_id uuid not null,
  agent_version int not null,
  user_id uuid not null,
  status pam.run_status not null default 'queued',
  reason text,
  turn int not null default 1,
  attempt int not null default 0,
  max_steps int not null check (max_steps between 1 and 200),
  max_tokens int not null check (max_tokens between 1 and 20000000),
  max_cost_usd numeric(12, 6) not null check (max_cost_usd > 0 and max_cost_usd <= 100),
  deadline_at timestamptz not null,
  steps int not null default 0,
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  cost_usd numeric(12, 6) not null default 0,
  cancel_requested_at timestamptz,
  idempotency_key text,
  request_sha256 text not null,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  interrupted_at timestamptz,
  ended_at timestamptz,
  primary key (org_id, id),
  unique (id),
  foreign key (org_id, thread_id) references pam.threads on delete cascade,
  foreign key (org_id, agent_id, agent_version) references pam.agent_versions
);
comment on table pam.runs is 'One piece of work of an agent for a person. Work starts when status becomes queued, whoever caused it.';
comment on column pam.runs.turn is 'Counts the times the run was queued; the queue''s job is run and turn, so an old job finds nothing.';
comment on column pam.runs.attempt is 'Claims since the last recorded step; too many end the run.';
create index runs_newest on pam.runs (org_id, created_at desc, id desc);
create index runs_of_thread on pam.runs (org_id, thread_id, created_at desc);
create index runs_of_agent on pam.runs (org_id, agent_id, agent_version);
create index runs_unfinished on pam.runs (status, created_at) where status in ('queued', 'running', 'interrupted');
create index runs_unfinished_of_user on pam.runs (user_id) where status in ('queued', 'running', 'interrupted');
create unique index runs_one_live_per_thread on pam.runs (org_id, thread_id) where status in ('queued', 'running', 'interrupted');
create unique index runs_idempotency on pam.runs (org_id, user_id, idempotency_key);

create table pam.messages (
  org_id uuid not null,
  id uuid not null default gen_random_uuid(),
  thread_id uuid not null,
  run_id uuid,
  step int,
  position bigint generated always as identity,
  role text not null check (role in ('user', 'assistant')),
  content text not null,
  created_at timestamptz not null default now(),
  primary key (org_id, id),
  foreign key (org_id, thread_id) references pam.threads on delete cascade,
  foreign key (org_id, run_id) references pam.runs on delete cascade
);
comment on table pam.messages is 'What was said in a thread, in order; an assistant''s message belongs to a step of a run.';
create index messages_of_thread on pam.messages (org_id, thread_id, position);
create index messages_of_run on pam.messages (org_id, run_id);

create table pam_private.run_heads (
  run_id uuid primary key references pam.runs (id) on delete cascade,
  fence bigint not null default 0,
  worker text,
  lease_until timestamptz,
  last_seq bigint not null default 0,
  rung_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
comment on table pam_private.run_heads is 'The one hot row of a run: its fence, its lease, its last event. Whoever writes to a run locks this first.';

create table pam_private.run_claims (
  run_id uuid primary key references pam.runs (id) on delete cascade,
  claims jsonb not null
);
comment on table pam_private.run_claims is 'What the asker''s token said when the run started: nobody else''s business. app_metadata and user_metadata are read afresh at every bind.';

alter table pam.threads enable row level security;
alter table pam.threads force row level security;
alter table pam.runs enable row level security;
alter table pam.runs force row level security;
alter table pam.messages enable row level security;
alter table pam.messages force row level security;
alter table pam_private.run_heads enable row level security;
alter table pam_private.run_heads force row level security;
alter table pam_private.run_claims enable row level security;
alter table pam_private.run_claims force row level security;

create policy "People read the threads of their organisations"
on pam.threads for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "People read the runs of their organisations"
on pam.runs for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "People read the messages of their organisations"
on pam.messages for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

-- The doorbell. pg_net delivers at most once and forgets on a crash; the sweeper rings again.
-- Signed as https://www.standardwebhooks.com says: HMAC-SHA256 over "id.timestamp.body".
create function pam_private.ring() returns trigger
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
comment on function pam_private.ring is 'Announce a queued run by a signed webhook. A lost ring delays a run by a sweep, never loses it.';

create trigger "A queued run rings" after insert on pam.runs
for each row when (new.status = 'queued') execute function pam_private.ring();
create trigger "A run queued again rings" after update of status, turn on pam.runs
for each row when (new.status = 'queued' and (old.status <> 'queued' or old.turn <> new.turn)) execute function pam_private.ring();

create function pam.start_run(
  org_id uuid, agent text, message text, thread_id uuid default null,
  limits jsonb default '{}', idempotency_key text default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(start_run.org_id, auth.uid());
  chosen pam.agent_versions;
  digest text;
  run pam.runs;
  thread uuid := start_run.thread_id;
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

  digest := encode(sha256(convert_to(jsonb_build_array(start_run.agent, start_run.message, start_run.thread_id, start_run.limits)::text, 'UTF8')), 'hex');
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
    perform 1 from pam.threads t where t.org_id = start_run.org_id and t.id = thread for update;
    if not found then
      perform pam_private.record(start_run.org_id, me, 'run.start', false, jsonb_build_object('thread_id', thread));
      return pam_private.refusal('not_found', 'There is no such thread in this organisation.');
    end if;
    if exists (select from pam.runs r where r.org_id = start_run.org_id and r.thread_id = thread
                and r.status in ('queued', 'running', 'interrupted')) then
      return pam_private.refusal('busy', 'A run of this thread is not finished: wait for it, answer it or cancel it.');
    end if;
  end if;
  insert into pam.runs as r (org_id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens, max_cost_usd,
                             deadline_at, idempotency_key, request_sha256)
  values (start_run.org_id, thread, chosen.agent_id, chosen.version, me,
          (wanted -> 'max_steps')::int, (wanted -> 'max_tokens')::int, (wanted -> 'max_cost_usd')::numeric,
          now() + make_interval(secs => (wanted -> 'max_seconds')::int), start_run.idempotency_key, digest)
  returning * into run;
  insert into pam_private.run_claims (run_id, claims) values (run.id, coalesce(auth.jwt(), '{}'));
  insert into pam.messages (org_id, thread_id, run_id, role, content)
  values (run.org_id, run.thread_id, run.id, 'user', start_run.message);
  perform pam_private.record(run.org_id, me, 'run.start', true, jsonb_build_object('run_id', run.id, 'agent', start_run.agent, 'version', chosen.version));
  return jsonb_build_object('run_id', run.id, 'thread_id', run.thread_id, 'status', run.status, 'is_replay', false);
end $$;
comment on function pam.start_run is 'Ask an agent: {"run_id", "thread_id", "status", "is_replay"}. Limits not given come from the card, else 30 steps, 400,000 tokens, $0.50, 15 minutes.';

create function pam.create_thread(org_id uuid, title text default '') returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(create_thread.org_id, auth.uid());
  thread uuid;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'developer' then
    perform pam_private.record(create_thread.org_id, me, 'thread.create', false);
    return pam_private.refusal('forbidden', 'Viewers read threads; a developer, admin or owner makes them.');
  end if;
  if char_length(coalesce(create_thread.title, '')) > 200 then
    return pam_private.refusal('invalid', 'A title has at most 200 characters.');
  end if;
  insert into pam.threads as t (org_id, title, created_by) values (create_thread.org_id, btrim(coalesce(create_thread.title, '')), me)
  returning t.id into thread;
  perform pam_private.record(create_thread.org_id, me, 'thread.create', true, jsonb_build_object('thread_id', thread));
  return jsonb_build_object('thread_id', thread);
end $$;
comment on function pam.create_thread is 'Open an empty conversation: {"thread_id"}.';

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.threads, pam.runs, pam.messages from public, anon, authenticated, service_role;
grant select on pam.threads, pam.runs, pam.messages to authenticated;
grant execute on function pam.start_run(uuid, text, text, uuid, jsonb, text), pam.create_thread(uuid, text) to authenticated;
