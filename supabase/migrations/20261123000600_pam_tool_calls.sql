-- The ledger: one row a model call, one row a tool call, intent before effect.

create type pam.call_effect as enum ('read', 'write', 'external', 'irreversible', 'pause');
comment on type pam.call_effect is 'What a tool does to the world; pause only waits for a person.';
create type pam.call_status as enum ('planned', 'started', 'succeeded', 'failed', 'refused', 'unknown', 'waiting', 'answered');
comment on type pam.call_status is 'started is the recorded intent; unknown is an effect whose outcome nobody saw; waiting and answered belong to a question.';

create table pam.steps (
  org_id uuid not null,
  run_id uuid not null,
  position int not null,
  model text not null,
  input_sha256 text not null,
  finish text not null,
  input_tokens bigint not null,
  cached_input_tokens bigint not null default 0,
  output_tokens bigint not null,
  is_estimated boolean not null default false,
  cost_usd numeric(12, 6) not null,
  seconds numeric(10, 3) not null,
  attempt int not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (org_id, run_id, position),
  foreign key (org_id, run_id) references pam.runs on delete cascade
);
comment on table pam.steps is 'One model call of a run: what it cost and how long it took. Its words are in messages, its calls in tool_calls.';

create table pam.tool_calls (
  org_id uuid not null,
  id uuid not null default gen_random_uuid(),
  run_id uuid not null,
  step int not null,
  place int not null,
  call_id text not null,
  tool text not null,
  arguments jsonb not null,
  effect pam.call_effect not null,
  status pam.call_status not null default 'planned',
  result text,
  started_at timestamptz,
  ended_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  primary key (org_id, id),
  unique (run_id, step, place),
  foreign key (org_id, run_id, step) references pam.steps on delete cascade
);
comment on table pam.tool_calls is 'The ledger of effects. id is the idempotency key that a tool passes on.';
comment on column pam.tool_calls.arguments is 'As the model gave them; {"malformed": text} when they were no JSON object.';
create index tool_calls_of_step on pam.tool_calls (org_id, run_id, step, place);

alter table pam.steps enable row level security;
alter table pam.steps force row level security;
alter table pam.tool_calls enable row level security;
alter table pam.tool_calls force row level security;

create policy "People read the steps of their organisations' runs"
on pam.steps for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "People read the tool calls of their organisations' runs"
on pam.tool_calls for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam.answer_question(run_id uuid, answer text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  run pam.runs;
begin
  perform 1 from pam_private.run_heads h where h.run_id = answer_question.run_id for update;
  select * into run from pam.runs r where r.id = answer_question.run_id;
  if not found or pam_private.role_in(run.org_id, me) is null then
    return pam_private.refusal('not_found', 'There is no such run.');
  end if;
  -- The run goes on with its asker's rights, so that whoever answers steers what those rights are used for.
  if pam_private.role_in(run.org_id, me) < (case when run.user_id = me then 'developer' else 'admin' end)::pam.member_role then
    perform pam_private.record(run.org_id, me, 'run.answer', false, jsonb_build_object('run_id', run.id));
    return pam_private.refusal('forbidden', 'The person who started the run answers it, or an admin or owner.');
  end if;
  if run.status <> 'interrupted' then
    return pam_private.refusal('conflict', format('The run asks nothing: it is %s.', run.status));
  end if;
  if coalesce(answer_question.answer, '') !~ '\S' or char_length(btrim(answer_question.answer)) > 20000 then
    return pam_private.refusal('invalid', 'An answer has 1 to 20,000 characters.');
  end if;
  update pam.tool_calls c set status = 'answered', result = btrim(answer_question.answer)
   where c.org_id = run.org_id and c.run_id = run.id and c.status = 'waiting';
  -- The clock of a run stands still while it waits for a person.
  update pam.runs r set status = 'queued', turn = r.turn + 1, attempt = 0, interrupted_at = null,
                        deadline_at = r.deadline_at + (now() - r.interrupted_at) where r.id = run.id;
  update pam_private.run_heads h set rung_at = clock_timestamp() where h.run_id = run.id;
  if run.user_id = me then  -- what their token says by now
    update pam_private.run_claims c set claims = coalesce(auth.jwt(), '{}') where c.run_id = run.id;
  end if;
  perform pam_private.record(run.org_id, me, 'run.answer', true, jsonb_build_object('run_id', run.id, 'asker', run.user_id));
  return jsonb_build_object('run_id', run.id, 'status', 'queued');
end $$;
comment on function pam.answer_question is 'Answer the question that an interrupted run asked; the run goes on.';

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.steps, pam.tool_calls from public, anon, authenticated, service_role;
grant select on pam.steps, pam.tool_calls to authenticated;
grant execute on function pam.answer_question(uuid, text) to authenticated;
