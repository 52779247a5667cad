-- Connections that lead to the team's application logs: a log group at CloudWatch, or a project's logs at Supabase.
-- Where they lead stands in their settings, bound to the secret; a call says a name and nothing else.

alter type pam.connection_kind add value 'aws_access_key';
comment on type pam.connection_kind is 'How a connection shows itself: a key in a header or query, a user and password, a token, a token fetched by OAuth 2, or a signature made with an AWS access key.';

create or replace function pam_private.connection_fault(kind text, hosts text[], settings jsonb) returns text
language sql immutable set search_path = '' as
$$
  with allowed (word) as (
    select unnest(case
      when kind = 'api_key' then '{header,query,prefix}'
      when kind = 'basic' then '{username}'
      when kind = 'bearer' then '{project_ref}'
      when kind = 'aws_access_key' then '{access_key_id,region,log_group}'
      when kind like 'oauth2\_%' then '{token_url,client_id,client_auth,scopes,audience}'
      else '{}' end::text[]))
  select case
    when kind is null or not kind = any (enum_range(null::pam.connection_kind)::text[])
      then format('The kinds are %s.', array_to_string(enum_range(null::pam.connection_kind), ', '))
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
    when settings ? 'project_ref' and (settings ->> 'project_ref' !~ '^[a-z0-9]{20}$' or hosts <> array['api.supabase.com'])
      then 'project_ref is a Supabase project''s twenty letters and digits, and its one host is api.supabase.com.'
    when kind = 'aws_access_key' and (coalesce(settings ->> 'access_key_id', '') !~ '^[A-Z0-9]{16,128}$'
          or coalesce(settings ->> 'region', '') !~ '^[a-z]{2}(-[a-z]+){1,3}-[0-9]$'
          or coalesce(settings ->> 'log_group', '') !~ '^[A-Za-z0-9_/.#-]+$' or char_length(settings ->> 'log_group') > 512)
      then 'aws_access_key needs access_key_id, region (such as eu-central-1) and log_group.'
    when kind = 'aws_access_key' and hosts <> array['logs.' || (settings ->> 'region') || '.amazonaws.com']
      then format('The one host of this connection is logs.%s.amazonaws.com.', settings ->> 'region')
  end
$$;

create function pam_worker.connection_terms(run_id uuid, fence bigint, name text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(connection_terms.run_id, connection_terms.fence, to_write => false);
begin
  return coalesce(
    (select jsonb_build_object('org_id', c.org_id, 'id', c.id, 'name', c.name, 'kind', c.kind, 'hosts', c.hosts, 'settings', c.settings, 'version', c.version)
       from pam.connections c where c.org_id = run.org_id and c.name = connection_terms.name),
    pam_private.refusal('not_found', 'There is no connection of this name in the organisation: an admin adds it with `pam connections add`.'));
end $$;
comment on function pam_worker.connection_terms is 'What every member may see of a connection of the run''s organisation: kind, hosts and settings, and nothing that is sealed.';

revoke execute on function pam_worker.connection_terms(uuid, bigint, text) from public, anon, authenticated, service_role;
grant execute on function pam_worker.connection_terms(uuid, bigint, text) to pam_worker;
