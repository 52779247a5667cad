-- The workspace of an organisation: files by path, every version kept.

create table pam.files (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  path text not null,
  version int not null,
  sha256 text not null,
  size_bytes int not null,
  is_text boolean not null,
  kept_bytes bigint not null,
  updated_by uuid not null,
  updated_at timestamptz not null default now(),
  primary key (org_id, id),
  unique (org_id, path)
);
comment on table pam.files is 'A file of an organisation''s workspace at its newest version.';
comment on column pam.files.kept_bytes is 'The size of all its versions together: what the quota counts.';

create table pam.file_versions (
  org_id uuid not null,
  file_id uuid not null,
  version int not null,
  content bytea not null,
  sha256 text not null,
  call_id uuid,
  created_by uuid not null,
  created_at timestamptz not null default now(),
  primary key (org_id, file_id, version),
  foreign key (org_id, file_id) references pam.files on delete cascade,
  foreign key (org_id, call_id) references pam.tool_calls on delete set null (call_id)
);
comment on table pam.file_versions is 'What a file held. Kept in the row, so that a write is one transaction with its ledger entry.';
comment on column pam.file_versions.call_id is 'The tool call that wrote it: a repeated call finds its own version and writes no second.';
create unique index file_versions_of_call on pam.file_versions (org_id, call_id);

alter table pam.files enable row level security;
alter table pam.files force row level security;
alter table pam.file_versions enable row level security;
alter table pam.file_versions force row level security;

create policy "People see the workspace files of their organisations"
on pam.files for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create policy "People read the file versions of their organisations"
on pam.file_versions for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

-- The same rule as workers/tools/workspace_path.py; a test compares the two.
create function pam_private.path_fault(path text) returns text
language sql immutable set search_path = '' as
$$
  select case
    when path is null or path = '' then 'The path is empty.'
    when char_length(path) > 400 then 'The path is longer than 400 characters.'
    when path ~ '[\x01-\x1f\x7f\\]' then 'The path holds a control character or a backslash.'
    when path ~ '^(/|~)' or path ~ '^[A-Za-z]:' then 'Workspace paths are relative: leave out the leading /, ~ or drive.'
    when path ~ '(^|/)\.{1,2}(/|$)' then 'The path holds . or .. as a part: name the file from the workspace root.'
    when path ~ '//' or path ~ '/$' then 'The path holds an empty part.'
    when path <> normalize(path, nfc) then 'The path is not in Unicode''s composed form (NFC).'
  end
$$;
comment on function pam_private.path_fault is 'Why a path is no workspace path, or null.';

create function pam_private.write_file(
  org uuid, person uuid, call uuid, path text, content bytea, expected_version int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  fault text := pam_private.path_fault(write_file.path);
  digest text := encode(sha256(write_file.content), 'hex');
  file pam.files;
  own int;
  readable boolean := true;
begin
  if fault is not null then return pam_private.refusal('invalid', fault); end if;
  if octet_length(content) > 1048576 then return pam_private.refusal('too_large', 'A workspace file may hold 1 MiB.'); end if;
  -- One organisation's writes go one after another: the quota and the version are decided without a race.
  perform pg_advisory_xact_lock(hashtextextended('pam workspace of ' || org::text, 0));
  select * into file from pam.files f where f.org_id = org and f.path = write_file.path for update;
  if call is not null then
    select v.version into own from pam.file_versions v where v.org_id = org and v.call_id = call;
    if found then
      return jsonb_build_object('path', write_file.path, 'version', own, 'sha256', digest, 'size_bytes', octet_length(content));
    end if;
  end if;
  if coalesce(file.version, 0) is distinct from expected_version then
    return pam_private.refusal('conflict', case
      when file.version is null then 'The file is not there (any more): write it anew.'
      when expected_version = 0 then format('The file exists already, at version %s: read it first, then edit or overwrite it.', file.version)
      else format('The file is at version %s, not %s: somebody wrote it meanwhile. Read it again and redo the change.', file.version, expected_version) end);
  end if;
  if file.id is null and (select count(*) from pam.files f where f.org_id = org) >= 20000 then
    return pam_private.refusal('limit', 'The workspace holds 20,000 files already.');
  end if;
  if (select coalesce(sum(f.kept_bytes), 0) from pam.files f where f.org_id = org) + octet_length(content) > 1073741824 then
    return pam_private.refusal('limit', 'The workspace and its earlier versions hold 1 GiB already.');
  end if;
  begin
    readable := position('\x00'::bytea in content) = 0 and convert_from(content, 'UTF8') is not null;
  exception when character_not_in_repertoire then readable := false;
  end;
  if file.id is null then
    insert into pam.files as f (org_id, path, version, sha256, size_bytes, is_text, kept_bytes, updated_by)
    values (org, write_file.path, 1, digest, octet_length(content), readable, octet_length(content), person) returning * into file;
  else
    update pam.files f set version = f.version + 1, sha256 = digest, size_bytes = octet_length(content), is_text = readable,
                           kept_bytes = f.kept_bytes + octet_length(content),
                           updated_by = person, updated_at = now()
     where f.org_id = org and f.id = file.id returning * into file;
  end if;
  insert into pam.file_versions (org_id, file_id, version, content, sha256, call_id, created_by)
  values (org, file.id, file.version, content, digest, call, person);
  return jsonb_build_object('path', file.path, 'version', file.version, 'sha256', digest, 'size_bytes', file.size_bytes);
end $$;
comment on function pam_private.write_file is 'Write a file''s next version if it still is at expected_version (0: not there yet). A call that wrote already gets its own version back.';

create function pam.write_file(org_id uuid, path text, content text, expected_version int default 0) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(write_file.org_id, auth.uid());
  answer jsonb;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'developer' then
    answer := pam_private.refusal('forbidden', 'Viewers read the workspace; a developer, admin or owner writes it.');
  else
    answer := pam_private.write_file(write_file.org_id, me, null, write_file.path,
                                     convert_to(coalesce(write_file.content, ''), 'UTF8'), coalesce(write_file.expected_version, 0));
  end if;
  perform pam_private.record(write_file.org_id, me, 'file.write', not answer ? 'refused',
    jsonb_build_object('path', left(write_file.path, 400)) || case when answer ? 'refused' then '{}' else answer - 'path' end);
  return answer;
end $$;
comment on function pam.write_file is 'Write a text file into the organisation''s workspace: {"path", "version", "sha256", "size_bytes"}.';

create function pam.read_file(org_id uuid, path text) returns jsonb
language plpgsql stable security invoker set search_path = '' as
$$
declare
  answer jsonb;
begin
  select jsonb_build_object('path', f.path, 'version', f.version, 'sha256', f.sha256, 'size_bytes', f.size_bytes,
           'text', case when f.is_text then convert_from(v.content, 'UTF8') end,
           'base64', case when not f.is_text then encode(v.content, 'base64') end)
    into answer
    from pam.files f join pam.file_versions v on v.org_id = f.org_id and v.file_id = f.id and v.version = f.version
   where f.org_id = read_file.org_id and f.path = read_file.path;
  return coalesce(answer, jsonb_build_object('refused', jsonb_build_object('code', 'not_found', 'message', 'There is no such file.')));
end $$;
comment on function pam.read_file is 'A workspace file at its newest version, under the caller''s own row-level security.';

revoke execute on all functions in schema pam, pam_private from public, anon, service_role;
revoke all on pam.files, pam.file_versions from public, anon, authenticated, service_role;
grant select on pam.files, pam.file_versions to authenticated;
grant execute on function pam.write_file(uuid, text, text, int), pam.read_file(uuid, text) to authenticated;
