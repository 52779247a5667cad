-- Every transaction in which a worker writes to a run is a boundary of that run, numbered from 1 as it comes; found by
-- triggers on every table, not listed. Before its first write a run named in fault.stops stands still there, on a lock
-- that the test holds. What is written in one transaction stands or falls as one, so each boundary has two ways to
-- die at it: before anything of it stands, and after it stands but before the worker hears so.
create table fault.stops (name text primary key, boundary int not null);
create table fault.writes (
  run_id uuid not null,
  boundary int not null,
  place int not null,
  xid xid8 not null default pg_current_xact_id(),
  verb text not null,
  target text not null,
  primary key (run_id, boundary, place)
);

create function fault.on_write() returns trigger language plpgsql security definer set search_path = '' as
$$
declare
  -- What a worker calls about one run; sweeps, pulses and chores name none.
  verb text := substring(current_query() from '^select pam_worker\.([a-z_]+)\((?:run_id|worker) =>');
  written jsonb;
  run uuid;
  last fault.writes;
  here int;
begin
  if verb is null then return new; end if;
  written := to_jsonb(new) - 'content';
  run := nullif(current_setting('fault.run', true), '')::uuid;
  if run is null then
    run := case tg_table_name when 'runs' then written ->> 'id' when 'jobs' then written ->> 'submitted_by_run'
      else coalesce(written ->> 'run_id', (select c.run_id::text from pam.tool_calls c where c.id::text = written ->> 'call_id')) end;
    if run is null then return new; end if; -- such as a file's row, before the version that its call writes
    perform set_config('fault.run', run::text, true);
  end if;
  select w.* into last from fault.writes w where w.run_id = run order by w.boundary desc, w.place desc limit 1;
  here := coalesce(last.boundary, 0) + (last.xid is distinct from pg_current_xact_id())::int;
  insert into fault.writes (run_id, boundary, place, verb, target)
  values (run, here, case when here = last.boundary then last.place + 1 else 1 end, verb, tg_table_name || ' ' || lower(tg_op));
  if here is distinct from last.boundary and exists (
    select from fault.stops s join pam.runs r on r.idempotency_key = s.name where r.id = run and s.boundary = here) then
    perform pg_advisory_xact_lock(hashtextextended('fault stop ' || r.idempotency_key, 0)) from pam.runs r where r.id = run;
  end if;
  return new;
end $$;

do $$
declare
  target regclass;
begin
  for target in
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and (n.nspname = 'pam' or n.nspname = 'pam_private' and c.relname = 'run_heads')
  loop
    execute format('create trigger "A boundary" before insert or update on %s for each row execute function fault.on_write()', target);
  end loop;
end $$;

-- Who stands still now, and by which connection.
create view fault.standing as
select s.name, a.pid, a.client_port
  from fault.stops s
  join pg_locks l on l.locktype = 'advisory' and not l.granted and l.objsubid = 1
   and ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended('fault stop ' || s.name, 0)
  join pg_stat_activity a on a.pid = l.pid;

grant execute on all functions in schema fault to public;
