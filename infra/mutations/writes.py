"""Mutations of SQL that writes: opening, binding, weighing, the parser, and what an approver was shown."""

from infra.mutations.mutation import Mutation, SqlChange, edits, targets

_TABLES, _WRITES = "tests/database/test_open_tables.py", "tests/database/test_open_writes.py"
_SCRIPTS, _MOMENTS = "tests/attacks/test_sql.py", "tests/attacks/test_sql_writes.py"
_TOOL = "tests/tools/test_database_writes.py"
_NEVER = "if false then"

# function, what is taken away, its text, what takes its place, who must notice
_FUNCTIONS = (
    ("pam_private.mirror_of", "session", "current_setting|", "", _TABLES),
    ("pam_private.mirror_of", "opaque functions", "and d.deptype = 'n'", "and d.deptype = 'x'", _TABLES),
    ("pam_private.mirror_of", "bound person", "'pam_private.bound_uid()'", "'auth.uid()'", _TABLES),
    ("pam_private.mirror_policies", "policies to public", "if for_everybody then", _NEVER, _WRITES),
    (
        "pam_private.mirror_policies",
        "restrictive ones",
        "left(policy.polname, 40)), policy.polpermissive,",
        "left(policy.polname, 40)), true,",
        _WRITES,
    ),
    (
        "pam_private.mirror_policies",
        "checks",
        "command in ('insert', 'update') then\n      pam_private.mirror_of",
        "command in ('insert') then\n      pam_private.mirror_of",
        _WRITES,
    ),
    (
        "pam_private.policies_digest",
        "rights of people",
        "case when has_table_privilege('authenticated', t, 'select') then",
        "case when true then",
        _TABLES,
    ),
    ("pam.open_to_agent", "closed on drift", "(select pam_private.is_open(%L::regclass))", "(%L is not null)", _TABLES),
    (
        "pam.open_writes_to_agent",
        "open for reading first",
        "raise exception '% is not open to agents for reading",
        "raise notice '% is not open to agents for reading",
        _WRITES,
    ),
    ("pam.open_writes_to_agent", "a key", "if keys is null or exists", "if false and exists", _WRITES),
    (
        "pam.open_writes_to_agent",
        "rules",
        "or exists (select from pg_catalog.pg_rewrite w where w.ev_class = any (family)) then",
        "then",
        _WRITES,
    ),
    (
        "pam.open_writes_to_agent",
        "deferred triggers",
        "and not g.tgisinternal and g.tgdeferrable) then",
        "and false) then",
        _WRITES,
    ),
    ("pam.open_writes_to_agent", "own code", "if told is not null and not own_code then", _NEVER, _WRITES),
    ("pam.open_writes_to_agent", "cascades", "if 'delete' = any (commands) and not cascades then", _NEVER, _WRITES),
    (
        "pam.open_writes_to_agent",
        "closed on drift",
        "(select pam_private.is_writable(%L::regclass))",
        "(%L is not null)",
        _WRITES,
    ),
    (
        "pam.open_writes_to_agent",
        "rights on columns",
        "and has_column_privilege('authenticated', t, a.attnum, command)",
        "",
        _SCRIPTS,
    ),
    ("pam.open_writes_to_agent", "the key stays", "(a.attnum = any (keys) or exists", "(false or exists", _SCRIPTS),
    ("pam.open_writes_to_agent", "opaque defaults", "if not own_code then raise; end if;", "", _WRITES),
    (
        "pam.open_writes_to_agent",
        "trusted defaults",
        "if mirrored <> fallback.expression and",
        "if false and",
        _SCRIPTS,
    ),
    ("pam_private.is_writable", "drift", " and w.writes_sha256 = pam_private.writes_digest(t)", "", _WRITES),
    ("pam_private.is_writable", "drift of policies", "return pam_private.is_open(t);", "return true;", _WRITES),
    (
        "pam_private.stay_undone",
        "nothing commits",
        "if exists (select from pam_private.agent_bindings b where b.xid = new.xid) then",
        _NEVER,
        _MOMENTS,
    ),
    ("pam_private.bind_write", "started", " and c.status = 'started'", "", _MOMENTS),
    ("pam_private.bind_write", "its tool", " and c.tool = 'database_query'", "", _MOMENTS),
    ("pam_private.bind_write", "its effect", " and c.effect = 'write'", "", _MOMENTS),
    ("pam_private.bind_write", "its run", "c.run_id = bind_write.run_id and ", "", _MOMENTS),
    ("pam_private.bind_write", "once", "if found then return", "if false then return", _MOMENTS),
    ("pam_private.bind_write", "no takeover meanwhile", "for key share", "", _MOMENTS),
    ("pam_private.weigh_write", "limit", "if total > ceiling then", _NEVER, _SCRIPTS),
    (
        "pam_private.weigh_write",
        "the catalogue",
        "where c.relnamespace in ('pg_catalog'::regnamespace,",
        "where false and c.relnamespace in ('pg_catalog'::regnamespace,",
        _SCRIPTS,
    ),
    (
        "pam_private.weigh_write",
        "where nothing is open",
        "if total > 0 and (ceiling is null or (",
        "if false and (ceiling is null or (",
        _SCRIPTS,
    ),
    ("pam_private.settle_write", "its own transaction", " and w.xid = pg_current_xact_id()", "", _MOMENTS),
)
_GUARD, _BOUND, _QUERY = (
    "workers/tools/sql_writes.py",
    "workers/tools/bound_writes.py",
    "workers/tools/database_query.py",
)
# what is taken away, the file, its text, what takes its place, who must notice
_SOURCES = (
    ("known verbs", _GUARD, "if kind not in _VERBS:", "if False:", (_SCRIPTS, "-k", "parser_alone")),
    (
        "WHERE",
        _GUARD,
        'if kind != "InsertStmt" and not _names_a_column(statement.where_clause):',
        "if False:",
        (_SCRIPTS, "-k", "parser_alone"),
    ),
    (
        "a WHERE that tells rows apart",
        _GUARD,
        "any(isinstance(node, pg.ColumnRef) for _, node in postgast.walk(where))",
        "bool(str(where))",
        (_SCRIPTS, "-k", "parser_alone"),
    ),
    (
        "OVERRIDING",
        _GUARD,
        'if kind == "InsertStmt" and statement.override != pg.OVERRIDING_NOT_SET:',
        "if False:",
        (_SCRIPTS, "-k", "parser_alone"),
    ),
    (
        "what a FROM or a sub-select finds",
        _GUARD,
        "found=_found(kind, statement),",
        "found=None,",
        (_MOMENTS, "-k", "not_written"),
    ),
    (
        "a value of the moment",
        _GUARD,
        "if any(isinstance(node, (pg.ColumnRef, pg.SubLink))",
        "if True or any(isinstance(node, (pg.ColumnRef, pg.SubLink))",
        (_TOOL, "-k", "time_of_day"),
    ),
    ("long values by their digest", _BOUND, "' characters, sha256 ',", "' characters ',", (_TOOL, "-k", "long_row")),
    ("old and new", _GUARD, "if statement.returning_clause.options:", "if False:", (_SCRIPTS, "-k", "parser_alone")),
    (
        "parts of a write",
        _GUARD,
        "walk.visit(child, scope)",
        "pass",
        (_SCRIPTS, "-k", "parser_alone"),
    ),
    (
        "rehearsed rows are undone",
        _BOUND,
        'await self._connection.execute(b"rollback to savepoint pam_rehearsal")',
        "pass",
        (_TOOL,),
    ),
    (
        "last look at row-level security",
        _BOUND,
        "if naked is None or naked[0]:",
        "if False:",
        (_MOMENTS, "-k", "between_binding"),
    ),
    (
        "what was agreed",
        _BOUND,
        "if agreed is not None and facts(done) !=",
        "if False and facts(done) !=",
        (_MOMENTS, "-k", "not_written"),
    ),
    ("digest of rows", _BOUND, '"digest": done.digest', '"digest": ""', (_MOMENTS, "-k", "not_written")),
    (
        "what it says it does",
        _BOUND,
        'if plan.get("Node Type") != "ModifyTable" or',
        "if False and",
        (_SCRIPTS, "-k", "parser_off"),
    ),
    (
        "edited statements",
        _QUERY,
        'if agreed is not None and agreed.get("statement") != _digest(args):',
        "if False:",
        (_MOMENTS, "-k", "edited"),
    ),
    (
        "effect",
        _QUERY,
        "return CallEffect.WRITE if args.write and args.sql and not args.explain else CallEffect.READ",
        "return CallEffect.READ",
        (_TOOL, "-k", "effect"),
    ),
    (
        "cost of a plan",
        "workers/tools/sql_limits.py",
        "if cost > max_plan_cost:",
        "if False:",
        ("tests/tools/test_database_query.py", "-k", "costs"),
    ),
    (
        "one statement",
        "workers/tools/sql_limits.py",
        "parameters, binary=True)",
        "parameters)",
        ("tests/database/test_bound_sql.py",),
    ),
    (
        "bytes in all",
        "workers/tools/bound_sql.py",
        "case when so_far <= $B then line end",
        "line",
        ("tests/tools/test_database_query.py", "-k", "mebibyte"),
    ),
)

TARGETS = targets("writes", _FUNCTIONS)
MUTATIONS = (
    *(target.mutation() for target in TARGETS),
    *edits("writes", _SOURCES),
    Mutation(
        "writes: the trigger that undoes",
        SqlChange('drop trigger "What is bound is undone" on pam_private.agent_bindings'),
        (_MOMENTS, "-k", "settled"),
    ),
)
