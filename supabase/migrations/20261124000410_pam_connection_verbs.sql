-- What a worker may do with connections. It gets sealed bytes, for one call, one name and one host at a time; each use is audited.

create function pam_private.sealed_connection(connection pam.connections, secret pam_private.connection_secrets) returns jsonb
language sql stable security definer set search_path = '' as
$$
  select jsonb_build_object(
    'org_id', connection.org_id, 'id', connection.id, 'name', connection.name, 'kind', connection.kind, 'hosts', connection.hosts,
    'settings', connection.settings, 'version', connection.version,
    'sealed', encode(secret.sealed, 'base64'), 'deposit', encode(secret.deposit, 'base64'),
    'deposit_key', (select jsonb_build_object('id', k.id, 'private_sealed', encode(k.private_sealed, 'base64'))
                      from pam_private.sealing_keys k where uuid_send(k.id) = substring(secret.deposit from 6 for 16)))
$$;
comment on function pam_private.sealed_connection is 'A connection with its sealed bytes, as a worker reads it.';

create function pam_worker.open_connection(run_id uuid, fence bigint, call uuid, name text, host text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(open_connection.run_id, open_connection.fence);
  connection pam.connections;
  secret pam_private.connection_secrets;
  refusal jsonb;
  about jsonb := jsonb_build_object('run_id', run.id, 'call', open_connection.call, 'connection', left(open_connection.name, 63),
                                    'host', left(open_connection.host, 259));
begin
  select * into connection from pam.connections c where c.org_id = run.org_id and c.name = open_connection.name for update;
  select * into secret from pam_private.connection_secrets s where s.org_id = run.org_id and s.connection_id = connection.id;
  refusal := case
    when not exists (select from pam.tool_calls c where c.org_id = run.org_id and c.run_id = run.id and c.id = open_connection.call and c.status = 'started')
      then pam_private.refusal('invalid', 'A connection is used within a tool call that has begun, and by no other.')
    when connection.id is null
      then pam_private.refusal('not_found', 'There is no connection of this name in the organisation: an admin adds it with `pam connections add`.')
    when open_connection.host is null or not open_connection.host = any (connection.hosts)
      then pam_private.refusal('forbidden', format('The connection %s is bound to %s and is given to no other host.', connection.name, array_to_string(connection.hosts, ', ')))
    when connection.expires_at <= now()
      then pam_private.refusal('expired', format('The connection %s has expired: an admin rotates it.', connection.name))
    when connection.fault is not null
      then pam_private.refusal('unusable', format('The connection %s cannot be used: %s', connection.name, connection.fault))
  end;
  perform pam_private.record(run.org_id, run.user_id, 'connection.use', refusal is null,
    about || jsonb_strip_nulls(jsonb_build_object('id', connection.id, 'version', connection.version, 'code', refusal -> 'refused' -> 'code')));
  if refusal is not null then return refusal; end if;
  update pam.connections c set last_used_at = clock_timestamp() where c.org_id = connection.org_id and c.id = connection.id;
  return pam_private.sealed_connection(connection, secret);
end $$;
comment on function pam_worker.open_connection is 'A connection of the run''s organisation for one begun call and one of its hosts: its terms and its sealed bytes. Stamps its last use; audited, allowed or not.';

create function pam_worker.note_connection_fault(run_id uuid, fence bigint, call uuid, connection uuid, code text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(note_connection_fault.run_id, note_connection_fault.fence);
begin
  perform pam_private.record(run.org_id, run.user_id, 'connection.use', false, jsonb_build_object(
    'run_id', run.id, 'call', note_connection_fault.call, 'id', note_connection_fault.connection, 'code', left(note_connection_fault.code, 63)));
  return '{}';
end $$;
comment on function pam_worker.note_connection_fault is 'Audit that a connection which was opened could not be used: code is one word, never content.';

-- One worker fetches a token while the others wait: a refresh token that is used twice is taken for stolen.
create function pam_worker.lease_token(run_id uuid, fence bigint, connection uuid, version int, lease uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(lease_token.run_id, lease_token.fence, to_write => false);
  secret pam_private.connection_secrets;
begin
  select s.* into secret from pam_private.connection_secrets s join pam.connections c on c.org_id = s.org_id and c.id = s.connection_id
   where s.org_id = run.org_id and s.connection_id = lease_token.connection and c.version = lease_token.version for update of s;
  if not found or secret.sealed is null then
    return pam_private.refusal('conflict', 'The connection was rotated or removed at this moment: try again.');
  end if;
  if secret.token_sealed is not null and secret.token_expires_at > clock_timestamp() + interval '30 s' then
    return jsonb_build_object('token', encode(secret.token_sealed, 'base64'), 'number', secret.token_number);
  end if;
  if secret.lease <> lease_token.lease and secret.lease_until > clock_timestamp() then return '{"wait": true}'; end if;
  update pam_private.connection_secrets s set lease = lease_token.lease, lease_until = clock_timestamp() + interval '30 s'
   where s.org_id = run.org_id and s.connection_id = lease_token.connection;
  return jsonb_build_object('leased', true, 'number', secret.token_number, 'sealed', encode(secret.sealed, 'base64'));
end $$;
comment on function pam_worker.lease_token is 'A live access token: {"token", "number"}; or the turn to fetch one within 30 s: {"leased", "number", "sealed"}; or {"wait"} while another does.';

-- The turn is the fence here, not the run's: a run that ends meanwhile must not lose a refresh token that was changed.
create function pam_worker.keep_token(
  run_id uuid, connection uuid, version int, lease uuid, token text, seconds int, sealed text default null, key_id text default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs;
  number bigint;
begin
  select * into run from pam.runs r where r.id = keep_token.run_id;
  update pam_private.connection_secrets s
     set token_sealed = decode(keep_token.token, 'base64'), token_number = s.token_number + 1, lease = null, lease_until = null,
         token_expires_at = clock_timestamp() + make_interval(secs => least(greatest(keep_token.seconds, 1), 86400)),
         sealed = coalesce(decode(keep_token.sealed, 'base64'), s.sealed), key_id = coalesce(keep_token.key_id, s.key_id)
    from pam.connections c
   where s.org_id = run.org_id and s.connection_id = keep_token.connection and s.lease = keep_token.lease and s.sealed is not null
     and c.org_id = s.org_id and c.id = s.connection_id and c.version = keep_token.version and c.kind::text like 'oauth2\_%'
     and (keep_token.sealed is null or c.kind = 'oauth2_refresh')
  returning s.token_number into number;
  perform pam_private.record(run.org_id, run.user_id, 'connection.token', number is not null, jsonb_build_object(
    'run_id', run.id, 'id', keep_token.connection, 'version', keep_token.version, 'refresh_token_changed', keep_token.sealed is not null));
  if number is null then return pam_private.refusal('conflict', 'The connection was rotated, or its token was fetched by another worker: try again.'); end if;
  return jsonb_build_object('number', number);
end $$;
comment on function pam_worker.keep_token is 'Keep a fetched access token, and the refresh token that came with it, both sealed; only for whom the turn was given: {"number"}.';

create function pam_worker.yield_token(run_id uuid, connection uuid, lease uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
begin
  update pam_private.connection_secrets s set lease = null, lease_until = null from pam.runs r
   where r.id = yield_token.run_id and s.org_id = r.org_id and s.connection_id = yield_token.connection and s.lease = yield_token.lease;
  return '{}';
end $$;
comment on function pam_worker.yield_token is 'Give the turn to fetch a token back: the fetch failed, the next may try.';

create function pam_worker.drop_token(run_id uuid, fence bigint, connection uuid, number bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(drop_token.run_id, drop_token.fence, to_write => false);
begin
  update pam_private.connection_secrets s set token_sealed = null, token_expires_at = null
   where s.org_id = run.org_id and s.connection_id = drop_token.connection and s.token_number = drop_token.number;
  return to_jsonb(found);
end $$;
comment on function pam_worker.drop_token is 'Forget a token that the third party no longer takes, unless a newer one is there already.';

create function pam_worker.sealing_key() returns jsonb
language sql stable security definer set search_path = '' as
$$ select coalesce((select jsonb_build_object('id', k.id, 'key_id', k.key_id) from pam_private.sealing_keys k where k.retired_at is null), 'null') $$;
comment on function pam_worker.sealing_key is 'Which public key is out, and under which key of the ring its private half lies; null while there is none.';

create function pam_private.drop_sealing_keys() returns void
language sql security definer set search_path = '' as
$$
  delete from pam_private.sealing_keys k
   where k.retired_at is not null
     and not exists (select from pam_private.connection_secrets s where substring(s.deposit from 6 for 16) = uuid_send(k.id))
$$;
comment on function pam_private.drop_sealing_keys is 'Forget replaced keys; an old private half is needed as long as a deposit lies sealed to it.';

create function pam_worker.publish_sealing_key(id uuid, public_key text, private_sealed text, key_id text, replaces uuid default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
begin
  perform pg_advisory_xact_lock(hashtextextended('pam sealing keys', 0));
  if (select k.id from pam_private.sealing_keys k where k.retired_at is null) is distinct from publish_sealing_key.replaces then return 'false'; end if;
  update pam_private.sealing_keys k set retired_at = clock_timestamp() where k.retired_at is null;
  insert into pam_private.sealing_keys (id, public_key, private_sealed, key_id)
  values (publish_sealing_key.id, decode(publish_sealing_key.public_key, 'base64'), decode(publish_sealing_key.private_sealed, 'base64'), publish_sealing_key.key_id);
  perform pam_private.drop_sealing_keys();
  perform pam_private.record(null, null, 'sealing_key.publish', true,
    jsonb_build_object('id', publish_sealing_key.id, 'key_id', publish_sealing_key.key_id, 'replaces', publish_sealing_key.replaces));
  return 'true';
end $$;
comment on function pam_worker.publish_sealing_key is 'Put out a public key in the place of the one that was seen; false when another worker was first.';

create function pam_worker.sweep_connections(key_id text, max_connections int default 50) returns jsonb
language sql stable security definer set search_path = '' as
$$
  select coalesce(jsonb_agg(pam_private.sealed_connection(due.connection, due.secret)), '[]') from (
    select c as connection, s as secret
      from pam_private.connection_secrets s join pam.connections c on c.org_id = s.org_id and c.id = s.connection_id
     where (s.deposit is not null and c.fault is null) or s.key_id <> sweep_connections.key_id
     order by random() limit max_connections) as due
$$;
comment on function pam_worker.sweep_connections is 'Connections whose secret waits to be sealed under this key of the ring: deposits, and what lies under an older key.';

create function pam_worker.settle_connection(org_id uuid, id uuid, was text, sealed text default null, key_id text default null, fault text default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
begin
  perform 1 from pam.connections c where c.org_id = settle_connection.org_id and c.id = settle_connection.id for update;
  perform 1 from pam_private.connection_secrets s
   where s.org_id = settle_connection.org_id and s.connection_id = settle_connection.id
     and encode(sha256(coalesce(s.deposit, s.sealed)), 'hex') = settle_connection.was for update;
  if not found then return 'false'; end if;
  if settle_connection.fault is null then
    update pam_private.connection_secrets s
       set sealed = decode(settle_connection.sealed, 'base64'), key_id = settle_connection.key_id, deposit = null,
           token_sealed = case when s.key_id is not distinct from settle_connection.key_id then s.token_sealed end
     where s.org_id = settle_connection.org_id and s.connection_id = settle_connection.id;
    perform pam_private.drop_sealing_keys();
  else
    update pam.connections c set fault = left(settle_connection.fault, 300) where c.org_id = settle_connection.org_id and c.id = settle_connection.id;
  end if;
  perform pam_private.record(settle_connection.org_id, null, 'connection.seal', settle_connection.fault is null,
    jsonb_strip_nulls(jsonb_build_object('id', settle_connection.id, 'key_id', settle_connection.key_id, 'fault', left(settle_connection.fault, 300))));
  return 'true';
end $$;
comment on function pam_worker.settle_connection is 'Put newly sealed bytes in the place of those whose SHA-256 is `was`, or note why they cannot be opened; false when they are gone.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
grant execute on function pam_worker.open_connection(uuid, bigint, uuid, text, text), pam_worker.note_connection_fault(uuid, bigint, uuid, uuid, text),
  pam_worker.lease_token(uuid, bigint, uuid, int, uuid), pam_worker.keep_token(uuid, uuid, int, uuid, text, int, text, text),
  pam_worker.yield_token(uuid, uuid, uuid), pam_worker.drop_token(uuid, bigint, uuid, bigint), pam_worker.sealing_key(),
  pam_worker.publish_sealing_key(uuid, text, text, text, uuid), pam_worker.sweep_connections(text, int),
  pam_worker.settle_connection(uuid, uuid, text, text, text, text) to pam_worker;
