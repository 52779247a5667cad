-- Approvals and questions: what waits for a person, who may decide it, until when, and what they said.

create type pam.approval_kind as enum ('approval', 'question');
comment on type pam.approval_kind is 'An approval lets a call run; a question''s answer is the call''s result.';
create type pam.approval_status as enum ('pending', 'approved', 'rejected', 'answered', 'expired', 'withdrawn');
comment on type pam.approval_status is 'withdrawn: the run ended before anybody decided.';

create table pam.approvals (
  org_id uuid not null,
  id uuid not null,
  run_id uuid not null,
  kind pam.approval_kind not null,
  status pam.approval_status not null default 'pending',
  asker_id uuid not null,
  tool text not null,
  effect pam.call_effect not null,
  arguments jsonb not null,
  arguments_sha256 text not null,
  why text not null,
  shown text check (char_length(shown) <= 100000),
  facts jsonb not null default '{}' check (octet_length(facts::text) <= 65536),
  needs_role pam.member_role not null,
  is_four_eyes boolean not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  remind_at timestamptz,
  reminders int not null default 0,
  decided_by uuid,
  decided_at timestamptz,
  decided_through text check (decided_through in ('session', 'link')),
  edited_arguments jsonb check (jsonb_typeof(edited_arguments) = 'object'),
  note text check (char_length(note) <= 20000),
  primary key (org_id, id),
  foreign key (org_id, id) references pam.tool_calls on delete cascade,
  foreign key (org_id, run_id) references pam.runs on delete cascade
);
comment on table pam.approvals is 'One row a call that waits, or waited, for a person. Its id is the call''s.';
comment on column pam.approvals.arguments_sha256 is 'What was decided on: the digest of the arguments as asked, or as the decider edited them.';
comment on column pam.approvals.shown is 'What the tool showed of the effect before anybody decided: rows, a diff, locks.';
comment on column pam.approvals.facts is 'What the call is held to when it runs: it refuses when they no longer hold.';
create index approvals_newest on pam.approvals (org_id, created_at desc, id desc);
create index approvals_of_run on pam.approvals (org_id, run_id);
create index approvals_pending on pam.approvals (least(remind_at, expires_at)) where status = 'pending';

create table pam_private.decision_links (
  token_id uuid primary key,
  org_id uuid not null,
  approval_id uuid not null,
  user_id uuid not null,
  expires_at timestamptz not null,
  used_at timestamptz,
  foreign key (org_id, approval_id) references pam.approvals on delete cascade
);
comment on table pam_private.decision_links is 'Signed links that decide one approval for one person, once.';
create index decision_links_of_approval on pam_private.decision_links (org_id, approval_id);

alter table pam.approvals enable row level security;
alter table pam.approvals force row level security;
alter table pam_private.decision_links enable row level security;
alter table pam_private.decision_links force row level security;

create policy "People read the approvals of their organisations"
on pam.approvals for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

insert into pam_private.settings (name, value)
values ('link_secret', encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex'))
on conflict do nothing;
comment on table pam_private.settings is 'webhook_url and webhook_secret: where a queued run is announced, and the key that signs it. logins_made_at: when the logins got their passwords. link_secret: the key that signs decision links.';

create function pam_private.arguments_digest(arguments jsonb) returns text
language sql immutable set search_path = '' as
$$ select encode(sha256(convert_to(arguments::text, 'UTF8')), 'hex') $$;
comment on function pam_private.arguments_digest is 'What an approval is bound to.';

-- The run goes on with its asker's rights, so that whoever decides steers what those rights are used for.
create function pam_private.decision_fault(asked pam.approvals, person uuid) returns jsonb
language plpgsql stable security definer set search_path = '' as
$$
declare
  role pam.member_role := pam_private.role_in(asked.org_id, person);
begin
  if role is null then return pam_private.refusal('not_found', 'There is nothing to decide under this id.'); end if;
  if role < (case when person = asked.asker_id then 'developer' else 'admin' end)::pam.member_role then
    return pam_private.refusal('forbidden', case asked.kind
      when 'question' then 'The person who started the run answers it, or an admin or owner.'
      else 'The person who started the run decides, or an admin or owner.' end);
  end if;
  if role < asked.needs_role then
    return pam_private.refusal('forbidden', format('This needs the word of one who is %s or above.', asked.needs_role));
  end if;
  if asked.is_four_eyes and person = asked.asker_id then
    return pam_private.refusal('forbidden', 'Four eyes: somebody other than the person who asked must decide.');
  end if;
  return null;
end $$;
comment on function pam_private.decision_fault is 'Why a person may not decide an approval, as a refusal, or null.';

-- One decision, its run's head locked. Answers what the approval is now, or a refusal.
create function pam_private.decide(asked pam.approvals, person uuid, through text, verdict text, edited jsonb, words text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  fault jsonb := pam_private.decision_fault(asked, person);
  outcome pam.approval_status;
  about jsonb := jsonb_build_object('run_id', asked.run_id, 'call', asked.id, 'kind', asked.kind, 'tool', asked.tool, 'asker', asked.asker_id);
begin
  if fault is not null then
    if pam_private.role_in(asked.org_id, person) is not null then
      perform pam_private.record(asked.org_id, person, 'approval.decide', false, about);
    end if;
    return fault;
  end if;
  if asked.status <> 'pending' then
    return pam_private.refusal('conflict', case asked.status
      when 'expired' then 'Too late: nobody decided in time, and the run was told so.'
      when 'withdrawn' then 'Too late: the run has ended.'
      else format('This was decided already: it was %s.', asked.status) end);
  end if;
  if asked.expires_at <= clock_timestamp() then
    return pam_private.refusal('conflict', 'Too late: the time to decide is over.');
  end if;
  if verdict is null or verdict <> all (case asked.kind when 'question' then array['answer'] else array['approve', 'reject'] end) then
    return pam_private.refusal('invalid', case asked.kind when 'question' then 'A question is answered: verdict is answer.' else 'The verdict is approve or reject.' end);
  end if;
  words := nullif(btrim(words), '');
  if char_length(words) > 20000 or (verdict = 'answer' and coalesce(words, '') !~ '\S') then
    return pam_private.refusal('invalid', case verdict when 'answer' then 'An answer has 1 to 20,000 characters.' else 'A note has at most 20,000 characters.' end);
  end if;
  if edited is not null and (verdict <> 'approve' or jsonb_typeof(edited) <> 'object' or octet_length(edited::text) > 2500000) then
    return pam_private.refusal('invalid', 'Edited arguments are a JSON object, and come with an approval.');
  end if;
  outcome := case verdict when 'approve' then 'approved' when 'reject' then 'rejected' else 'answered' end;
  update pam.approvals a set status = outcome, decided_by = person, decided_at = clock_timestamp(), decided_through = through,
         edited_arguments = nullif(edited, a.arguments), note = words,
         arguments_sha256 = pam_private.arguments_digest(coalesce(edited, a.arguments)), remind_at = null
   where a.org_id = asked.org_id and a.id = asked.id;
  update pam.tool_calls c set status = 'answered', result = case verdict when 'answer' then words end
   where c.org_id = asked.org_id and c.id = asked.id and c.status = 'waiting';
  perform pam_private.record(asked.org_id, person, 'approval.decide', true, about || jsonb_build_object('verdict', verdict,
    'through', through, 'is_edited', edited is not null and edited <> asked.arguments, 'arguments_sha256', pam_private.arguments_digest(coalesce(edited, asked.arguments))));
  return jsonb_build_object('approval_id', asked.id, 'run_id', asked.run_id, 'status', outcome);
end $$;
comment on function pam_private.decide is 'Carry out one decision on an approval; the caller holds the run''s head.';

create function pam_private.go_on(run_id uuid) returns pam.run_status
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs;
begin
  select * into run from pam.runs r where r.id = go_on.run_id;
  if run.status <> 'interrupted' or exists (
    select from pam.approvals a where a.org_id = run.org_id and a.run_id = run.id and a.status = 'pending') then
    return run.status;
  end if;
  -- The clock of a run stands still while it waits for a person.
  update pam.runs r set status = 'queued', turn = r.turn + 1, attempt = 0, interrupted_at = null,
                        deadline_at = r.deadline_at + (now() - r.interrupted_at) where r.id = run.id;
  update pam_private.run_heads h set rung_at = clock_timestamp() where h.run_id = run.id;
  if run.user_id = auth.uid() then  -- what their token says by now
    update pam_private.run_claims c set claims = coalesce(auth.jwt(), '{}') where c.run_id = run.id;
  end if;
  return 'queued';
end $$;
comment on function pam_private.go_on is 'Queue an interrupted run when nothing waits for a person any more; the caller holds its head.';

create function pam.decide(decisions jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  wanted record;
  asked pam.approvals;
  told jsonb;
  results jsonb := '[]';
  touched uuid[] := '{}';
  run uuid;
  states jsonb := '[]';
  uuid_form constant text := '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$';
begin
  if me is null then return pam_private.refusal('signed_out', 'Sign in first.'); end if;
  if coalesce(jsonb_typeof(decisions), '') <> 'array' or jsonb_array_length(decisions) not between 1 and 200
     or decisions @? '$[*] ? (@.type() != "object")' then
    return pam_private.refusal('invalid', 'decisions is a list of 1 to 200 objects: {"approval_id", "verdict": approve, reject or answer, "note", "arguments"}.');
  end if;
  -- Every head in one order, so that two batches never wait for each other.
  perform 1 from pam_private.run_heads h where h.run_id in (
    select a.run_id from pam.approvals a
     where a.org_id = any (pam_private.my_org_ids()) and a.id::text in (select lower(d.entry ->> 'approval_id') from jsonb_array_elements(decisions) as d (entry)))
   order by h.run_id for update;
  for wanted in select d.entry, d.place from jsonb_array_elements(decisions) with ordinality as d (entry, place) order by d.place loop
    told := null;
    if coalesce(wanted.entry ->> 'approval_id', '') ~ uuid_form then
      select a.* into asked from pam.approvals a where a.id = (wanted.entry ->> 'approval_id')::uuid and a.org_id = any (pam_private.my_org_ids());
      if found then
        told := pam_private.decide(asked, me, 'session', wanted.entry ->> 'verdict', nullif(wanted.entry -> 'arguments', 'null'), wanted.entry ->> 'note');
        if told ? 'status' then touched := touched || asked.run_id; end if;
      end if;
    end if;
    told := coalesce(told, pam_private.refusal('not_found', 'There is nothing to decide under this id.'));
    results := results || jsonb_build_array(jsonb_build_object('approval_id', wanted.entry -> 'approval_id') || told);
  end loop;
  for run in select distinct t.id from unnest(touched) as t (id) order by 1 loop
    states := states || jsonb_build_array(jsonb_build_object('run_id', run, 'status', pam_private.go_on(run)));
  end loop;
  return jsonb_build_object('results', results, 'runs', states);
end $$;
comment on function pam.decide is 'Decide what runs wait for, one or many at once: {"results": one for each, its status or a refusal, "runs": those touched and how they stand}.';

create or replace function pam.answer_question(run_id uuid, answer text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  run pam.runs;
  asked pam.approvals;
  told jsonb;
begin
  perform 1 from pam_private.run_heads h where h.run_id = answer_question.run_id for update;
  select * into run from pam.runs r where r.id = answer_question.run_id;
  if not found or pam_private.role_in(run.org_id, me) is null then
    return pam_private.refusal('not_found', 'There is no such run.');
  end if;
  select a.* into asked from pam.approvals a
   where a.org_id = run.org_id and a.run_id = run.id and a.kind = 'question' and a.status = 'pending'
   order by a.created_at, a.id limit 1;
  if not found then
    return pam_private.refusal('conflict', format('The run asks nothing: it is %s.', run.status));
  end if;
  told := pam_private.decide(asked, me, 'session', 'answer', null, answer_question.answer);
  if told ? 'refused' then return told; end if;
  return jsonb_build_object('run_id', run.id, 'status', pam_private.go_on(run.id));
end $$;
comment on function pam.answer_question is 'Answer the question that an interrupted run asked; when nothing else waits the run goes on.';

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.approvals, pam_private.decision_links from public, anon, authenticated, service_role;
grant select on pam.approvals to authenticated;
grant execute on function pam.decide(jsonb), pam.answer_question(uuid, text) to authenticated;
