-- Agents and their versions: the card as it was imported, pinned by every run.

create table pam.agents (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  name text not null check (name ~ '^[A-Za-z][A-Za-z0-9_-]{0,62}$'),
  version int not null default 1,
  created_by uuid not null,
  created_at timestamptz not null default now(),
  primary key (org_id, id),
  unique (org_id, name)
);
comment on table pam.agents is 'An agent of an organisation; version is the one that new runs take.';

create table pam.agent_versions (
  org_id uuid not null,
  agent_id uuid not null,
  version int not null,
  definition jsonb not null check (jsonb_typeof(definition) = 'object'),
  source text not null check (octet_length(source) <= 65536),
  sha256 text not null,
  created_by uuid not null,
  created_at timestamptz not null default now(),
  primary key (org_id, agent_id, version),
  foreign key (org_id, agent_id) references pam.agents on delete cascade
);
comment on table pam.agent_versions is 'What an agent was told at a version: the parsed card and its source. Never changed.';

alter table pam.agents enable row level security;
alter table pam.agents force row level security;
alter table pam.agent_versions enable row level security;
alter table pam.agent_versions force row level security;

create policy "People see the agents of their organisations"
on pam.agents for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "People see what the agents of their organisations are told"
on pam.agent_versions for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam.import_agent(org_id uuid, name text, definition jsonb, source text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(import_agent.org_id, auth.uid());
  digest text := encode(sha256(convert_to(coalesce(import_agent.source, ''), 'UTF8')), 'hex');
  about jsonb;
  agent pam.agents;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  about := jsonb_build_object('name', left(import_agent.name, 63), 'sha256', digest);
  if mine < 'admin' then
    perform pam_private.record(import_agent.org_id, me, 'agent.import', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner may import an agent.');
  end if;
  if coalesce(import_agent.name, '') !~ '^[A-Za-z][A-Za-z0-9_-]{0,62}$' then
    return pam_private.refusal('invalid', 'An agent''s name is a letter, then up to 62 letters, digits, - or _.');
  end if;
  if coalesce(jsonb_typeof(import_agent.definition), '') <> 'object'
     or coalesce(jsonb_typeof(import_agent.definition -> 'tools'), '') <> 'array'
     or coalesce(jsonb_typeof(import_agent.definition -> 'instructions'), '') <> 'string'
     or import_agent.definition ->> 'instructions' = ''
     or jsonb_typeof(coalesce(import_agent.definition -> 'conduct_tools', '[]')) <> 'array'
     or import_agent.definition @? '$.tools[*] ? (@.type() != "string")'
     or import_agent.definition @? '$.conduct_tools[*] ? (@.type() != "string")'
     or coalesce(jsonb_typeof(import_agent.definition -> 'limits'), 'null') not in ('object', 'null')
     or octet_length(import_agent.definition::text) > 262144 then
    return pam_private.refusal('invalid', 'A definition is an object with instructions, a list of tools and perhaps limits, of at most 256 KiB.');
  end if;
  if octet_length(coalesce(import_agent.source, '')) not between 1 and 65536 then
    return pam_private.refusal('invalid', 'The card''s source must be between 1 byte and 64 KiB.');
  end if;
  insert into pam.agents as a (org_id, name, created_by, version)
  values (import_agent.org_id, import_agent.name, me, 0) on conflict do nothing;
  select * into agent from pam.agents a
   where a.org_id = import_agent.org_id and a.name = import_agent.name for update;
  if not exists (select from pam.agent_versions v where v.org_id = agent.org_id and v.agent_id = agent.id
                  and v.version = agent.version and v.sha256 = digest and v.definition = import_agent.definition) then
    agent.version := 1 + coalesce((select max(v.version) from pam.agent_versions v
                                    where v.org_id = agent.org_id and v.agent_id = agent.id), 0);
    insert into pam.agent_versions (org_id, agent_id, version, definition, source, sha256, created_by)
    values (agent.org_id, agent.id, agent.version, import_agent.definition, import_agent.source, digest, me);
    update pam.agents a set version = agent.version where a.org_id = agent.org_id and a.id = agent.id;
    perform pam_private.record(agent.org_id, me, 'agent.import', true, about || jsonb_build_object('version', agent.version));
  end if;
  return jsonb_build_object('agent_id', agent.id, 'name', agent.name, 'version', agent.version);
end $$;
comment on function pam.import_agent is 'Import a card as the agent''s next version; the same card again changes nothing. Admins and owners.';

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.agents, pam.agent_versions from public, anon, authenticated, service_role;
grant select on pam.agents, pam.agent_versions to authenticated;
grant execute on function pam.import_agent(uuid, text, jsonb, text) to authenticated;
