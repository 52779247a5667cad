"""What a reviewer would say of a schema after a change: rules on the catalogues, and only what was not so before."""

from infra.owner.snapshot import Connection
from workers.tools.schema_lint import ERROR, WARNING, Finding

_REACHABLE = "(has_schema_privilege('anon', n.oid, 'usage') or has_schema_privilege('authenticated', n.oid, 'usage'))"
_OWN = "n.nspname = any(%(own)s)"

# rule → (severity, rows of one text that name what breaks it, the sentence around the text)
_RULES: dict[str, tuple[str, str, str]] = {
    "table-without-row-security": (
        ERROR,
        f"select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_OWN} and {_REACHABLE}"
        " and c.relkind in ('r', 'p') and not c.relrowsecurity",
        "{} can be reached from outside and has no row-level security: alter table … enable row level security.",
    ),
    "row-security-without-policy": (
        WARNING,
        f"select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_OWN}"
        " and c.relkind in ('r', 'p') and c.relrowsecurity and not exists (select from pg_policy p where p.polrelid = c.oid)",
        "{} has row-level security and no policy: nobody but the service role sees a row.",
    ),
    "policy-without-index": (
        WARNING,
        "select distinct c.oid::regclass || '.' || a.attname || ' (policy ' || p.polname || ')' from pg_policy p"
        " join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace"
        " join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass"
        " and d.refobjid = c.oid and d.refobjsubid > 0"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid"
        f" where {_OWN} and p.polname not like 'pam: %%' and a.atttypid <> 'boolean'::regtype and not exists (select from pg_index i where i.indrelid = c.oid and i.indkey[0] = a.attnum)",
        "{} is asked for every row and has no index: create index on it.",
    ),
    "definer-open-to-anon": (
        ERROR,
        f"select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_OWN} and p.prosecdef"
        " and has_function_privilege('anon', p.oid, 'execute')",
        "{} runs as its owner, and everybody without an account may call it: revoke execute on it from public, anon.",
    ),
    "definer-open-to-authenticated": (
        WARNING,
        f"select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_OWN} and p.prosecdef"
        " and has_function_privilege('authenticated', p.oid, 'execute')",
        "{} runs as its owner, and everybody with an account may call it: it must decide itself whose rows it touches.",
    ),
    "definer-without-search-path": (
        ERROR,
        f"select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_OWN} and p.prosecdef"
        " and not exists (select from unnest(p.proconfig) as s (entry) where s.entry like 'search_path=%%')",
        "{} runs as its owner with its caller's search_path: add set search_path = ''.",
    ),
    "view-past-row-security": (
        ERROR,
        f"select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_OWN} and {_REACHABLE}"
        " and (c.relkind = 'm' or (c.relkind = 'v' and coalesce((select o.option_value from pg_options_to_table(c.reloptions) o"
        " where o.option_name = 'security_invoker'), 'false') not in ('true', 'on', '1', 'yes')))"
        " and (has_table_privilege('anon', c.oid, 'select') or has_table_privilege('authenticated', c.oid, 'select'))",
        "{} shows rows past row-level security to whoever may select from it: security_invoker = true, or revoke.",
    ),
    "foreign-key-without-index": (
        WARNING,
        "select k.conrelid::regclass || ' ' || k.conname from pg_constraint k join pg_class c on c.oid = k.conrelid"
        f" join pg_namespace n on n.oid = c.relnamespace where {_OWN} and k.contype = 'f' and not exists (select from pg_index i"
        " where i.indrelid = k.conrelid and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)",
        "{} has no index on its columns: every delete of what it points to reads the whole table.",
    ),
    "readable-by-anon": (
        ERROR,
        f"select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_OWN}"
        " and c.relkind in ('r', 'p') and has_schema_privilege('anon', n.oid, 'usage') and has_table_privilege('anon', c.oid, 'select')"
        " and (not c.relrowsecurity or exists (select from pg_policy p where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('r', '*')"
        " and p.polroles && array[0::oid, 'anon'::regrole::oid] and pg_get_expr(p.polqual, p.polrelid) = 'true'))",
        "{}: everybody without an account reads every row.",
    ),
}
_CLOSES = (
    "select o.table_id::regclass::text from pam_private.opened_tables o left join pg_class c on c.oid = o.table_id"
    " where c.oid is null or not c.relrowsecurity or o.policies_sha256 is distinct from pam_private.policies_digest(o.table_id)"
)


async def look(connection: Connection, schemas: tuple[str, ...], *, with_pam: bool) -> dict[tuple[str, str], Finding]:
    """Everything that breaks a rule at this moment, by rule and name."""
    found: dict[tuple[str, str], Finding] = {}
    async with connection.transaction():
        path = (await (await connection.execute("select current_setting('search_path')")).fetchone() or ("",))[0]
        await connection.execute("set local search_path = pg_catalog")
        for rule, (severity, query, sentence) in _RULES.items():
            rows = await (await connection.execute(query.encode(), {"own": list(schemas)})).fetchall()
            found |= {(rule, str(row[0])): Finding(rule, severity, sentence.format(row[0])) for row in rows}
        if with_pam:
            rows = await (await connection.execute(_CLOSES.encode())).fetchall()
            sentence = "{} closes to agents, for its policies change: select pam.open_to_agent('{}') after a review."
            found |= {
                ("closes-to-agents", str(row[0])): Finding("closes-to-agents", WARNING, sentence.format(row[0], row[0]))
                for row in rows
            }
        await connection.execute("select set_config('search_path', %s, true)", [path])
    return found
