-- Who may use which tool, when a person is asked first, and what a run has read that nobody vouches for.

create type pam.consent as enum ('never', 'ask', 'four_eyes');
comment on type pam.consent is 'In rising order: run at once, ask a person who may decide, ask one who is not the asker.';

create table pam.tool_policies (
  org_id uuid not null references pam.organizations on delete cascade,
  role pam.member_role not null,
  tool text not null check (tool ~ '^([a-z][a-z0-9_]{0,62}|\*)$'),
  effect pam.call_effect not null,
  is_allowed boolean not null,
  consent pam.consent not null,
  consent_after_untrusted pam.consent not null,
  decided_by pam.member_role not null check (decided_by >= 'developer'),
  set_by uuid not null,
  set_at timestamptz not null default now(),
  primary key (org_id, role, tool, effect)
);
comment on table pam.tool_policies is 'What an organisation decided about a tool (or * for every tool) with an effect, for runs that a member of this role asked for. Without a row PAM''s default holds.';
comment on column pam.tool_policies.consent_after_untrusted is 'What holds besides consent once the run has read what nobody vouches for: the stricter of the two counts.';
comment on column pam.tool_policies.decided_by is 'The lowest role that may decide: the asker if they have it, else an admin or owner who has it.';

alter table pam.tool_policies enable row level security;
alter table pam.tool_policies force row level security;

create policy "People see the tool policies of their organisations"
on pam.tool_policies for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam_private.policy_of(org uuid, role pam.member_role, tool text, effect pam.call_effect) returns pam.tool_policies
language plpgsql stable security definer set search_path = '' as
$$
declare
  policy pam.tool_policies;
begin
  select p.* into policy from pam.tool_policies p
   where p.org_id = org and p.role = policy_of.role and p.effect = policy_of.effect and p.tool in (policy_of.tool, '*')
   order by p.tool = '*' limit 1;
  if found then return policy; end if;
  policy.org_id := org;
  policy.role := policy_of.role;
  policy.tool := policy_of.tool;
  policy.effect := policy_of.effect;
  policy.is_allowed := coalesce(policy_of.role >= 'developer', false);
  policy.consent := case when policy_of.effect = 'irreversible' or (policy_of.effect = 'write' and policy_of.tool = 'database_query')
                         then 'ask' else 'never' end;
  policy.consent_after_untrusted := case when policy_of.effect in ('external', 'irreversible') then 'ask' else 'never' end;
  policy.decided_by := case when policy_of.effect = 'irreversible' then 'admin' else 'developer' end;
  return policy;
end $$;
comment on function pam_private.policy_of is 'What holds for a tool with an effect: the organisation''s row for it, its row for every tool, else the default.';

create function pam.read_policy(org_id uuid, role pam.member_role, tool text, effect pam.call_effect) returns jsonb
language plpgsql stable security definer set search_path = '' as
$$
begin
  if pam_private.role_in(read_policy.org_id, auth.uid()) is null then
    return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.');
  end if;
  return to_jsonb(pam_private.policy_of(read_policy.org_id, read_policy.role, read_policy.tool, read_policy.effect)) - 'org_id'
      || jsonb_build_object('is_default', not exists (
           select from pam.tool_policies p where p.org_id = read_policy.org_id and p.role = read_policy.role
              and p.effect = read_policy.effect and p.tool in (read_policy.tool, '*')));
end $$;
comment on function pam.read_policy is 'What holds for a tool with an effect when a member of this role asks: the organisation''s own word, or PAM''s default.';

create function pam.set_policy(
  org_id uuid, role pam.member_role, tool text, effect pam.call_effect, is_allowed boolean default true,
  consent pam.consent default 'never', consent_after_untrusted pam.consent default 'ask',
  decided_by pam.member_role default 'admin') returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(set_policy.org_id, auth.uid());
  about jsonb := jsonb_build_object('role', set_policy.role, 'tool', left(set_policy.tool, 63), 'effect', set_policy.effect,
    'is_allowed', set_policy.is_allowed, 'consent', set_policy.consent,
    'consent_after_untrusted', set_policy.consent_after_untrusted, 'decided_by', set_policy.decided_by);
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'admin' or set_policy.role > mine then
    perform pam_private.record(set_policy.org_id, me, 'policy.set', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner sets a tool''s policy, and none for a role above their own.');
  end if;
  if set_policy.role is null or set_policy.effect is null or set_policy.is_allowed is null or set_policy.consent is null
     or set_policy.consent_after_untrusted is null or coalesce(set_policy.decided_by, 'viewer') < 'developer'
     or coalesce(set_policy.tool, '') !~ '^([a-z][a-z0-9_]{0,62}|\*)$' then
    return pam_private.refusal('invalid', 'A policy names a role, a tool (or * for every tool), an effect, and as decided_by developer, admin or owner.');
  end if;
  if set_policy.effect = 'pause' then
    return pam_private.refusal('invalid', 'Asking a person needs no policy: it has no effect of its own.');
  end if;
  insert into pam.tool_policies as p (org_id, role, tool, effect, is_allowed, consent, consent_after_untrusted, decided_by, set_by)
  values (set_policy.org_id, set_policy.role, set_policy.tool, set_policy.effect, set_policy.is_allowed, set_policy.consent,
          set_policy.consent_after_untrusted, set_policy.decided_by, me)
  on conflict on constraint tool_policies_pkey do update
     set is_allowed = excluded.is_allowed, consent = excluded.consent, consent_after_untrusted = excluded.consent_after_untrusted,
         decided_by = excluded.decided_by, set_by = excluded.set_by, set_at = now();
  perform pam_private.record(set_policy.org_id, me, 'policy.set', true, about);
  return about;
end $$;
comment on function pam.set_policy is 'Say what holds for a tool with an effect when a member of this role asks. Admins and owners.';

create function pam.reset_policy(org_id uuid, role pam.member_role, tool text, effect pam.call_effect) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(reset_policy.org_id, auth.uid());
  about jsonb := jsonb_build_object('role', reset_policy.role, 'tool', left(reset_policy.tool, 63), 'effect', reset_policy.effect);
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'admin' or reset_policy.role > mine then
    perform pam_private.record(reset_policy.org_id, me, 'policy.reset', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner sets a tool''s policy, and none for a role above their own.');
  end if;
  delete from pam.tool_policies p where p.org_id = reset_policy.org_id and p.role = reset_policy.role
     and p.tool = reset_policy.tool and p.effect = reset_policy.effect;
  perform pam_private.record(reset_policy.org_id, me, 'policy.reset', true, about);
  return about;
end $$;
comment on function pam.reset_policy is 'Take back what set_policy said: PAM''s default holds again. Admins and owners.';

-- What a run has read that nobody vouches for: from then on what leaves the house needs a person's word.
alter table pam.runs add column tainted_at timestamptz, add column taint text;
comment on column pam.runs.tainted_at is 'When the run first read what nobody vouches for: a page, a file, a row, a log, a program''s output.';
comment on column pam.runs.taint is 'Where that came from.';

create function pam_private.inherit_taint() returns trigger
language plpgsql security definer set search_path = '' as
$$
begin
  select r.tainted_at, r.taint into new.tainted_at, new.taint from pam.runs r
   where r.org_id = new.org_id and r.thread_id = new.thread_id and r.tainted_at is not null
   order by r.tainted_at limit 1;
  return new;
end $$;
comment on function pam_private.inherit_taint is 'A run hears what was said in its thread before, so it has read what those runs have read.';
create trigger "A run inherits what its thread has read" before insert on pam.runs
for each row when (new.tainted_at is null) execute function pam_private.inherit_taint();

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.tool_policies from public, anon, authenticated, service_role;
grant select on pam.tool_policies to authenticated;
grant execute on function pam.read_policy(uuid, pam.member_role, text, pam.call_effect),
  pam.set_policy(uuid, pam.member_role, text, pam.call_effect, boolean, pam.consent, pam.consent, pam.member_role),
  pam.reset_policy(uuid, pam.member_role, text, pam.call_effect) to authenticated;
