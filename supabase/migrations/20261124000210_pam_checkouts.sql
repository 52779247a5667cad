-- Where a workspace came from: the commit of a Git repository that was pulled into it, so that a push knows what changed.

create table pam.checkouts (
  org_id uuid not null references pam.organizations on delete cascade,
  id uuid not null default gen_random_uuid(),
  remote text not null check (char_length(remote) <= 1000 and (remote ~ '^https?://[^/@?#[:space:]]+/[^?#[:space:]]*$' or remote ~ '^file:/')),
  path text not null default '' check (path = '' or pam_private.path_fault(path) is null),
  ref text not null check (char_length(ref) between 1 and 300),
  commit_id text not null check (commit_id ~ '^([0-9a-f]{40}|[0-9a-f]{64})$'),
  pulled_by uuid not null,
  pulled_at timestamptz not null,
  primary key (org_id, id),
  unique (org_id, remote, path)
);
comment on table pam.checkouts is 'A commit of a Git repository that was pulled into the workspace: what a push compares with.';
comment on column pam.checkouts.remote is 'An address without credentials, or file: and the path of a local repository.';
comment on column pam.checkouts.path is 'The folder of the repository that was pulled, empty for all of it.';
comment on column pam.checkouts.pulled_at is 'When the pull began: a file that is not in the commit counts as added if it was written later.';

alter table pam.checkouts enable row level security;
alter table pam.checkouts force row level security;

create policy "People see where the workspaces of their organisations came from"
on pam.checkouts for select to authenticated
using ( org_id = any ((select pam_private.my_org_ids())::uuid[]) );

create function pam.record_checkout(org_id uuid, remote text, path text, ref text, commit_id text, since timestamptz) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  me uuid := auth.uid();
  mine pam.member_role := pam_private.role_in(record_checkout.org_id, auth.uid());
begin
  if mine is null then return pam_private.refusal('not_found', 'There is no such organisation, or you do not belong to it.'); end if;
  if mine < 'developer' then
    perform pam_private.record(record_checkout.org_id, me, 'checkout.record', false);
    return pam_private.refusal('forbidden', 'Viewers read the workspace; a developer, admin or owner pulls into it.');
  end if;
  if coalesce(since, 'infinity') > clock_timestamp() or since < clock_timestamp() - interval '1 day' then
    return pam_private.refusal('invalid', 'A pull began within the last day: since is what read_workspace said of the time then.');
  end if;
  perform 1 from pam.organizations o where o.id = record_checkout.org_id for update;
  if (select count(*) from pam.checkouts c where c.org_id = record_checkout.org_id) >= 100 then
    return pam_private.refusal('limit', 'A workspace comes from at most 100 places.');
  end if;
  begin
    insert into pam.checkouts as c (org_id, remote, path, ref, commit_id, pulled_by, pulled_at)
    values (record_checkout.org_id, record_checkout.remote, coalesce(record_checkout.path, ''), record_checkout.ref, record_checkout.commit_id, me, since)
    on conflict on constraint checkouts_org_id_remote_path_key do update
      set ref = excluded.ref, commit_id = excluded.commit_id, pulled_by = excluded.pulled_by, pulled_at = excluded.pulled_at;
  exception when check_violation or not_null_violation then
    return pam_private.refusal('invalid', 'A checkout names an address without credentials, a folder, a ref and a commit.');
  end;
  perform pam_private.record(record_checkout.org_id, me, 'checkout.record', true, jsonb_build_object('commit_id', record_checkout.commit_id));
  return jsonb_build_object('commit_id', record_checkout.commit_id, 'pulled_at', since);
end $$;
comment on function pam.record_checkout is 'Say which commit was pulled into the workspace, and since when; a repeated pull of the same place replaces it.';

create function pam.list_workspace(org_id uuid, folder text default '') returns jsonb
language sql stable security invoker set search_path = '' as
$$
  select jsonb_build_object('files', coalesce(jsonb_agg(jsonb_build_array(f.path, f.version, f.size_bytes, f.sha256, f.updated_at) order by f.path collate "C"), '[]'))
    from pam.files f
   where f.org_id = list_workspace.org_id and (folder = '' or f.path = folder or starts_with(f.path, folder || '/'))
$$;
comment on function pam.list_workspace is 'The workspace in one answer, under the caller''s own row-level security: {"files": [[path, version, size_bytes, sha256, updated_at]]}.';

create function pam.explain_changes(org_id uuid, paths text[], since timestamptz) returns jsonb
language sql stable security invoker set search_path = '' as
$$
  with written as (
    select f.path, v.version, v.created_by, c.run_id
      from pam.files f
      join pam.file_versions v on v.org_id = f.org_id and v.file_id = f.id and v.created_at > explain_changes.since
      left join pam.tool_calls c on c.org_id = v.org_id and c.id = v.call_id
     where f.org_id = explain_changes.org_id and f.path = any (explain_changes.paths)),
  run as (
    select r.id, r.user_id, r.created_at, array_agg(distinct w.path) as paths,
           (select left(m.content, 2000) from pam.messages m where m.org_id = r.org_id and m.run_id = r.id and m.role = 'user' order by m.position limit 1) as question,
           (select left(m.content, 2000) from pam.messages m where m.org_id = r.org_id and m.run_id = r.id and m.role = 'assistant' and m.content ~ '\S'
             order by m.position desc limit 1) as answer
      from written w join pam.runs r on r.org_id = explain_changes.org_id and r.id = w.run_id group by r.org_id, r.id)
  select jsonb_build_object(
    'runs', coalesce((select jsonb_agg(jsonb_build_object('run_id', r.id, 'asker', r.user_id, 'question', r.question, 'answer', r.answer, 'paths', r.paths)
                                       order by r.created_at) from run r), '[]'),
    'people', coalesce((select jsonb_agg(jsonb_build_object('user_id', p.created_by, 'paths', p.paths)) from (
                          select w.created_by, array_agg(distinct w.path) as paths from written w where w.run_id is null group by 1) p), '[]'))
$$;
comment on function pam.explain_changes is 'Who wrote these files since then, under the caller''s own row-level security: {"runs": [{"run_id", "asker", "question", "answer", "paths"}], "people": […]}.';

revoke execute on function pam.record_checkout(uuid, text, text, text, text, timestamptz), pam.list_workspace(uuid, text),
  pam.explain_changes(uuid, text[], timestamptz) from public, anon, service_role;
revoke all on pam.checkouts from public, anon, authenticated, service_role;
grant select on pam.checkouts to authenticated;
grant execute on function pam.record_checkout(uuid, text, text, text, text, timestamptz), pam.list_workspace(uuid, text),
  pam.explain_changes(uuid, text[], timestamptz) to authenticated;
