-- Where a test makes time stand still: a run's step into a state waits on a lock that the test holds. Installed by a
-- superuser, on the tests' own database only.
create schema fault;
create table fault.barriers (run_id uuid primary key, place text not null);
create table fault.switches (name text primary key);

create function fault.wait(run uuid, at_place text) returns void
language plpgsql security definer set search_path = '' as
$$
begin
  if exists (select from fault.barriers b where b.run_id = run and b.place = at_place) then
    perform pg_advisory_xact_lock(hashtextextended('fault ' || run, 0));
  end if;
end $$;

create function fault.on_call() returns trigger language plpgsql security definer set search_path = '' as
$$ begin perform fault.wait(new.run_id, 'call ' || new.status); return new; end $$;
create trigger "Fault: a call stands still" before update on pam.tool_calls for each row execute function fault.on_call();

create function fault.on_version() returns trigger language plpgsql security definer set search_path = '' as
$$
begin
  perform fault.wait((select c.run_id from pam.tool_calls c where c.id = new.call_id), 'file version');
  return new;
end $$;
create trigger "Fault: a write stands still" before insert on pam.file_versions for each row execute function fault.on_version();

create function fault.on_run() returns trigger language plpgsql security definer set search_path = '' as
$$ begin perform fault.wait(new.id, 'run ' || new.status); return new; end $$;
create trigger "Fault: an end stands still" before update of status on pam.runs for each row execute function fault.on_run();

create function fault.on_step() returns trigger language plpgsql security definer set search_path = '' as
$$ begin perform fault.wait(new.run_id, 'step'); return new; end $$;
create trigger "Fault: a step stands still" before insert on pam.steps for each row execute function fault.on_step();

create function fault.on_request() returns trigger language plpgsql security definer set search_path = '' as
$$ begin return case when exists (select from fault.switches s where s.name = 'lose webhooks') then null else new end; end $$;
create trigger "Fault: a webhook is lost" before insert on net.http_request_queue for each row execute function fault.on_request();

-- Every second batch of events of a run of this name is refused so, and the one after it is not.
create table fault.refusals (name text primary key, code text not null);
create sequence fault.refusal;
create function fault.on_batch() returns trigger language plpgsql security definer set search_path = '' as
$$
declare
  refusal_code text := (select f.code from fault.refusals f join pam.runs r on r.idempotency_key = f.name where r.id = (select run_id from batch limit 1));
begin
  if refusal_code is not null and session_user = 'pam_worker' and nextval('fault.refusal') % 2 = 1 then
    raise exception 'a test refuses this' using errcode = refusal_code;
  end if;
  return null;
end $$;
create trigger "Fault: a batch is refused" after insert on pam.events referencing new table as batch for each statement execute function fault.on_batch();
grant usage on sequence fault.refusal to public;

-- The triggers fire for logins that may see nothing of this schema: the functions are definers.
grant usage on schema fault to public;
grant execute on all functions in schema fault to public;
