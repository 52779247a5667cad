-- Whose run is next: the organisation's with the fewest under way, within its cap; then by priority, then the oldest.
-- A job in the queue says only that there is work. What is queued and what is under way is counted, never kept as a number.

alter table pam.organizations add column max_parallel_runs int not null default 100 check (max_parallel_runs between 1 and 10000);
comment on column pam.organizations.max_parallel_runs is 'How many of its runs workers hold at once. The project''s owner sets it: pam.limit_organization.';
alter table pam.runs add column priority smallint not null default 0 check (priority between -10 and 10);
comment on column pam.runs.priority is 'Which of an organisation''s own queued runs comes first: the highest.';
alter table pam.runs add column after_run uuid;
comment on column pam.runs.after_run is 'The run of the same thread that must end before this one is queued for a worker.';
alter table pam.runs add column due_at timestamptz, add column pauses int not null default 0;
comment on column pam.runs.due_at is 'Until when a run waits for a model that is away.';
comment on column pam.runs.pauses is 'How often it has waited so.';
alter table pam.runs add column paused_at timestamptz, add column paused_by uuid;
comment on column pam.runs.paused_at is 'Since when a person lets it rest: no worker takes it before it is resumed, and its clock stands still.';
alter table pam.runs add column code_format int not null default 1;
comment on column pam.runs.code_format is 'The newest format of a worker''s code that has worked on it (workers/kernel/code_format.py): only that or newer code takes it on.';
create index runs_queued on pam.runs (org_id, priority desc, created_at) where status = 'queued' and after_run is null and paused_at is null;
create index runs_running on pam.runs (org_id) where status = 'running';

create function pam.limit_organization(org_id uuid, max_parallel_runs int) returns void
language plpgsql security invoker set search_path = '' as
$$
begin
  update pam.organizations o set max_parallel_runs = limit_organization.max_parallel_runs where o.id = limit_organization.org_id;
  if not found then raise exception 'there is no organisation %', limit_organization.org_id; end if;
end $$;
comment on function pam.limit_organization is 'How many of an organisation''s runs are under way at once. For the owner of the project.';

create function pam_private.is_full(org uuid) returns boolean
language sql stable security definer set search_path = '' as
$$
  select o.max_parallel_runs <= (select count(*) from pam.runs r where r.org_id = org and r.status = 'running')
    from pam.organizations o where o.id = org
$$;
comment on function pam_private.is_full is 'Whether an organisation has as many runs under way as it may.';

create function pam_worker.postpone_run(run_id uuid, fence bigint, seconds double precision, events jsonb) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(postpone_run.run_id, postpone_run.fence);
  pause interval := make_interval(secs => least(greatest(postpone_run.seconds, 1), 600));
begin
  if run.cancel_requested_at is not null then
    perform pam_private.end_run(run, 'cancelled', 'cancelled', 'The run was cancelled.');
    return 'null';
  end if;
  if run.pauses >= 20 then return pam_private.refusal('limit', 'The run has waited for a model twenty times.'); end if;
  perform pam_private.append(run, events);
  -- Its clock stands still meanwhile, and the sweep rings when it is due.
  update pam.runs r set status = 'queued', turn = r.turn + 1, attempt = greatest(r.attempt - 1, 0), pauses = r.pauses + 1,
         due_at = clock_timestamp() + pause, deadline_at = r.deadline_at + pause where r.id = run.id returning * into run;
  update pam_private.run_heads h set fence = h.fence + 1, lease_until = null, rung_at = run.due_at - interval '10 s' where h.run_id = run.id;
  return 'null';
end $$;
comment on function pam_worker.postpone_run is 'Let a run wait for a model that is away; no worker is held meanwhile, and it comes back by itself.';

create function pam_private.waiting_organizations(from_org uuid, most int) returns uuid[]
language plpgsql stable security definer set search_path = '' as
$$
declare
  found_orgs uuid[] := '{}';
  last uuid := from_org;
  following uuid;
  is_round boolean := false;
begin
  -- One probe of the index an organisation, round the circle of their ids.
  while cardinality(found_orgs) < most loop
    select r.org_id into following from pam.runs r where r.status = 'queued' and r.after_run is null and r.paused_at is null and r.org_id > last
       and (r.due_at is null or r.due_at <= clock_timestamp()) order by r.org_id limit 1;
    if following is null and not is_round then
      is_round := true;
      last := '00000000-0000-0000-0000-000000000000';
      continue;
    end if;
    exit when following is null or (is_round and following > from_org);
    found_orgs := found_orgs || following;
    last := following;
  end loop;
  return found_orgs;
end $$;
comment on function pam_private.waiting_organizations is 'Organisations with queued runs, so many at most, from an id on.';

create function pam_worker.claim_next(worker text, lease_seconds int, code_format int default 1) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  org uuid;
  run pam.runs;
  claim jsonb;
begin
  -- Of many organisations 64 are looked at, from anywhere on: nobody is passed over for long.
  for org in
    select w.org_id from unnest(pam_private.waiting_organizations(gen_random_uuid(), 64)) as w (org_id)
     where not pam_private.is_full(w.org_id)
     order by (select count(*) from pam.runs r where r.org_id = w.org_id and r.status = 'running'), random()
  loop
    loop
      select r.* into run from pam.runs r join pam_private.run_heads h on h.run_id = r.id
       where r.org_id = org and r.status = 'queued' and r.after_run is null and r.paused_at is null and (r.due_at is null or r.due_at <= clock_timestamp())
         and r.code_format <= claim_next.code_format
       order by r.priority desc, r.created_at limit 1 for update of h skip locked;
      exit when not found;
      claim := pam_worker.claim_run(run.id, run.turn, claim_next.worker, claim_next.lease_seconds);
      if claim ? 'fence' then
        update pam.runs r set code_format = claim_next.code_format where r.id = run.id and r.code_format < claim_next.code_format;
        return claim;
      end if;
      exit when claim -> 'refused' ->> 'code' <> 'ended';
    end loop;
  end loop;
  return 'null';
end $$;
comment on function pam_worker.claim_next is 'Take the run that is next: as claim_run answers it, or null when nothing may begin. What newer code has worked on, older code leaves alone.';

revoke execute on all functions in schema pam_worker, pam_private from public, anon, service_role;
revoke execute on function pam.limit_organization(uuid, int) from public, anon, authenticated, service_role;
grant execute on function pam_worker.claim_next(text, int, int), pam_worker.postpone_run(uuid, bigint, double precision, jsonb) to pam_worker;
