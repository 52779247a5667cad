-- Live topics of an organisation, a thread and a person: who hears them, who may speak there, and how a run does.
-- A run's own topic carries its log alone: no policy lets anybody write there.

create table pam.sent_messages (
  org_id uuid not null references pam.organizations on delete cascade,
  call_id uuid not null,
  run_id uuid not null,
  topic text not null,
  event text not null,
  size_bytes int not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (org_id, call_id),
  foreign key (org_id, call_id) references pam.tool_calls on delete cascade,
  foreign key (org_id, run_id) references pam.runs on delete cascade
);
comment on table pam.sent_messages is 'What runs sent to live topics, one row a call: a repeated call finds its row and sends nothing. The payload is in the call.';
create index sent_messages_newest on pam.sent_messages (org_id, created_at desc);
create index sent_messages_of_run on pam.sent_messages (org_id, run_id);

alter table pam.sent_messages enable row level security;
alter table pam.sent_messages force row level security;

create policy "People read what their organisations' runs sent"
on pam.sent_messages for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

-- A topic is compared as text before any part of it becomes an id: an odd one is nobody's, without a cast error.
create function pam_private.is_topic(topic text) returns boolean
language sql immutable set search_path = '' as
$$ select coalesce(octet_length(topic) <= 64 and topic ~ '^(org|thread|user):[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$', false) $$;
comment on function pam_private.is_topic is 'Whether this is the name of an organisation''s, a thread''s or a person''s topic, in lower case and nothing more.';

create function pam_private.may_hear(topic text, person uuid) returns boolean
language plpgsql stable security definer set search_path = '' as
$$
declare
  about uuid;
begin
  if person is null or not pam_private.is_topic(topic) then return false; end if;
  about := split_part(topic, ':', 2)::uuid;
  return case split_part(topic, ':', 1)
    when 'org' then exists (select from pam.members m where m.org_id = about and m.user_id = person)
    when 'thread' then exists (select from pam.members m join pam.threads t on t.org_id = m.org_id
                                where m.user_id = person and t.id = about)
    else about = person end;
end $$;
comment on function pam_private.may_hear is 'Whether a person may join a topic: members their organisation''s and its threads'', everybody their own.';

create function pam_private.may_send(topic text, person uuid) returns boolean
language plpgsql stable security definer set search_path = '' as
$$
declare
  about uuid;
begin
  if person is null or not pam_private.is_topic(topic) then return false; end if;
  about := split_part(topic, ':', 2)::uuid;
  return case split_part(topic, ':', 1)
    when 'org' then exists (select from pam.members m
                             where m.org_id = about and m.user_id = person and m.role >= 'developer')
    when 'thread' then exists (select from pam.members m join pam.threads t on t.org_id = m.org_id
                                where m.user_id = person and m.role >= 'developer' and t.id = about)
    else about = person or exists (select from pam.members m join pam.members o on o.org_id = m.org_id
                                    where m.user_id = person and m.role >= 'developer' and o.user_id = about) end;
end $$;
comment on function pam_private.may_send is 'The one rule for sending, a browser''s and a run''s: developers and above to their organisation, its threads and its people; everybody to themselves. Never to a run''s topic.';

create function pam_private.is_topic_of(topic text, org uuid) returns boolean
language plpgsql stable security definer set search_path = '' as
$$
declare
  about uuid;
begin
  if not pam_private.is_topic(topic) then return false; end if;
  about := split_part(topic, ':', 2)::uuid;
  return case split_part(topic, ':', 1)
    when 'org' then about = org
    when 'thread' then exists (select from pam.threads t where t.org_id = org and t.id = about)
    else exists (select from pam.members m where m.org_id = org and m.user_id = about) end;
end $$;
comment on function pam_private.is_topic_of is 'Whether a topic lies within an organisation: a person of two must not carry words from one to the other.';

-- realtime.topic() is what Realtime asks about; the row''s own topic must be the same, so that a setting opens no other.
create policy "pam: people hear the topics of their organisations"
on realtime.messages for select to authenticated
using ( extension = 'broadcast' and topic = (select realtime.topic())
        and (select pam_private.may_hear((select realtime.topic()), (select auth.uid()))) );

create policy "pam: people send to the topics of their organisations"
on realtime.messages for insert to authenticated
with check ( extension = 'broadcast' and topic = (select realtime.topic())
             and (select pam_private.may_send((select realtime.topic()), (select auth.uid()))) );

create function pam_worker.send_message(run_id uuid, fence bigint, call uuid, topic text, event text, payload jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(send_message.run_id, send_message.fence);
  told text := case send_message.topic when 'org:mine' then 'org:' || run.org_id when 'thread:mine' then 'thread:' || run.thread_id
                                       when 'user:mine' then 'user:' || run.user_id else send_message.topic end;
  about jsonb := jsonb_build_object('run_id', run.id, 'call', send_message.call, 'topic', left(told, 64), 'event', left(send_message.event, 63));
  size int := octet_length(coalesce(send_message.payload, 'null')::text);
  refusal jsonb;
begin
  if not exists (select from pam.tool_calls c where c.org_id = run.org_id and c.run_id = run.id and c.id = send_message.call
                    and c.tool = 'websocket_send' and c.status = 'started') then
    raise exception 'call % of run % has no recorded intent to send', send_message.call, run.id using errcode = 'PM002';
  end if;
  if exists (select from pam.sent_messages s where s.org_id = run.org_id and s.call_id = send_message.call) then
    return jsonb_build_object('topic', told, 'size_bytes', size, 'is_replay', true);
  end if;
  if told ^@ 'run:' then
    refusal := pam_private.refusal('forbidden', 'A run''s own topic carries its log alone: send to org:, thread: or user:.');
  elsif not pam_private.is_topic(told) then
    refusal := pam_private.refusal('invalid', 'A topic is org:, thread: or user: and an id in lower case, and nothing more.');
  elsif not (pam_private.may_send(told, run.user_id) and pam_private.is_topic_of(told, run.org_id)) then
    refusal := pam_private.refusal('not_found', 'There is no such topic in this organisation, or the person you work for may not send there.');
  elsif coalesce(send_message.event, '') !~ '^[a-z][a-z0-9_.:-]{0,62}$' then
    refusal := pam_private.refusal('invalid', 'An event''s name is a small letter, then up to 62 small letters, digits, and _ . : or -.');
  elsif send_message.event in ('job', 'events', 'preview') or send_message.event ~ '^(pam|phx|system|presence|postgres_changes|broadcast)([_.:-]|$)' then
    refusal := pam_private.refusal('forbidden', 'This event''s name is PAM''s or Realtime''s own: take another.');
  elsif coalesce(jsonb_typeof(send_message.payload), '') <> 'object' then
    refusal := pam_private.refusal('invalid', 'A payload is a JSON object.');
  elsif size > 65536 then
    refusal := pam_private.refusal('too_large', format('A payload may have 64 KiB of JSON, not %s bytes: send where the rest can be read.', size));
  elsif send_message.payload @? 'strict $.**{17}' then
    refusal := pam_private.refusal('invalid', 'A payload may nest 16 levels deep.');
  end if;
  if refusal is null then
    -- One organisation's sends go one after another: the allowance is then counted without a race.
    perform pg_advisory_xact_lock(hashtextextended('pam messages of ' || run.org_id, 0));
    if (select count(*) from pam.sent_messages s
         where s.org_id = run.org_id and s.created_at > clock_timestamp() - interval '1 minute') >= 120 then
      refusal := pam_private.refusal('limit', 'Runs of this organisation sent 120 messages within a minute: put more into one message, or wait a minute.');
    end if;
  end if;
  if refusal is not null then
    perform pam_private.record(run.org_id, run.user_id, 'message.send', false, about);
    return refusal;
  end if;

  perform realtime.send(
    jsonb_build_object('id', send_message.call, 'event', send_message.event, 'payload', send_message.payload,
      'from', jsonb_build_object('run_id', run.id, 'user_id', run.user_id,
        'agent', (select a.name from pam.agents a where a.org_id = run.org_id and a.id = run.agent_id))),
    send_message.event, told, true);
  -- realtime.send turns its errors into warnings: what is not there was not sent.
  if not exists (select from realtime.messages m
                  where m.inserted_at >= localtimestamp - interval '1 minute' and m.topic = told
                    and m.extension = 'broadcast' and m.private and m.payload ->> 'id' = send_message.call::text) then
    return pam_private.refusal('unavailable', 'Realtime did not take the message: nothing was sent, try again later.');
  end if;
  insert into pam.sent_messages (org_id, call_id, run_id, topic, event, size_bytes)
  values (run.org_id, send_message.call, run.id, told, send_message.event, size);
  perform pam_private.record(run.org_id, run.user_id, 'message.send', true, about || jsonb_build_object('size_bytes', size));
  return jsonb_build_object('topic', told, 'size_bytes', size, 'is_replay', false);
end $$;
comment on function pam_worker.send_message is 'Send an event to a live topic of the run''s organisation, as the run''s person, once per call (org:mine, thread:mine and user:mine are the run''s own): {"topic", "size_bytes", "is_replay"}.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke all on pam.sent_messages from public, anon, authenticated, service_role;
grant select on pam.sent_messages to authenticated;
grant execute on function pam_private.may_hear(text, uuid), pam_private.may_send(text, uuid) to authenticated;
grant execute on function pam_worker.send_message(uuid, bigint, uuid, text, text, jsonb) to pam_worker;
