-- The hosts that an organisation's agents may reach over HTTP. Nothing is allowed until an admin says so.

create table pam.allowed_hosts (
  org_id uuid not null references pam.organizations on delete cascade,
  host text not null,
  port int not null check (port between 1 and 65535),
  allowed_by uuid not null,
  allowed_at timestamptz not null default now(),
  primary key (org_id, host, port)
);
comment on table pam.allowed_hosts is 'A host and port that an organisation''s agents may reach; `*.example.com` stands for every name below it, not for example.com.';

alter table pam.allowed_hosts enable row level security;
alter table pam.allowed_hosts force row level security;

create policy "People see which hosts their organisations allow"
on pam.allowed_hosts for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

-- The same rule as workers/outbound/target.py; a test compares the two.
create function pam_private.host_fault(host text) returns text
language sql immutable set search_path = '' as
$$
  select case
    when host is null or host = '' then 'The host is empty.'
    when octet_length(host) > 253 then 'The host is longer than 253 characters.'
    when host = 'localhost' then null
    when host ~ '[^a-z0-9.-]' then 'A host is written in small ASCII letters, digits, dots and hyphens; other letters in their xn-- form.'
    when host ~ '(^|\.)[0-9][^.]*$' then 'Name a host, not an IP address: its last part begins with a letter.'
    when host !~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
      then 'The host is no full name such as api.example.com.'
    when host ~ '\.(internal|local|localhost|localdomain|arpa|onion)$' then 'Names of inner networks are not reached.'
  end
$$;
comment on function pam_private.host_fault is 'Why a text is no host that an agent may be allowed to reach, or null.';

create function pam_private.host_patterns(host text) returns text[]
language sql immutable set search_path = '' as
$$
  select array[host] || array(
    select '*.' || array_to_string(parts[n:], '.')
      from string_to_array(host, '.') as parts, generate_series(2, cardinality(parts) - 1) as n)
$$;
comment on function pam_private.host_patterns is 'Every entry of an allow-list that would stand for this host: itself, and a star before each of its endings.';

create function pam_private.parsed_entry(entry text, out host text, out port int, out fault text)
language plpgsql immutable set search_path = '' as
$$
declare
  parts text[] := regexp_match(parsed_entry.entry, '^(.*?)(:([1-9][0-9]{0,4}))?$');
  name text := regexp_replace(parts[1], '^\*\.', '');
begin
  host := parts[1];
  port := coalesce(parts[3]::int, 443);
  fault := case
    when parts is null then 'The host is empty.'
    when pam_private.host_fault(name) is not null then pam_private.host_fault(name)
    when name = 'localhost' and host <> name then 'The host is no full name such as api.example.com.'
    when port > 65535 then 'A port lies between 1 and 65535.'
  end;
end $$;
comment on function pam_private.parsed_entry is 'An entry of the allow-list, `host`, `*.host` or either with `:port` (443 if left out), taken apart; fault says why it is none.';

create function pam.allow_host(org_id uuid, host text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(allow_host.org_id, auth.uid());
  entry record;
  answer jsonb;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  select * into entry from pam_private.parsed_entry(coalesce(allow_host.host, ''));
  if mine < 'admin' then
    answer := pam_private.refusal('forbidden', 'Only an admin or owner says which hosts agents may reach.');
  elsif entry.fault is not null then
    answer := pam_private.refusal('invalid', entry.fault);
  else
    -- One at a time: the cap is kept without a race.
    perform 1 from pam.organizations o where o.id = allow_host.org_id for update;
    if (select count(*) from pam.allowed_hosts h where h.org_id = allow_host.org_id) >= 200 then
      answer := pam_private.refusal('limit', 'An organisation may allow 200 hosts: take one off the list first.');
    else
      insert into pam.allowed_hosts (org_id, host, port, allowed_by) values (allow_host.org_id, entry.host, entry.port, me)
      on conflict on constraint allowed_hosts_pkey do nothing;
      answer := jsonb_build_object('host', entry.host, 'port', entry.port);
    end if;
  end if;
  perform pam_private.record(allow_host.org_id, me, 'host.allow', not answer ? 'refused',
    jsonb_build_object('host', left(allow_host.host, 300)));
  return answer;
end $$;
comment on function pam.allow_host is 'Let the organisation''s agents reach a host: `api.example.com`, `*.example.com`, either with `:port`. Admins and owners.';

create function pam.disallow_host(org_id uuid, host text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(disallow_host.org_id, auth.uid());
  entry record;
  answer jsonb;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  select * into entry from pam_private.parsed_entry(coalesce(disallow_host.host, ''));
  if mine < 'admin' then
    answer := pam_private.refusal('forbidden', 'Only an admin or owner says which hosts agents may reach.');
  else
    delete from pam.allowed_hosts h
     where h.org_id = disallow_host.org_id and h.host = entry.host and h.port = entry.port;
    answer := case when found then jsonb_build_object('host', entry.host, 'port', entry.port)
      else pam_private.refusal('not_found', 'This host is not on the list as it is written here.') end;
  end if;
  perform pam_private.record(disallow_host.org_id, me, 'host.disallow', not answer ? 'refused',
    jsonb_build_object('host', left(disallow_host.host, 300)));
  return answer;
end $$;
comment on function pam.disallow_host is 'Take a host off the list; calls that are under way end, later ones are refused. Admins and owners.';

create function pam_worker.find_host(run_id uuid, fence bigint, host text, port int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(find_host.run_id, find_host.fence, to_write => false);
  allowed boolean;
begin
  allowed := pam_private.host_fault(find_host.host) is null and exists (
    select from pam.allowed_hosts h
     where h.org_id = run.org_id and h.port = find_host.port and h.host = any (pam_private.host_patterns(find_host.host)));
  perform pam_private.record(run.org_id, run.user_id, 'host.reach', allowed, jsonb_build_object(
    'run_id', run.id, 'host', left(find_host.host, 300), 'port', find_host.port));
  return jsonb_build_object('allowed', allowed);
end $$;
comment on function pam_worker.find_host is 'Whether the run''s organisation allows its agents to reach this host and port: {"allowed"}. Asked before every connection.';

revoke execute on function pam.allow_host(uuid, text), pam.disallow_host(uuid, text), pam_private.host_fault(text),
  pam_private.host_patterns(text), pam_private.parsed_entry(text), pam_worker.find_host(uuid, bigint, text, int)
  from public, anon, authenticated, service_role;
revoke all on pam.allowed_hosts from public, anon, authenticated, service_role;
grant select on pam.allowed_hosts to authenticated;
grant execute on function pam.allow_host(uuid, text), pam.disallow_host(uuid, text) to authenticated;
grant execute on function pam_worker.find_host(uuid, bigint, text, int) to pam_worker;
