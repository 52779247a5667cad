-- One heart a worker: all its runs keep their leases, and hear when to stop, in one statement.

drop function pam_worker.pulse_run(uuid, bigint, int);

create function pam_worker.pulse_runs(runs uuid[], fences bigint[], lease_seconds int) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  moment timestamptz := clock_timestamp();
  late uuid[] := array(select pam_private.out_of_time(pulse_runs.runs));
begin
  -- Whatever takes a run from its worker, its end too, raises the fence.
  if cardinality(pulse_runs.runs) <> cardinality(pulse_runs.fences) or cardinality(pulse_runs.runs) > 1000 then
    raise exception 'a pulse takes as many fences as runs, and up to 1,000' using errcode = '22023';
  end if;
  -- A head that is locked is being written to by its own worker, or by whoever takes it away: the next pulse comes soon.
  update pam_private.run_heads h set lease_until = moment + make_interval(secs => pulse_runs.lease_seconds)
   where h.run_id in (
     select l.run_id from unnest(pulse_runs.runs, pulse_runs.fences) as held (run_id, fence)
       join pam_private.run_heads l on l.run_id = held.run_id and l.fence = held.fence
      where l.lease_until < moment + make_interval(secs => pulse_runs.lease_seconds * 0.67)
        for no key update of l skip locked);
  return coalesce((
    select jsonb_agg(jsonb_build_object('run_id', stopped.run_id, 'reason', stopped.reason)) from (
      select held.run_id, case
          when h.fence is distinct from held.fence then 'fence_lost'
          when r.cancel_requested_at is not null then 'cancelled'
          when r.paused_at is not null then 'paused'
          when r.deadline_at <= moment then 'deadline'
          when held.run_id = any(late) then 'budget'
          when coalesce(pam_private.role_in(r.org_id, r.user_id), 'viewer') < 'developer' then 'access_revoked' end as reason
        from unnest(pulse_runs.runs, pulse_runs.fences) as held (run_id, fence)
        left join pam_private.run_heads h on h.run_id = held.run_id
        left join pam.runs r on r.id = held.run_id) as stopped
     where stopped.reason is not null), '[]');
end $$;
comment on function pam_worker.pulse_runs is 'Keep the leases of these runs, each under its fence, and hear which must stop: [{"run_id", "reason"}]. Writes only when a third of a lease is used up.';

revoke execute on all functions in schema pam_worker from public, anon, service_role;
grant execute on function pam_worker.pulse_runs(uuid[], bigint[], int) to pam_worker;
