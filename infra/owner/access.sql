-- For each table, role and act: the right, and the policies that apply. own: names of schemas.
select c.oid::regclass::text, r.rolname::text, x.act, c.relkind::text,
       has_schema_privilege(r.oid, c.relnamespace, 'usage')
         and (has_table_privilege(r.oid, c.oid, x.act) or (x.act <> 'delete' and has_any_column_privilege(r.oid, c.oid, x.act))) as has_right,
       c.relrowsecurity and not r.rolbypassrls and not r.rolsuper as is_filtered,
       coalesce((select o.option_value from pg_options_to_table(c.reloptions) o where o.option_name = 'security_invoker'), 'false') in ('true', 'on', '1', 'yes') as asks_as_reader,
       array(select (case when not p.polpermissive then '!' else '' end)
                    || coalesce(case when x.act = 'insert' then coalesce(pg_get_expr(p.polwithcheck, p.polrelid), pg_get_expr(p.polqual, p.polrelid))
                                     else pg_get_expr(p.polqual, p.polrelid) end, 'true')
               from pg_policy p where p.polrelid = c.oid and p.polcmd in ('*', case x.act when 'select' then 'r' when 'insert' then 'a' when 'update' then 'w' else 'd' end)
                and exists (select from unnest(p.polroles) as g (o) where g.o = 0 or pg_has_role(r.oid, nullif(g.o, 0), 'usage'))
              order by p.polname)
  from pg_class c cross join (select * from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'pam_agent')) r
  cross join (values ('select'), ('insert'), ('update'), ('delete')) as x (act)
 where c.relnamespace in (select n.oid from pg_namespace n where n.nspname = any(%(own)s)) and c.relkind in ('r', 'p', 'v', 'm', 'f')
