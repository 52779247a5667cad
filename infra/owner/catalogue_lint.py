"""What a reviewer would say of a schema after a change: rules on the catalogues, and only what was not so before."""

from pathlib import Path

from infra.owner.snapshot import Connection
from workers.tools.schema_lint import ERROR, WARNING, Finding

_FAULTS = (Path(__file__).parent / "faults.sql").read_bytes()
# rule → (severity, the sentence around the thing's name); faults.sql finds the things.
_RULES = {
    "table-without-row-security": (
        ERROR,
        "{} can be reached from outside and has no row-level security: alter table … enable row level security.",
    ),
    "row-security-without-policy": (
        WARNING,
        "{} has row-level security and no policy: nobody but the service role sees a row.",
    ),
    "policy-without-index": (
        WARNING,
        "{} is asked for every row and has no index: create index on it.",
    ),
    "definer-open-to-anon": (
        ERROR,
        "{} runs as its owner, and everybody without an account may call it: revoke execute on it from public, anon.",
    ),
    "definer-open-to-authenticated": (
        WARNING,
        "{} runs as its owner, and everybody with an account may call it: it must decide itself whose rows it touches.",
    ),
    "definer-without-search-path": (
        ERROR,
        "{} runs as its owner with its caller's search_path: add set search_path = ''.",
    ),
    "view-past-row-security": (
        ERROR,
        "{} shows rows past row-level security to whoever may select from it: security_invoker = true, or revoke.",
    ),
    "foreign-key-without-index": (
        WARNING,
        "{} has no index on its columns: every delete of what it points to reads the whole table.",
    ),
    "readable-by-anon": (
        ERROR,
        "{}: everybody without an account reads every row.",
    ),
}
_CLOSES = (
    "select o.table_id::regclass::text from pam_private.opened_tables o left join pg_class c on c.oid = o.table_id"
    " where c.oid is null or not c.relrowsecurity"
    " or o.policies_sha256 is distinct from pam_private.policies_digest(o.table_id)"
)
_CLOSES_FUNCTIONS = (
    b"select o.function_id::regprocedure::text from pam_private.opened_functions o"
    b" where not pam_private.is_function_open(o.function_id)"
)


async def look(connection: Connection, schemas: tuple[str, ...], *, with_pam: bool) -> dict[tuple[str, str], Finding]:
    """Everything that breaks a rule at this moment, by rule and name."""
    found: dict[tuple[str, str], Finding] = {}
    async with connection.transaction():
        path = (await (await connection.execute("select current_setting('search_path')")).fetchone() or ("",))[0]
        await connection.execute("set local search_path = pg_catalog")
        for rule, thing in await (await connection.execute(_FAULTS, {"own": list(schemas)})).fetchall():
            severity, sentence = _RULES[rule]
            found[(rule, str(thing))] = Finding(rule, severity, sentence.format(thing))
        if with_pam:
            rows = await (await connection.execute(_CLOSES.encode())).fetchall()
            for row in await (await connection.execute(_CLOSES_FUNCTIONS)).fetchall():
                said = f"{row[0]} closes to agents, for it changes: select pam.open_function_to_agent('{row[0]}')."
                found[("closes-to-agents", str(row[0]))] = Finding("closes-to-agents", WARNING, said)
            sentence = "{} closes to agents, for its policies change: select pam.open_to_agent('{}') after a review."
            found |= {
                ("closes-to-agents", str(row[0])): Finding("closes-to-agents", WARNING, sentence.format(row[0], row[0]))
                for row in rows
            }
        await connection.execute("select set_config('search_path', %s, true)", [path])
    return found
