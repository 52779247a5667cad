-- What breaks a rule at this moment: the rule's name, and the thing. own: names of schemas.
select 'table-without-row-security' as rule, c.oid::regclass::text from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = any(%(own)s) and (has_schema_privilege('anon', n.oid, 'usage') or has_schema_privilege('authenticated', n.oid, 'usage')) and c.relkind in ('r', 'p') and not c.relrowsecurity
union all
select 'row-security-without-policy' as rule, c.oid::regclass::text from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = any(%(own)s) and c.relkind in ('r', 'p') and c.relrowsecurity
  and not exists (select from pg_policy p
  where p.polrelid = c.oid)
union all
select distinct 'policy-without-index' as rule, c.oid::regclass || '.' || a.attname || ' (policy ' || p.polname || ')' from pg_policy p
  join pg_class c on c.oid = p.polrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.refobjsubid > 0
  join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid
  where n.nspname = any(%(own)s) and p.polname not like 'pam: %%' and a.atttypid <> 'boolean'::regtype
  and not exists (select from pg_index i
  where i.indrelid = c.oid and i.indkey[0] = a.attnum)
union all
select 'definer-open-to-anon' as rule, p.oid::regprocedure::text from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = any(%(own)s) and p.prosecdef and has_function_privilege('anon', p.oid, 'execute')
union all
select 'definer-open-to-authenticated' as rule, p.oid::regprocedure::text from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = any(%(own)s) and p.prosecdef and has_function_privilege('authenticated', p.oid, 'execute')
union all
select 'definer-without-search-path' as rule, p.oid::regprocedure::text from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = any(%(own)s) and p.prosecdef
  and not exists (select from unnest(p.proconfig) as s (entry)
  where s.entry like 'search_path=%%')
union all
select 'view-past-row-security' as rule, c.oid::regclass::text from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = any(%(own)s) and (has_schema_privilege('anon', n.oid, 'usage') or has_schema_privilege('authenticated', n.oid, 'usage')) and (c.relkind = 'm' or (c.relkind = 'v' and coalesce((select o.option_value from pg_options_to_table(c.reloptions) o
  where o.option_name = 'security_invoker'), 'false') not in ('true', 'on', '1', 'yes'))) and (has_table_privilege('anon', c.oid, 'select') or has_table_privilege('authenticated', c.oid, 'select'))
union all
select 'foreign-key-without-index' as rule, k.conrelid::regclass || ' ' || k.conname from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = any(%(own)s) and k.contype = 'f'
  and not exists (select from pg_index i
  where i.indrelid = k.conrelid and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)
union all
select 'readable-by-anon' as rule, c.oid::regclass::text from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = any(%(own)s) and c.relkind in ('r', 'p') and has_schema_privilege('anon', n.oid, 'usage') and has_table_privilege('anon', c.oid, 'select') and (not c.relrowsecurity or exists (select from pg_policy p
  where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('r', '*') and p.polroles && array[0::oid, 'anon'::regrole::oid] and pg_get_expr(p.polqual, p.polrelid) = 'true'))
