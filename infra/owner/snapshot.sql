-- One row a thing of the team's schemas: kind, name, what it is. own: the schemas' oids. Read with an empty search_path,
-- so that every name is whole. NOT NULL constraints have rows of their own from PostgreSQL 18 on: the column says it already.
select 'schema', n.nspname::text, '' from pg_namespace n where n.oid = any(%(own)s)
union all
select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' when 'f' then 'foreign table'
            when 'c' then 'composite type' else 'table' end, c.oid::regclass::text,
       concat_ws(' ', case when c.relrowsecurity then 'row level security' end, case when c.relforcerowsecurity then 'forced' end,
                 case c.relkind when 'p' then pg_get_partkeydef(c.oid) end, pg_get_expr(c.relpartbound, c.oid), case c.relpersistence when 'u' then 'unlogged' end,
                 'replica identity ' || nullif(c.relreplident::text, 'd'), array_to_string(c.reloptions, ', '), 'owner ' || c.relowner::regrole,
                 case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end)
  from pg_class c where c.relnamespace = any(%(own)s) and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c')
union all
select 'column', c.oid::regclass || '.' || quote_ident(a.attname),
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
                 case a.attgenerated when 's' then 'generated as ' when 'v' then 'virtual as ' else 'default ' end || pg_get_expr(d.adbin, d.adrelid),
                 case a.attidentity when 'a' then 'identity always' when 'd' then 'identity by default' end)
  from pg_attribute a join pg_class c on c.oid = a.attrelid left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where c.relnamespace = any(%(own)s) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c') and a.attnum > 0 and not a.attisdropped
union all
select 'index', i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid), case when not i.indisvalid then 'invalid' end)
  from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace = any(%(own)s)
union all
select 'constraint', coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text) || ' ' || quote_ident(k.conname), pg_get_constraintdef(k.oid)
  from pg_constraint k where k.connamespace = any(%(own)s) and k.contype <> 'n'
union all
select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid) || 'owner ' || p.proowner::regrole
  from pg_proc p where p.pronamespace = any(%(own)s) and p.prokind in ('f', 'p')
   and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
union all
select 'trigger', c.oid::regclass || ' ' || quote_ident(t.tgname), concat_ws(' ', pg_get_triggerdef(t.oid), nullif(t.tgenabled::text, 'O'))
  from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = any(%(own)s) and not t.tgisinternal
union all
select 'policy', c.oid::regclass || ' ' || quote_ident(p.polname),
       concat_ws(' ', case when not p.polpermissive then 'restrictive' end,
                 'for ' || case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
                 'to ' || (select string_agg(case g.o when 0 then 'public' else g.o::regrole::text end, ', ' order by 1) from unnest(p.polroles) as g (o)),
                 'using (' || pg_get_expr(p.polqual, p.polrelid) || ')', 'with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
  from pg_policy p join pg_class c on c.oid = p.polrelid where c.relnamespace = any(%(own)s)
union all
select 'type', t.oid::regtype::text, case t.typtype
         when 'e' then 'enum ' || (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid)
         else concat_ws(' ', 'domain', format_type(t.typbasetype, t.typtypmod), case when t.typnotnull then 'not null' end, 'default ' || t.typdefault) end
  from pg_type t where t.typnamespace = any(%(own)s) and t.typtype in ('e', 'd')
union all
select 'right', g.what || ' to ' || case g.grantee when 0 then 'public' else g.grantee::regrole::text end, string_agg(lower(g.privilege_type), ', ' order by g.privilege_type)
  from (select 'schema ' || n.nspname as what, a.* from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a where n.oid = any(%(own)s) and a.grantee <> n.nspowner
        union all select c.oid::regclass::text, a.* from pg_class c, aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) a
                   where c.relnamespace = any(%(own)s) and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and a.grantee <> c.relowner
        union all select c.oid::regclass || '.' || quote_ident(t.attname), a.* from pg_attribute t join pg_class c on c.oid = t.attrelid, aclexplode(t.attacl) a
                   where c.relnamespace = any(%(own)s) and not t.attisdropped
        union all select p.oid::regprocedure::text, a.* from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                   where p.pronamespace = any(%(own)s) and a.grantee <> p.proowner
                     and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')) g
 group by 1, 2
union all
select 'default right', concat_ws(' ', d.defaclrole::regrole, d.defaclnamespace::regnamespace, d.defaclobjtype::text), (select string_agg(x, ', ' order by x) from unnest(d.defaclacl::text[]) x)
  from pg_default_acl d where d.defaclnamespace = any(%(own)s)
union all
select 'parent', i.inhrelid::regclass::text, i.inhparent::regclass::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
 where c.relnamespace = any(%(own)s) and c.relkind in ('r', 'p', 'f')
union all
select 'announced by realtime', r.prrelid::regclass::text, concat_ws(' ', 'yes', pg_get_expr(r.prqual, r.prrelid))
  from pg_publication_rel r join pg_publication p on p.oid = r.prpubid join pg_class c on c.oid = r.prrelid
 where p.pubname = 'supabase_realtime' and c.relnamespace = any(%(own)s)
union all
select 'comment', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description from pg_description d join pg_class c on d.classoid = 'pg_class'::regclass and d.objoid = c.oid
 where c.relnamespace = any(%(own)s)
