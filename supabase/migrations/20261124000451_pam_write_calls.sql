-- SQL that writes, as the person who asked: rehearsed and shown, then committed for a recorded call only, once.

-- A binding that reaches a commit raises. Only settle_write takes it away, and only a started, writing call gets that far.
alter table pam_private.agent_bindings add column touched jsonb not null default '{}';
comment on column pam_private.agent_bindings.touched is 'What the transaction had written before the statement that counts.';
comment on table pam_private.agent_bindings is 'For whom this transaction reads or writes. Gone at its end: nobody ever sees a row of another transaction.';

create function pam_private.stay_undone() returns trigger
language plpgsql security definer set search_path = '' as
$$
begin
  if exists (select from pam_private.agent_bindings b where b.xid = new.xid) then
    raise exception 'this transaction was bound to be rolled back, and nothing of it is kept' using errcode = 'PM006';
  end if;
  return null;
end $$;
comment on function pam_private.stay_undone is 'A bound transaction cannot commit, unless its write was settled.';
create constraint trigger "What is bound is undone" after insert on pam_private.agent_bindings
deferrable initially deferred for each row execute function pam_private.stay_undone();
alter table pam_private.agent_bindings enable always trigger "What is bound is undone";

create table pam_private.agent_writes (
  org_id uuid not null,
  call_id uuid not null,
  tables jsonb not null default '{}',
  xid xid8 not null default pg_current_xact_id(),
  written_at timestamptz not null default clock_timestamp(),
  primary key (org_id, call_id),
  foreign key (org_id, call_id) references pam.tool_calls on delete cascade
);
comment on table pam_private.agent_writes is 'Which calls have written, in the transaction of the write itself: a repeat finds its own commit.';
comment on column pam_private.agent_writes.xid is 'The transaction that wrote: it alone may say how many rows.';
comment on column pam_private.agent_writes.tables is 'How many rows of which tables, as the server counted them: cascades and triggers too.';
alter table pam_private.agent_writes enable row level security;
alter table pam_private.agent_writes force row level security;

create function pam_private.rows_touched() returns jsonb
language sql stable security definer set search_path = '' as
$$
  select coalesce(jsonb_object_agg(s.relid::text, s.n_tup_ins + s.n_tup_upd + s.n_tup_del), '{}')
    from pg_catalog.pg_stat_xact_all_tables s
   where s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0 and s.schemaname not in ('pg_toast', 'pam', 'pam_private')
$$;
comment on function pam_private.rows_touched is 'How many rows this transaction wrote, by table, as the server''s own counters have it: cascades, triggers and CTEs too.';

create function pam_private.bind_rehearsal(run_id uuid, fence bigint) returns oid[]
language plpgsql security definer set search_path = '' as
$$
begin
  perform pam_private.bind(bind_rehearsal.run_id, bind_rehearsal.fence);
  -- For defaults and triggers, which ask auth.uid(). No policy of PAM's reads it.
  perform set_config('request.jwt.claims', (select b.claims::text from pam_private.agent_bindings b where b.xid = pg_current_xact_id()), true);
  return array(select c.oid from pam_private.opened_tables o join pg_catalog.pg_class c on c.oid = o.table_id);
end $$;
comment on function pam_private.bind_rehearsal is 'Bind a transaction that writes and is rolled back: it cannot commit. Answers the tables that must be under row-level security.';

create function pam_private.bind_write(run_id uuid, fence bigint, call uuid) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  org uuid;
  done jsonb;
  opened oid[];
begin
  -- Whoever would take the run over waits for this transaction; the heartbeat does not.
  perform 1 from pam_private.run_heads h where h.run_id = bind_write.run_id for key share;
  select c.org_id into org from pam.tool_calls c
   where c.run_id = bind_write.run_id and c.id = bind_write.call and c.tool = 'database_query' and c.effect = 'write' and c.status = 'started';
  if not found then
    raise exception 'call % is no started, writing call of run %', bind_write.call, bind_write.run_id using errcode = 'PM002';
  end if;
  opened := pam_private.bind_rehearsal(bind_write.run_id, bind_write.fence);
  select w.tables into done from pam_private.agent_writes w where w.org_id = org and w.call_id = bind_write.call;
  if found then return jsonb_build_object('written', done); end if;
  insert into pam_private.agent_writes (org_id, call_id) values (org, bind_write.call);
  return jsonb_build_object('tables', to_jsonb(opened));
end $$;
comment on function pam_private.bind_write is 'Bind a transaction that may commit after settle_write: for a started, writing call of database_query, once. {"written"} when it has written before.';

create function pam_private.named(counts jsonb) returns jsonb
language sql stable set search_path = '' as
$$ select coalesce(jsonb_object_agg(e.key::oid::regclass::text, e.value), '{}') from jsonb_each(counts) e $$;
comment on function pam_private.named is 'Counts by a table''s id as counts by its name.';

create function pam_private.count_from_here() returns void
language sql volatile security definer set search_path = '' as
$$ update pam_private.agent_bindings b set touched = pam_private.rows_touched() where b.xid = pg_current_xact_id() $$;
comment on function pam_private.count_from_here is 'What this transaction has written so far does not count.';

create function pam_private.weigh_write(told bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  before jsonb;
  counts jsonb;
  total bigint;
  ceiling int;
begin
  select b.touched into before from pam_private.agent_bindings b where b.xid = pg_current_xact_id();
  if not found then raise exception 'this transaction is not bound, or was settled before' using errcode = 'PM006'; end if;
  select coalesce(jsonb_object_agg(e.key, e.value::bigint - coalesce((before ->> e.key)::bigint, 0)), '{}') into counts
    from jsonb_each(pam_private.rows_touched()) e where e.value::bigint > coalesce((before ->> e.key)::bigint, 0);
  select coalesce(sum(e.value::bigint), 0) into total from jsonb_each(counts) e;
  if total < weigh_write.told then
    raise exception 'the server does not count what is written (track_counts), so nothing may be' using errcode = 'PM006';
  end if;
  if exists (select from jsonb_object_keys(counts) as k join pg_catalog.pg_class c on c.oid = k::oid
              where c.relnamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) or c.relpersistence = 't') then
    raise exception 'the statement changed more than rows, and nothing of it is kept' using errcode = 'PM006';
  end if;
  select min(w.max_rows) into ceiling from pam_private.opened_writes w where counts ? w.table_id::oid::text;
  if total > 0 and (ceiling is null or (
       exists (select from jsonb_object_keys(counts) as k where not exists (select from pam_private.opened_writes w where w.table_id = k::oid))
       and not exists (select from pam_private.opened_writes w where counts ? w.table_id::oid::text and (w.own_code or w.cascades)))) then
    raise exception 'the statement wrote to a table that is not open for it, and nothing of it is kept' using errcode = 'PM006';
  end if;
  if total > ceiling then
    raise exception 'the statement writes % rows, the limit is %', total, ceiling using errcode = 'PM007';
  end if;
  return pam_private.named(counts);
end $$;
comment on function pam_private.weigh_write is 'How many rows of which tables the statement wrote. Raises above the limit, and when it wrote where nothing is open. told: what the command said.';

create function pam_private.settle_write(call uuid, told bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  counts jsonb := pam_private.weigh_write(settle_write.told);
begin
  update pam_private.agent_writes w set tables = counts where w.call_id = settle_write.call and w.xid = pg_current_xact_id();
  if not found then raise exception 'call % wrote nothing in this transaction', settle_write.call using errcode = 'PM006'; end if;
  delete from pam_private.agent_bindings b where b.xid = pg_current_xact_id();
  return counts;
end $$;
comment on function pam_private.settle_write is 'The last word of a writing transaction: weigh it, note it on its call, and let it commit.';

create or replace function pam_worker.describe_tables(run_id uuid, fence bigint) returns jsonb
language plpgsql security definer set search_path = '' as
$$
declare
  run pam.runs := pam_private.hold(describe_tables.run_id, describe_tables.fence, to_write => false);
begin
  return coalesce((
    select jsonb_agg(jsonb_build_object(
        'table', c.oid::regclass, 'comment', pg_catalog.obj_description(c.oid, 'pg_class'), 'person', run.user_id,
        'is_drifted', o.policies_sha256 <> pam_private.policies_digest(o.table_id),
        'writes', case when w.table_id is null then null else jsonb_build_object(
          'commands', to_jsonb(w.commands), 'max_rows', w.max_rows, 'own_code', pam_private.own_code_of(o.table_id), 'cascades', w.cascades,
          'is_drifted', w.writes_sha256 <> pam_private.writes_digest(o.table_id)) end,
        'estimated_rows', greatest(c.reltuples, 0)::bigint, 'size', pg_catalog.pg_size_pretty(pg_catalog.pg_total_relation_size(c.oid)),
        'columns', (select jsonb_agg(concat_ws(' ', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
                                               case when a.attnotnull then 'not null' end,
                                               case when a.attgenerated <> '' then 'generated' when a.attidentity = 'a' then 'identity (always)'
                                                    when a.attidentity = 'd' then 'identity' end,
                                               case when a.attgenerated = '' then 'default ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) end,
                                               case when not has_column_privilege('pam_agent', c.oid, a.attnum, 'select') then '(not readable)' end) order by a.attnum)
                      from pg_catalog.pg_attribute a left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
        'indexes', coalesce((select jsonb_agg(pg_catalog.pg_get_indexdef(i.indexrelid) order by i.indexrelid)
                      from pg_catalog.pg_index i where i.indrelid = c.oid), '[]'),
        'foreign_keys', coalesce((select jsonb_agg(pg_catalog.pg_get_constraintdef(k.oid) order by k.conname)
                      from pg_catalog.pg_constraint k where k.conrelid = c.oid and k.contype = 'f'), '[]'),
        'checks', coalesce((select jsonb_agg(pg_catalog.pg_get_constraintdef(k.oid) order by k.conname)
                      from pg_catalog.pg_constraint k where k.conrelid = c.oid and k.contype = 'c'), '[]'),
        'policies', coalesce((select jsonb_agg(jsonb_build_object(
                         'name', p.polname, 'for', case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
                         'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)) order by p.polname)
                      from pg_catalog.pg_policy p where p.polrelid = c.oid and not (p.polname like 'pam: %' and p.polroles = array['pam_agent'::regrole::oid])), '[]')
      ) order by c.oid::regclass::text collate "C")
      from pam_private.opened_tables o join pg_catalog.pg_class c on c.oid = o.table_id
      left join pam_private.opened_writes w on w.table_id = o.table_id), '[]');
end $$;
comment on function pam_worker.describe_tables is 'The tables that are open to agents: columns, indexes, keys, checks, policies, sizes, and what may be written.';

revoke execute on all functions in schema pam_private from public, anon, service_role;
revoke all on pam_private.agent_writes from public, anon, authenticated, service_role;
grant execute on function pam_private.bind_rehearsal(uuid, bigint), pam_private.bind_write(uuid, bigint, uuid), pam_private.count_from_here(),
  pam_private.weigh_write(bigint), pam_private.settle_write(uuid, bigint) to pam_agent_sql;
