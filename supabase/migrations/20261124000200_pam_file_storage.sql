-- Files beyond the row: history moves to object storage by digest, large files are kept there alone, and an
-- organisation's workspace has a quota of its own. A write is still one transaction: its bytes begin in the row.

create table pam.workspaces (
  org_id uuid primary key references pam.organizations on delete cascade,
  files int not null default 0 check (files >= 0),
  kept_bytes bigint not null default 0 check (kept_bytes >= 0),
  max_files int not null default 20000 check (max_files >= 0),
  max_bytes bigint not null default 1073741824 check (max_bytes >= 0),
  max_file_bytes int not null default 33554432 check (max_file_bytes between 1 and 33554432)
);
comment on table pam.workspaces is 'What an organisation''s workspace holds, and may hold. The max_ columns are set by the project''s owner in SQL, by nobody of the organisation.';
comment on column pam.workspaces.kept_bytes is 'The size of all versions of all files, wherever they lie.';
comment on column pam.workspaces.max_file_bytes is 'At most 32 MiB: a tool holds a file in memory.';
insert into pam.workspaces (org_id, files, kept_bytes)
select f.org_id, count(*), sum(f.kept_bytes) from pam.files f group by f.org_id;

alter table pam.workspaces enable row level security;
alter table pam.workspaces force row level security;

create policy "People see how full the workspaces of their organisations are"
on pam.workspaces for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

alter table pam.file_versions
  alter column content drop not null,
  add column size_bytes int,
  add column handed_at timestamptz,
  add column stored_at timestamptz,
  add constraint file_versions_lie_somewhere check (content is not null or stored_at is not null);
update pam.file_versions v set size_bytes = octet_length(v.content);
alter table pam.file_versions alter column size_bytes set not null;
comment on table pam.file_versions is 'What a file held, by digest. The bytes begin in the row, so that a write is one transaction with its ledger entry; a worker copies them to object storage.';
comment on column pam.file_versions.content is 'Null once they lie in object storage alone: every earlier version, and what is larger than 1 MiB. The newest small one stays for search and browsers.';
comment on column pam.file_versions.handed_at is 'When a worker last took it to store it; another may a minute later.';
comment on column pam.file_versions.stored_at is 'Since when object storage has it, at org/<org_id>/<sha256>.';
create index file_versions_unstored on pam.file_versions (created_at) where stored_at is null;

-- The same rule as workers/tools/workspace_path.py; a test compares the two.
create or replace function pam_private.path_fault(path text) returns text
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
    when path ~ '^\.[pP][aA][mM](/|$)' then 'Paths below .pam/ are PAM''s own.'
  end
$$;
comment on function pam_private.path_fault is 'Why a path is no workspace path, or null.';

create function pam_private.is_kept_in_row(size_bytes int, is_newest boolean) returns boolean
language sql immutable set search_path = '' as $$ select is_newest and size_bytes <= 1048576 $$;
comment on function pam_private.is_kept_in_row is 'Whether a stored version''s bytes stay in the row besides: the newest of a file that search and browsers read.';

create or replace function pam_private.write_file(
  org uuid, person uuid, call uuid, path text, content bytea, expected_version int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  fault text := pam_private.path_fault(write_file.path);
  digest text := encode(sha256(write_file.content), 'hex');
  size int := octet_length(write_file.content);
  space pam.workspaces;
  file pam.files;
  own int;
  readable boolean := true;
begin
  if fault is not null then return pam_private.refusal('invalid', fault); end if;
  -- One organisation's writes go one after another: the quota and the version are decided without a race.
  insert into pam.workspaces (org_id) values (org) on conflict do nothing;
  select * into space from pam.workspaces w where w.org_id = org for update;
  if size > space.max_file_bytes then
    return pam_private.refusal('too_large', format('A file of this workspace may hold %s bytes; this one has %s.', space.max_file_bytes, size));
  end if;
  select * into file from pam.files f where f.org_id = org and f.path = write_file.path for update;
  if call is not null then
    select v.version into own from pam.file_versions v where v.org_id = org and v.call_id = call;
    if found then
      return jsonb_build_object('path', write_file.path, 'version', own, 'sha256', digest, 'size_bytes', size);
    end if;
  end if;
  if coalesce(file.version, 0) is distinct from expected_version then
    return pam_private.refusal('conflict', case
      when file.version is null then 'The file is not there (any more): write it anew.'
      when expected_version = 0 then format('The file exists already, at version %s: read it first, then edit or overwrite it.', file.version)
      else format('The file is at version %s, not %s: somebody wrote it meanwhile. Read it again and redo the change.', file.version, expected_version) end);
  end if;
  if file.id is null and space.files >= space.max_files then
    return pam_private.refusal('limit', format('The workspace holds %s files already, as many as it may.', space.files));
  end if;
  if space.kept_bytes + size > space.max_bytes then
    return pam_private.refusal('limit', format('The workspace and its earlier versions hold %s bytes of %s: %s more do not fit.',
                                               space.kept_bytes, space.max_bytes, size));
  end if;
  begin
    readable := position('\x00'::bytea in write_file.content) = 0 and convert_from(write_file.content, 'UTF8') is not null;
  exception when character_not_in_repertoire then readable := false;
  end;
  if file.id is null then
    insert into pam.files as f (org_id, path, version, sha256, size_bytes, is_text, kept_bytes, updated_by)
    values (org, write_file.path, 1, digest, size, readable, size, person) returning * into file;
  else
    -- What was the newest is history from now on: its bytes go if they are stored.
    update pam.file_versions v set content = null
     where v.org_id = org and v.file_id = file.id and v.version = file.version and v.stored_at is not null and v.content is not null;
    update pam.files f set version = f.version + 1, sha256 = digest, size_bytes = size, is_text = readable,
                           kept_bytes = f.kept_bytes + size, updated_by = person, updated_at = now()
     where f.org_id = org and f.id = file.id returning * into file;
  end if;
  insert into pam.file_versions (org_id, file_id, version, content, sha256, size_bytes, call_id, created_by)
  values (org, file.id, file.version, write_file.content, digest, size, call, person);
  update pam.workspaces w set files = w.files + (file.version = 1)::int, kept_bytes = w.kept_bytes + size where w.org_id = org;
  return jsonb_build_object('path', file.path, 'version', file.version, 'sha256', digest, 'size_bytes', file.size_bytes);
end $$;

-- A worker reads: the index of the workspace, lines that match, one version of one file.
drop function pam_worker.list_files(uuid, bigint);
create function pam_worker.list_files(run_id uuid, fence bigint, beginning text default '', ending text default '') returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(list_files.run_id, list_files.fence, to_write => false);
begin
  return coalesce((select jsonb_agg(jsonb_build_array(f.path, f.size_bytes, f.version, f.is_text) order by f.path collate "C")
                     from pam.files f where f.org_id = run.org_id and starts_with(f.path, beginning) and right(f.path, char_length(ending)) = ending), '[]');
end $$;
comment on function pam_worker.list_files is 'The workspace of the run''s organisation by path, those with this beginning and ending: [[path, size_bytes, version, is_text]].';

drop function pam_worker.search_files(uuid, bigint, text, text[], int);
create function pam_worker.search_files(run_id uuid, fence bigint, pattern text, paths text[], max_lines int, needle text default '') returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(search_files.run_id, search_files.fence, to_write => false);
begin
  return coalesce((
    select jsonb_agg(to_jsonb(hit) order by hit.path collate "C", hit.line) from (
      select f.path, l.line, left(l.text, 300) as text
        from (select f.org_id, f.id, f.version, f.path from pam.files f
               where f.org_id = run.org_id and f.is_text and (search_files.paths is null or f.path = any (search_files.paths))
               order by f.path collate "C") as f
        join pam.file_versions v on v.org_id = f.org_id and v.file_id = f.id and v.version = f.version,
        lateral string_to_table(convert_from(v.content, 'UTF8'), E'\n') with ordinality as l (text, line)
       where pam_private.is_kept_in_row(v.size_bytes, true) and position(convert_to(needle, 'UTF8') in v.content) > 0 and l.text ~ search_files.pattern
       limit search_files.max_lines) as hit), '[]');
end $$;
comment on function pam_worker.search_files is 'Lines of text files up to 1 MiB that match a POSIX pattern: [{"path", "line", "text"}]. paths: null for all. needle: a text without which a file cannot match.';

drop function pam_worker.read_file(uuid, bigint, text);
create function pam_worker.read_file(run_id uuid, fence bigint, path text, version int default null) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(read_file.run_id, read_file.fence, to_write => false);
  answer jsonb;
begin
  select jsonb_build_object('path', f.path, 'version', v.version, 'newest', f.version, 'size_bytes', v.size_bytes,
                            'is_text', f.is_text, 'sha256', v.sha256, 'content', encode(v.content, 'base64')) into answer
    from pam.files f join pam.file_versions v on v.org_id = f.org_id and v.file_id = f.id and v.version = coalesce(read_file.version, f.version)
   where f.org_id = run.org_id and f.path = read_file.path;
  return coalesce(answer, pam_private.refusal('not_found', 'There is no such file.'));
end $$;
comment on function pam_worker.read_file is 'A workspace file at its newest or another version; content as base64, null when it lies in object storage alone.';

-- A worker stores: versions that are only in their rows, and what it has put.
create function pam_worker.list_unstored(max_versions int default 64, max_bytes bigint default 16777216) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  due record;
  total bigint := 0;
  handed jsonb := '[]';
begin
  for due in
    select v.org_id, v.file_id, v.version, v.sha256, v.content, v.size_bytes from pam.file_versions v
     where v.stored_at is null and (v.handed_at is null or v.handed_at < clock_timestamp() - interval '1 minute')
     order by v.created_at limit max_versions
     for update skip locked
  loop
    exit when total > 0 and total + due.size_bytes > max_bytes;
    total := total + greatest(due.size_bytes, 1);
    update pam.file_versions v set handed_at = clock_timestamp()
     where v.org_id = due.org_id and v.file_id = due.file_id and v.version = due.version;
    handed := handed || jsonb_build_object('org_id', due.org_id, 'file_id', due.file_id, 'version', due.version,
                                           'sha256', due.sha256, 'content', encode(due.content, 'base64'));
  end loop;
  return handed;
end $$;
comment on function pam_worker.list_unstored is 'Versions that object storage does not have yet, handed to one worker for a minute.';

create function pam_worker.mark_stored(org_id uuid, file_id uuid, version int, sha256 text) returns jsonb
language plpgsql security definer set search_path = '' as
$$
begin
  perform 1 from pam.files f where f.org_id = mark_stored.org_id and f.id = mark_stored.file_id for update;  -- whether it is the newest is decided once
  update pam.file_versions v
     set stored_at = clock_timestamp(),
         content = case when pam_private.is_kept_in_row(v.size_bytes, v.version = f.version) then v.content end
    from pam.files f
   where v.org_id = mark_stored.org_id and v.file_id = mark_stored.file_id and v.version = mark_stored.version
     and v.sha256 = mark_stored.sha256 and v.stored_at is null and f.org_id = v.org_id and f.id = v.file_id;
  return to_jsonb(found);
end $$;
comment on function pam_worker.mark_stored is 'Say that object storage has a version under its digest; its row lets go of bytes that nobody searches. Answers whether there was such a version.';

-- A browser reads, writes many at once, and sees how full it is.
create or replace function pam.read_file(org_id uuid, path text) returns jsonb
language plpgsql stable security invoker set search_path = '' as
$$
declare
  answer jsonb;
begin
  select case when v.content is null
           then jsonb_build_object('refused', jsonb_build_object('code', 'too_large', 'message',
                  format('%s holds %s bytes: more than 1 MiB is read by runs, not from here.', f.path, f.size_bytes)))
           else jsonb_build_object('path', f.path, 'version', f.version, 'sha256', f.sha256, 'size_bytes', f.size_bytes,
             'text', case when f.is_text then convert_from(v.content, 'UTF8') end,
             'base64', case when not f.is_text then encode(v.content, 'base64') end) end
    into answer
    from pam.files f join pam.file_versions v on v.org_id = f.org_id and v.file_id = f.id and v.version = f.version
   where f.org_id = read_file.org_id and f.path = read_file.path;
  return coalesce(answer, jsonb_build_object('refused', jsonb_build_object('code', 'not_found', 'message', 'There is no such file.')));
end $$;

create function pam.write_files(org_id uuid, files jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(write_files.org_id, auth.uid());
  entry jsonb;
  content bytea;
  answer jsonb;
  answers jsonb := '[]';
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'developer' then
    perform pam_private.record(write_files.org_id, me, 'file.write', false);
    return pam_private.refusal('forbidden', 'Viewers read the workspace; a developer, admin or owner writes it.');
  end if;
  if coalesce(case when jsonb_typeof(files) = 'array' then jsonb_array_length(files) end, 0) not between 1 and 500 then
    return pam_private.refusal('invalid', 'Give 1 to 500 files: [{"path", "text" or "base64", "expected_version"}].');
  end if;
  for entry in select e.file from jsonb_array_elements(files) as e (file) loop
    begin
      content := case when entry ? 'base64' then decode(entry ->> 'base64', 'base64') else convert_to(entry ->> 'text', 'UTF8') end;
    exception when invalid_parameter_value then content := null;
    end;
    answer := case
      when jsonb_typeof(entry) <> 'object' or content is null or coalesce(entry ->> 'expected_version', '0') !~ '^[0-9]{1,9}$'
        then pam_private.refusal('invalid', 'A file is {"path", "text" or "base64", "expected_version"}.')
      else pam_private.write_file(write_files.org_id, me, null, entry ->> 'path', content, coalesce(entry ->> 'expected_version', '0')::int) end;
    perform pam_private.record(write_files.org_id, me, 'file.write', not answer ? 'refused',
      jsonb_build_object('path', left(entry ->> 'path', 400)) || case when answer ? 'refused' then '{}' else answer - 'path' end);
    answers := answers || (answer || jsonb_build_object('path', entry ->> 'path'));
  end loop;
  return jsonb_build_object('files', answers);
end $$;
comment on function pam.write_files is 'Write many files, text or base64, each by itself: {"files": [{"path", "version", …} or {"path", "refused"}]}.';

create function pam.read_workspace(org_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  mine pam.member_role := pam_private.role_in(read_workspace.org_id, auth.uid());
  space pam.workspaces;
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  insert into pam.workspaces (org_id) values (read_workspace.org_id) on conflict do nothing;
  select * into space from pam.workspaces w where w.org_id = read_workspace.org_id;
  return to_jsonb(space) || jsonb_build_object('now', clock_timestamp());
end $$;
comment on function pam.read_workspace is 'How full the workspace is and may be: {"files", "kept_bytes", "max_files", "max_bytes", "max_file_bytes"}, and the database''s clock.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke execute on function pam.write_files(uuid, jsonb), pam.read_workspace(uuid) from public, anon, service_role;
revoke all on pam.workspaces from public, anon, authenticated, service_role;
grant select on pam.workspaces to authenticated;
grant execute on function pam.write_files(uuid, jsonb), pam.read_workspace(uuid) to authenticated;
grant execute on function pam_worker.list_files(uuid, bigint, text, text), pam_worker.search_files(uuid, bigint, text, text[], int, text),
  pam_worker.read_file(uuid, bigint, text, int), pam_worker.list_unstored(int, bigint), pam_worker.mark_stored(uuid, uuid, int, text) to pam_worker;
