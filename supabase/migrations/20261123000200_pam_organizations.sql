-- Organisations, their members and roles, and the audit log that every verb writes from its first row on.

create type pam.member_role as enum ('viewer', 'developer', 'admin', 'owner');
comment on type pam.member_role is 'In rising order: a viewer watches, a developer starts runs, an admin imports agents and manages members, an owner may do all.';

create table pam.organizations (
  id uuid primary key default gen_random_uuid(),
  name text not null check (char_length(btrim(name)) between 1 and 120),
  created_by uuid not null,
  created_at timestamptz not null default now()
);
comment on table pam.organizations is 'A tenant. Everything else belongs to one.';
create index organizations_created_by on pam.organizations (created_by);

create table pam.members (
  org_id uuid not null references pam.organizations on delete cascade,
  user_id uuid not null,
  role pam.member_role not null,
  created_at timestamptz not null default now(),
  primary key (org_id, user_id)
);
comment on table pam.members is 'Who belongs to an organisation, and as what. Asked again at every verb of a run.';
create index members_user on pam.members (user_id, org_id);

create table pam.audit (
  id bigint generated always as identity primary key,
  org_id uuid references pam.organizations,
  actor_id uuid,
  action text not null,
  is_allowed boolean not null,
  subject jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp()
);
comment on table pam.audit is 'Append-only: who did, or was refused, what. Ids, names and hashes, never contents.';
create index audit_org on pam.audit (org_id, id);

-- An array from a stable definer function is evaluated once per statement and can use an index:
-- at a million rows 0.3 ms, where `in (select …)` takes 100 ms and `is_member(org_id)` 10 s.
create function pam_private.my_org_ids(lowest pam.member_role default 'viewer') returns uuid[]
language sql stable security definer set search_path = '' as
$$ select coalesce(array_agg(m.org_id), '{}') from pam.members m
   where m.user_id = (select auth.uid()) and m.role >= lowest $$;
comment on function pam_private.my_org_ids is 'The caller''s organisations in which the caller has at least this role.';

create function pam_private.role_in(org uuid, person uuid) returns pam.member_role
language sql stable security definer set search_path = '' as
$$ select m.role from pam.members m where m.org_id = org and m.user_id = person $$;
comment on function pam_private.role_in is 'A person''s role in an organisation, or null.';

create function pam_private.record(org uuid, actor uuid, act text, allowed boolean, about jsonb default '{}') returns void
language sql security definer set search_path = '' as
$$ insert into pam.audit (org_id, actor_id, action, is_allowed, subject) values (org, actor, act, allowed, about) $$;
comment on function pam_private.record is 'Write one audit row, in the transaction of the fact.';

create function pam_private.audit_stands() returns trigger
language plpgsql set search_path = '' as
$$ begin raise exception 'the audit log is append-only' using errcode = '42501'; end $$;
comment on function pam_private.audit_stands is 'Refuses every change of the audit log, to its owner too.';

alter table pam.organizations enable row level security;
alter table pam.organizations force row level security;
alter table pam.members enable row level security;
alter table pam.members force row level security;
alter table pam.audit enable row level security;
alter table pam.audit force row level security;

create policy "People see the organisations they belong to"
on pam.organizations for select to authenticated
using ( id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "People see who belongs to their organisations"
on pam.members for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "Admins read their organisation's audit log"
on pam.audit for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids('admin'))::uuid[]) );

create function pam.create_organization(name text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  org uuid;
begin
  if me is null then return pam_private.refusal('signed_out', 'Sign in first.'); end if;
  if char_length(btrim(coalesce(create_organization.name, ''))) not between 1 and 120 then
    return pam_private.refusal('invalid', 'An organisation needs a name of 1 to 120 characters.');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('pam organizations of ' || me::text, 0));
  if (select count(*) from pam.organizations o where o.created_by = me) >= 20 then
    perform pam_private.record(null, me, 'organization.create', false);
    return pam_private.refusal('limit', 'One person may create 20 organisations.');
  end if;
  insert into pam.organizations as o (name, created_by) values (btrim(create_organization.name), me) returning o.id into org;
  insert into pam.members (org_id, user_id, role) values (org, me, 'owner');
  perform pam_private.record(org, me, 'organization.create', true);
  return jsonb_build_object('org_id', org);
end $$;
comment on function pam.create_organization is 'Make an organisation with the caller as its owner: {"org_id"}.';

create function pam.set_member(org_id uuid, user_id uuid, role pam.member_role) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(set_member.org_id, auth.uid());
  theirs pam.member_role;
  about jsonb := jsonb_build_object('user_id', set_member.user_id, 'role', set_member.role);
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  -- Roles as they are under the lock: who is being removed at this moment must not add themselves again.
  perform 1 from pam.organizations o where o.id = set_member.org_id for update;
  mine := pam_private.role_in(set_member.org_id, me);
  theirs := pam_private.role_in(set_member.org_id, set_member.user_id);
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'admin' or set_member.role > mine or coalesce(theirs, 'viewer') > mine then
    perform pam_private.record(set_member.org_id, me, 'member.set', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner may set a member''s role, and none above their own.');
  end if;
  if set_member.user_id is null or set_member.role is null then
    return pam_private.refusal('invalid', 'Say whose role to set, and which: user_id or role is missing.');
  end if;
  if theirs = 'owner' and set_member.role < 'owner' and not exists (
    select from pam.members m where m.org_id = set_member.org_id and m.role = 'owner' and m.user_id <> set_member.user_id) then
    return pam_private.refusal('conflict', 'An organisation keeps at least one owner: name another first.');
  end if;
  insert into pam.members as m (org_id, user_id, role) values (set_member.org_id, set_member.user_id, set_member.role)
  on conflict on constraint members_pkey do update set role = excluded.role;
  perform pam_private.record(set_member.org_id, me, 'member.set', true, about);
  return jsonb_build_object('user_id', set_member.user_id, 'role', set_member.role);
end $$;
comment on function pam.set_member is 'Add a person to an organisation, or change their role. Admins and owners.';

create function pam.remove_member(org_id uuid, user_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(remove_member.org_id, auth.uid());
  theirs pam.member_role;
  about jsonb := jsonb_build_object('user_id', remove_member.user_id);
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  perform 1 from pam.organizations o where o.id = remove_member.org_id for update;
  mine := pam_private.role_in(remove_member.org_id, me);
  theirs := pam_private.role_in(remove_member.org_id, remove_member.user_id);
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if theirs is null then return pam_private.refusal('not_found', 'This person is not a member.'); end if;
  if me <> remove_member.user_id and (mine < 'admin' or theirs > mine) then
    perform pam_private.record(remove_member.org_id, me, 'member.remove', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner may remove another member, and none above their own role.');
  end if;
  if theirs = 'owner' and not exists (
    select from pam.members m where m.org_id = remove_member.org_id and m.role = 'owner' and m.user_id <> remove_member.user_id) then
    return pam_private.refusal('conflict', 'An organisation keeps at least one owner: name another first.');
  end if;
  delete from pam.members m where m.org_id = remove_member.org_id and m.user_id = remove_member.user_id;
  perform pam_private.record(remove_member.org_id, me, 'member.remove', true, about);
  return jsonb_build_object('removed', remove_member.user_id);
end $$;
comment on function pam.remove_member is 'Take a person out of an organisation; their runs stop at the next step. Anyone may remove themselves.';

create trigger "The audit log stands" before update or delete or truncate on pam.audit
for each statement execute function pam_private.audit_stands();

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.organizations, pam.members, pam.audit from public, anon, authenticated, service_role;
grant select on pam.organizations, pam.members, pam.audit to authenticated;
grant execute on function pam_private.my_org_ids(pam.member_role) to authenticated;
grant execute on function pam.create_organization(text), pam.set_member(uuid, uuid, pam.member_role), pam.remove_member(uuid, uuid) to authenticated;
