-- Connections: credentials of third parties, by name. What is secret comes in sealed, stays sealed, and never goes back out.

create type pam.connection_kind as enum ('api_key', 'basic', 'bearer', 'oauth2_client_credentials', 'oauth2_refresh');
comment on type pam.connection_kind is 'How a connection shows itself: a key in a header or query, a user and password, a token, or a token fetched by OAuth 2.';

create table pam.connections (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null,
  name text not null check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  kind pam.connection_kind not null,
  hosts text[] not null,
  settings jsonb not null,
  version int not null default 1,
  fault text,
  created_by uuid not null,
  created_at timestamptz not null default now(),
  rotated_at timestamptz,
  last_used_at timestamptz,
  expires_at timestamptz,
  primary key (org_id, id),
  unique (org_id, name)
);
comment on table pam.connections is 'What an organisation''s agents may show to third parties: name, kind and hosts. The secret is elsewhere, sealed, and nobody reads it back.';
comment on column pam.connections.hosts is 'The only hosts it is given to: host, or host:port unless the port is 443. They never change: the secret was sealed for them.';
comment on column pam.connections.settings is 'What is not secret: header, query or prefix of a key, a user''s name, token_url, client_id, scopes.';
comment on column pam.connections.version is 'Counts the secrets: 1 is the first, each rotation one more. A sealed secret opens for its own version alone.';
comment on column pam.connections.fault is 'Why the secret cannot be used, until it is rotated.';

create table pam_private.connection_secrets (
  org_id uuid not null,
  connection_id uuid not null,
  deposit bytea,
  sealed bytea,
  key_id text,
  token_sealed bytea,
  token_expires_at timestamptz,
  token_number bigint not null default 0,
  lease uuid,
  lease_until timestamptz,
  primary key (org_id, connection_id),
  foreign key (org_id, connection_id) references pam.connections on delete cascade,
  check (num_nonnulls(deposit, sealed) = 1 and (sealed is null) = (key_id is null))
);
comment on table pam_private.connection_secrets is 'Sealed bytes alone: the deposit of a browser until a worker has sealed it anew under the key ring, a fetched token, and who fetches one.';

create table pam_private.sealing_keys (
  id uuid primary key,
  public_key bytea not null,
  private_sealed bytea not null,
  key_id text not null,
  created_at timestamptz not null default now(),
  retired_at timestamptz
);
comment on table pam_private.sealing_keys is 'What browsers seal secrets to: the public half, and the private half sealed under the workers'' key ring.';
create unique index sealing_keys_current on pam_private.sealing_keys ((true)) where retired_at is null;

alter table pam.connections enable row level security;
alter table pam.connections force row level security;
alter table pam_private.connection_secrets enable row level security;
alter table pam_private.connection_secrets force row level security;
alter table pam_private.sealing_keys enable row level security;
alter table pam_private.sealing_keys force row level security;

create policy "People see the connections of their organisations"
on pam.connections for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam_private.connection_fault(kind text, hosts text[], settings jsonb) returns text
language sql immutable set search_path = '' as
$$
  with allowed (word) as (
    select unnest(case
      when kind = 'api_key' then '{header,query,prefix}'
      when kind = 'basic' then '{username}'
      when kind like 'oauth2\_%' then '{token_url,client_id,client_auth,scopes,audience}'
      else '{}' end::text[]))
  select case
    when kind is null or not kind = any (enum_range(null::pam.connection_kind)::text[])
      then 'The kinds are api_key, basic, bearer, oauth2_client_credentials and oauth2_refresh.'
    when coalesce(cardinality(hosts), 0) not between 1 and 20 or array_ndims(hosts) <> 1
      then 'Bind the connection to 1 to 20 hosts.'
    when exists (select from unnest(hosts) h where h is null or char_length(h) > 259
                  or h !~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*(:[1-9][0-9]{0,4})?$' or h ~ ':443$')
      then 'A host is a name in small letters such as api.example.com, with a port only when it is not 443; no scheme, path or *.'
    when coalesce(jsonb_typeof(settings), '') <> 'object' or octet_length(settings::text) > 8192
      then 'settings is an object of at most 8 KiB.'
    when exists (select from jsonb_object_keys(settings) k where k not in (select word from allowed))
      then format('The settings of %s are: %s.', kind, coalesce((select string_agg(word, ', ') from allowed), 'none'))
    when exists (select from jsonb_each(settings) s where s.key <> 'scopes'
                  and (jsonb_typeof(s.value) <> 'string' or char_length(s.value #>> '{}') > 2000 or s.value #>> '{}' !~ '^[\x20-\x7e]+$'))
      then 'Each setting is a text of 1 to 2,000 printable ASCII characters.'
    when kind = 'api_key' and (settings ? 'header') = (settings ? 'query')
      then 'A key travels in a header or in the query: name one of the two.'
    when settings ->> 'header' !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$'
      or settings ->> 'header' ~* '^(host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-.*|expect|proxy-.*|cookie2?|forwarded|x-forwarded-.*|sec-.*|accept-encoding)$'
      then 'This header says how a message travels: a key cannot go there.'
    when settings ->> 'query' !~ '^[A-Za-z0-9._~-]{1,100}$' then 'A query parameter is one word of letters, digits and . _ ~ -.'
    when kind = 'basic' and coalesce(settings ->> 'username', ':') ~ ':' then 'basic needs a username, without a colon.'
    when kind like 'oauth2\_%' and (not settings ? 'client_id' or coalesce(settings ->> 'token_url', '')
          !~ '^(https://[a-z0-9.-]+|http://(127\.0\.0\.1|localhost))(:[0-9]{1,5})?(/[\x21\x24-\x3e\x40-\x5b\x5d-\x7e]*)?$')
      then 'OAuth 2 needs client_id and token_url, an https address without user, query or fragment.'
    when settings ->> 'client_auth' not in ('basic', 'body') then 'client_auth is basic (a header) or body.'
    when settings ? 'scopes' and (jsonb_typeof(settings -> 'scopes') <> 'array' or jsonb_array_length(settings -> 'scopes') > 100
          or settings @? '$.scopes[*] ? (@.type() != "string" || !(@ like_regex "^[\\x21\\x23-\\x5b\\x5d-\\x7e]{1,200}$"))')
      then 'scopes is a list of words, as RFC 6749 has them.'
  end
$$;
comment on function pam_private.connection_fault is 'Why a connection cannot be as described, or null.';

create function pam_private.deposit_fault(deposit text) returns text
language plpgsql stable security definer set search_path = '' as
$$
declare
  given bytea;
begin
  if coalesce(char_length(deposit), 0) not between 100 and 40000 then
    return 'The secret must be sealed to the key of pam.sealing_key() before it is sent, and hold at most 24 KiB.';
  end if;
  begin
    given := decode(deposit, 'base64');
  exception when others then return 'The sealed secret is no base64.';
  end;
  if substring(given from 1 for 5) <> '\x50414d6401'::bytea or octet_length(given) < 433 then
    return 'The secret must be sealed to the key of pam.sealing_key() before it is sent: what came is not sealed.';
  end if;
  if not exists (select from pam_private.sealing_keys k where k.retired_at is null
                  and uuid_send(k.id) = substring(given from 6 for 16)) then
    return 'The secret is sealed to a key that was replaced: ask for pam.sealing_key() again and seal it anew.';
  end if;
  return null;
end $$;
comment on function pam_private.deposit_fault is 'Why these base64 bytes are no secret sealed to the present key, or null. Whether they open only a worker knows.';

create function pam.sealing_key() returns jsonb
language plpgsql stable security definer set search_path = '' as
$$
begin
  if auth.uid() is null then return pam_private.refusal('signed_out', 'Sign in first.'); end if;
  return coalesce(
    (select jsonb_build_object('id', k.id, 'algorithm', 'RSA-OAEP-256+A256GCM',
                               'public_key', translate(encode(k.public_key, 'base64'), E'\n', ''))
       from pam_private.sealing_keys k where k.retired_at is null),
    pam_private.refusal('unavailable', 'No worker holds keys yet: start one with PAM_KMS_KEY_ID or PAM_KEY_FILE, then try again.'));
end $$;
comment on function pam.sealing_key is 'The public key that a secret is sealed to before it is sent: {"id", "algorithm", "public_key" (SPKI, base64)}.';

create function pam.add_connection(
  org_id uuid, id uuid, name text, kind text, hosts text[], settings jsonb, deposit text, expires_at timestamptz default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(add_connection.org_id, auth.uid());
  fault text;
  about jsonb := jsonb_build_object('connection', left(add_connection.name, 63), 'kind', left(add_connection.kind, 63), 'hosts', to_jsonb(add_connection.hosts[1:20]));
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'admin' then
    perform pam_private.record(add_connection.org_id, me, 'connection.add', false, about - 'hosts');
    return pam_private.refusal('forbidden', 'Only an admin or owner may add a connection.');
  end if;
  fault := case
    when add_connection.id is null then 'Give the connection an id of your making: a random UUID.'
    when coalesce(add_connection.name, '') !~ '^[a-z][a-z0-9_-]{0,62}$' then 'A connection''s name is a small letter, then up to 62 small letters, digits, - or _.'
    when add_connection.expires_at <= now() then 'The connection would be expired already.'
    else coalesce(pam_private.connection_fault(add_connection.kind, add_connection.hosts, add_connection.settings),
                  pam_private.deposit_fault(add_connection.deposit)) end;
  if fault is not null then return pam_private.refusal('invalid', fault); end if;
  perform pg_advisory_xact_lock(hashtextextended('pam connections of ' || add_connection.org_id::text, 0));
  if (select count(*) from pam.connections c where c.org_id = add_connection.org_id) >= 200 then
    perform pam_private.record(add_connection.org_id, me, 'connection.add', false, about);
    return pam_private.refusal('limit', 'An organisation may have 200 connections: remove one first.');
  end if;
  if exists (select from pam.connections c where c.org_id = add_connection.org_id and (c.name = add_connection.name or c.id = add_connection.id)) then
    return pam_private.refusal('conflict', format('There is a connection %s already: rotate it, or remove it first.', add_connection.name));
  end if;
  insert into pam.connections (org_id, id, name, kind, hosts, settings, created_by, expires_at)
  values (add_connection.org_id, add_connection.id, add_connection.name, add_connection.kind::pam.connection_kind,
          add_connection.hosts, add_connection.settings, me, add_connection.expires_at);
  insert into pam_private.connection_secrets (org_id, connection_id, deposit)
  values (add_connection.org_id, add_connection.id, decode(add_connection.deposit, 'base64'));
  perform pam_private.record(add_connection.org_id, me, 'connection.add', true, about || jsonb_build_object('id', add_connection.id));
  return jsonb_build_object('id', add_connection.id, 'name', add_connection.name, 'version', 1);
end $$;
comment on function pam.add_connection is 'Add a connection whose secret was sealed to pam.sealing_key(): {"id", "name", "version"}. Admins and owners.';

create function pam.rotate_connection(org_id uuid, name text, version int, deposit text, expires_at timestamptz default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(rotate_connection.org_id, auth.uid());
  about jsonb := jsonb_build_object('connection', left(rotate_connection.name, 63), 'version', rotate_connection.version);
  connection pam.connections;
  fault text;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'admin' then
    perform pam_private.record(rotate_connection.org_id, me, 'connection.rotate', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner may rotate a connection.');
  end if;
  select * into connection from pam.connections c
   where c.org_id = rotate_connection.org_id and c.name = rotate_connection.name for update;
  if not found then return pam_private.refusal('not_found', 'There is no such connection.'); end if;
  if rotate_connection.version is distinct from connection.version + 1 then
    return pam_private.refusal('conflict', format('The connection is at version %s: seal the next secret for version %s.', connection.version, connection.version + 1));
  end if;
  fault := case when rotate_connection.expires_at <= now() then 'The connection would be expired already.'
                else pam_private.deposit_fault(rotate_connection.deposit) end;
  if fault is not null then return pam_private.refusal('invalid', fault); end if;
  update pam.connections c set version = c.version + 1, fault = null, rotated_at = now(), expires_at = rotate_connection.expires_at
   where c.org_id = connection.org_id and c.id = connection.id;
  update pam_private.connection_secrets s
     set deposit = decode(rotate_connection.deposit, 'base64'), sealed = null, key_id = null, token_sealed = null, token_expires_at = null,
         token_number = s.token_number + 1, lease = null, lease_until = null
   where s.org_id = connection.org_id and s.connection_id = connection.id;
  perform pam_private.record(connection.org_id, me, 'connection.rotate', true, about || jsonb_build_object('id', connection.id));
  return jsonb_build_object('id', connection.id, 'name', connection.name, 'version', rotate_connection.version);
end $$;
comment on function pam.rotate_connection is 'Put the next secret in the place of the last, which is gone at once: {"id", "name", "version"}. Admins and owners.';

create function pam.remove_connection(org_id uuid, name text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(remove_connection.org_id, auth.uid());
  about jsonb := jsonb_build_object('connection', left(remove_connection.name, 63));
  gone uuid;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'admin' then
    perform pam_private.record(remove_connection.org_id, me, 'connection.remove', false, about);
    return pam_private.refusal('forbidden', 'Only an admin or owner may remove a connection.');
  end if;
  delete from pam.connections c where c.org_id = remove_connection.org_id and c.name = remove_connection.name returning c.id into gone;
  if gone is null then return pam_private.refusal('not_found', 'There is no such connection.'); end if;
  perform pam_private.record(remove_connection.org_id, me, 'connection.remove', true, about || jsonb_build_object('id', gone));
  return jsonb_build_object('removed', remove_connection.name);
end $$;
comment on function pam.remove_connection is 'Take a connection and its secret away: {"removed"}. Admins and owners.';

revoke execute on function pam_private.connection_fault(text, text[], jsonb), pam_private.deposit_fault(text), pam.sealing_key(),
  pam.add_connection(uuid, uuid, text, text, text[], jsonb, text, timestamptz), pam.rotate_connection(uuid, text, int, text, timestamptz),
  pam.remove_connection(uuid, text) from public, anon, service_role;
revoke all on pam.connections from public, anon, authenticated, service_role;
revoke all on pam_private.connection_secrets, pam_private.sealing_keys from public, anon, authenticated, service_role;
grant select on pam.connections to authenticated;
grant execute on function pam.sealing_key(), pam.add_connection(uuid, uuid, text, text, text[], jsonb, text, timestamptz),
  pam.rotate_connection(uuid, text, int, text, timestamptz), pam.remove_connection(uuid, text) to authenticated;
