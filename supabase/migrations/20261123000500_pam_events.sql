-- The log of a run: gapless by seq, AG-UI 1.0 payloads, announced once a batch on the run's private topic.

create table pam.events (
  org_id uuid not null,
  run_id uuid not null,
  seq bigint not null,
  type text not null,
  payload jsonb not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (run_id, seq),
  foreign key (org_id, run_id) references pam.runs on delete cascade
);
comment on table pam.events is 'Append-only. seq runs 1, 2, 3 … without a gap within a run; payload is an AG-UI 1.0 event.';
create index events_of_run on pam.events (org_id, run_id, seq);

alter table pam.events enable row level security;
alter table pam.events force row level security;

create policy "People read the events of their organisations' runs"
on pam.events for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam_private.log_stands() returns trigger
language plpgsql set search_path = '' as
$$ begin raise exception 'the log of a run is append-only' using errcode = '42501'; end $$;
comment on function pam_private.log_stands is 'Refuses every change of an event, to its owner too; events only leave with their organisation.';
create trigger "The log stands" before update or truncate on pam.events
for each statement execute function pam_private.log_stands();

create function pam_private.may_watch(topic text) returns boolean
language plpgsql stable security definer set search_path = '' as
$$
begin
  if topic !~ '^run:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then return false; end if;
  return exists (select from pam.runs r where r.id = substr(topic, 5)::uuid
                  and r.org_id = any (pam_private.my_org_ids()));
end $$;
comment on function pam_private.may_watch is 'Whether the caller may join this topic. An odd topic is refused without a cast error.';

create policy "pam: people watch the runs of their organisations"
on realtime.messages for select to authenticated
using ( extension = 'broadcast' and (select pam_private.may_watch((select realtime.topic()))) );

-- Everyone who writes events has locked the run's head: its counter makes seq gapless.
create function pam_private.append(run pam.runs, batch jsonb) returns bigint
language plpgsql security definer set search_path = '' as
$$
declare
  size int := coalesce(jsonb_array_length(batch), 0);
  last bigint;
begin
  if size = 0 then return (select h.last_seq from pam_private.run_heads h where h.run_id = run.id); end if;
  update pam_private.run_heads h set last_seq = h.last_seq + size where h.run_id = run.id returning h.last_seq into last;
  insert into pam.events (org_id, run_id, seq, type, payload)
  select run.org_id, run.id, last - size + e.place, e.event ->> 'type', e.event
    from jsonb_array_elements(batch) with ordinality as e (event, place);
  perform realtime.send(
    jsonb_build_object('first', last - size + 1, 'last', last,
                       'events', case when octet_length(batch::text) <= 60000 then batch end),
    'events', 'run:' || run.id, true);
  return last;
end $$;
comment on function pam_private.append is 'Append a batch of AG-UI events to a run and announce it once; a batch over 60 kB is announced without its events and read back by seq.';

create function pam_private.now_ms() returns bigint
language sql volatile set search_path = '' as $$ select (extract(epoch from clock_timestamp()) * 1000)::bigint $$;
comment on function pam_private.now_ms is 'An event''s timestamp: milliseconds since 1970.';

create function pam_private.started_event(run pam.runs) returns jsonb
language sql volatile set search_path = '' as
$$ select jsonb_build_object('type', 'RUN_STARTED', 'threadId', run.thread_id, 'runId', run.id, 'timestamp', pam_private.now_ms()) $$;
comment on function pam_private.started_event is 'The event that opens a run''s log, and opens it again after an interruption.';

-- The end of a run that the database itself decides: cancelled unclaimed, out of attempts, past its deadline.
create function pam_private.end_run(run pam.runs, outcome pam.run_status, why text, sentence text) returns void
language plpgsql security definer set search_path = '' as
$$
declare
  started boolean := exists (
    select from pam.events e where e.run_id = run.id and e.type = 'RUN_STARTED'
     and not exists (select from pam.events f where f.run_id = run.id and f.seq > e.seq and f.type in ('RUN_FINISHED', 'RUN_ERROR')));
begin
  -- A call whose end nobody saw is unknown; one that never began, or was never answered, is refused.
  update pam.tool_calls c set ended_at = clock_timestamp(),
         status = case when c.status in ('planned', 'waiting') then 'refused' else 'unknown' end::pam.call_status
   where c.org_id = run.org_id and c.run_id = run.id and c.status in ('planned', 'started', 'waiting', 'answered');
  update pam.runs r set status = outcome, reason = why, ended_at = clock_timestamp() where r.id = run.id;
  update pam_private.run_heads h set fence = h.fence + 1, lease_until = null where h.run_id = run.id;
  perform pam_private.append(run,
    case when started then '[]'::jsonb else jsonb_build_array(pam_private.started_event(run)) end
    || jsonb_build_array(case outcome
         when 'cancelled' then jsonb_build_object('type', 'RUN_FINISHED', 'threadId', run.thread_id, 'runId', run.id,
                                                  'outcome', '{"type": "cancelled"}'::jsonb, 'timestamp', pam_private.now_ms())
         else jsonb_build_object('type', 'RUN_ERROR', 'message', sentence, 'code', why, 'timestamp', pam_private.now_ms()) end));
  perform pam_private.record(run.org_id, run.user_id, 'run.' || outcome, true, jsonb_build_object('run_id', run.id, 'reason', why));
end $$;
comment on function pam_private.end_run is 'End a run without its worker; the fence rises, so a worker that still runs is refused.';

create function pam.cancel_run(run_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  run pam.runs;
  leased boolean;
begin
  select h.lease_until > clock_timestamp() into leased from pam_private.run_heads h where h.run_id = cancel_run.run_id for update;
  select * into run from pam.runs r where r.id = cancel_run.run_id;
  if not found or pam_private.role_in(run.org_id, me) is null then
    return pam_private.refusal('not_found', 'There is no such run.');
  end if;
  if run.user_id <> me and pam_private.role_in(run.org_id, me) < 'admin' then
    perform pam_private.record(run.org_id, me, 'run.cancel', false, jsonb_build_object('run_id', run.id));
    return pam_private.refusal('forbidden', 'Only the person who started a run, an admin or an owner may cancel it.');
  end if;
  if run.status in ('succeeded', 'failed', 'cancelled') then
    return pam_private.refusal('conflict', format('The run has ended already: it %s.', case run.status when 'cancelled' then 'was cancelled' else run.status::text end));
  end if;
  if run.cancel_requested_at is not null and run.status = 'running' and leased then
    return pam_private.refusal('conflict', 'Cancelling was asked for already; the run stops at its next step.');
  end if;
  update pam.runs r set cancel_requested_at = clock_timestamp() where r.id = run.id;
  perform pam_private.record(run.org_id, me, 'run.cancel', true, jsonb_build_object('run_id', run.id));
  if run.status = 'running' and leased then
    return jsonb_build_object('run_id', run.id, 'status', 'running', 'message', 'The run stops at its next step.');
  end if;
  perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
  return jsonb_build_object('run_id', run.id, 'status', 'cancelled', 'message', 'The run was cancelled.');
end $$;
comment on function pam.cancel_run is 'Stop a run: at once when no worker holds it, else at its next step. Its asker, admins and owners.';

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.events from public, anon, authenticated, service_role;
grant select on pam.events to authenticated;
grant execute on function pam.cancel_run(uuid) to authenticated;
grant execute on function pam_private.may_watch(text) to authenticated;
