"""What a reviewer would say of a migration before it is tried: our own rules on its statements, and squawk's."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.tools.schema_guard import GuardedStatement
from workers.tools.schema_names import children, own_table, strings
from workers.tools.sql_functions import Node, pg, postgast
from workers.tools.sql_text import short

ERROR, WARNING = "error", "warning"
SQUAWK_SECONDS = 10
# The operator sets both timeouts itself, and runs the whole in one transaction.
_SAID_ELSEWHERE = ("require-lock-timeout", "require-statement-timeout", "prefer-robust-stmts", "ban-drop-table")


@dataclass(frozen=True)
class Finding:
    """One thing to mend or to know. An error keeps a change from being applied unless its rule is acknowledged."""

    rule: str
    severity: str
    message: str
    statement: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As the report keeps it."""
        return asdict(self)


def lint(statements: Sequence[GuardedStatement]) -> list[Finding]:
    """Our own rules on every statement."""
    return [
        Finding(rule, severity, message, number)
        for number, statement in enumerate(statements, start=1)
        for rule, severity, message in _said_of(statement.node)
    ]


_Said = Iterator[tuple[str, str, str]]


def _said_of(node: Node) -> _Said:
    rule = _RULES.get(type(node).__name__)
    if rule is not None:
        yield from rule(node)


def _policy(node: Node) -> _Said:
    where = f"policy {short(node.policy_name)} on {'.'.join(own_table(node.table))}"
    roles = {r.role_spec.rolename or "public" for r in node.roles} or {"public"}
    is_new = isinstance(node, pg.CreatePolicyStmt)
    act = node.cmd_name if is_new else "all"
    if not node.roles and is_new:
        yield (
            "policy-for-everybody",
            WARNING,
            f"{where} names no role: write to authenticated (or anon), or it holds for all.",
        )
    for part in (node.qual, node.with_check):
        if _is_true(part):
            is_wide = act != "select" or bool(roles & {"public", "anon"})
            yield (
                "policy-always-true",
                ERROR if is_wide else WARNING,
                f"{where} lets {', '.join(sorted(roles))} {act} every row: write whose rows they may.",
            )
    text = str(node.qual) + str(node.with_check)
    if "user_metadata" in text:
        yield "policy-trusts-user-metadata", ERROR, f"{where} trusts user_metadata, which people write themselves."
    if any(_calls_bare(part) for part in (node.qual, node.with_check)):
        yield (
            "policy-asks-per-row",
            WARNING,
            f"{where} calls auth.uid() or auth.jwt() for every row: write (select auth.uid()).",
        )


def _is_true(expression: Node) -> bool:
    thing = postgast.unwrap_node(expression)
    while isinstance(thing, pg.TypeCast):
        thing = postgast.unwrap_node(thing.arg)
    match thing:
        case pg.A_Const():
            return bool(thing.boolval.boolval) or thing.sval.sval in ("t", "true", "on", "yes", "y", "1")
        case pg.BoolExpr():
            parts = [_is_true(part) for part in thing.args]
            return any(parts) if thing.boolop == pg.OR_EXPR else thing.boolop == pg.AND_EXPR and all(parts)
        case pg.A_Expr():
            left, right = postgast.unwrap_node(thing.lexpr), postgast.unwrap_node(thing.rexpr)
            # 1 = 1, and every other comparison of two constants: nobody writes one for its value.
            return isinstance(left, pg.A_Const) and isinstance(right, pg.A_Const)
    return False


def _calls_bare(expression: Node) -> bool:
    """Whether auth.uid() and the like stand outside a subquery."""
    thing = postgast.unwrap_node(expression)
    if isinstance(thing, pg.SubLink):
        return False
    if isinstance(thing, pg.FuncCall) and strings(thing.funcname)[0] == "auth":
        return True
    return any(_calls_bare(child) for child in children(thing))


def _grant(node: Node) -> _Said:
    if node.is_grant and any(postgast.unwrap_node(g).rolename == "anon" for g in node.grantees):
        rights = ", ".join(p.access_priv.priv_name or "columns" for p in node.privileges) or "everything"
        yield (
            "grant-to-anon",
            ERROR,
            f"{rights} is granted to anon: everybody on the internet, without an account, has it.",
        )
    if node.is_grant and node.targtype == pg.ACL_TARGET_ALL_IN_SCHEMA:
        yield "grant-on-all", WARNING, "The grant is on everything in a schema: name what it is for."


def _alter_table(node: Node) -> _Said:
    table = ".".join(own_table(node.relation))
    for item in node.cmds:
        change = item.alter_table_cmd
        match change.subtype:
            case pg.AT_DisableRowSecurity:
                yield (
                    "row-security-off",
                    ERROR,
                    f"{table} loses row-level security: whoever has a grant sees every row.",
                )
            case pg.AT_NoForceRowSecurity:
                yield "row-security-not-forced", ERROR, f"{table} no longer forces row-level security on its owner."
            case pg.AT_DropColumn:
                yield (
                    "drop-column",
                    WARNING,
                    f"{table}.{short(change.name)} goes with what it holds: that cannot be undone.",
                )


def _drop(node: Node) -> _Said:
    if node.remove_type in (pg.OBJECT_TABLE, pg.OBJECT_SCHEMA, pg.OBJECT_MATVIEW):
        yield "drop-table", WARNING, "A table or schema goes with what it holds: that cannot be undone."
    if node.remove_type == pg.OBJECT_POLICY:
        yield "drop-policy", WARNING, "A policy goes: read in the policy diff who may read and write less, or more."


def _function(node: Node) -> _Said:
    options = {item.def_elem.defname: item.def_elem.arg for item in node.options}
    name = ".".join(strings(node.funcname))
    is_definer = "security" in options and options["security"].boolean.boolval
    if is_definer:
        yield "runs-as-owner", WARNING, f"{name} is security definer: it runs as its owner, past row-level security."
    if "set" not in options:
        yield (
            "no-search-path",
            ERROR if is_definer else WARNING,
            f"{name} has no search_path of its own: add set search_path = '' and name schemas in its body.",
        )


def _alter_function(node: Node) -> _Said:
    for item in node.actions:
        if item.def_elem.defname == "security" and item.def_elem.arg.boolean.boolval:
            yield (
                "runs-as-owner",
                ERROR,
                f"{'.'.join(strings(node.func.objname))} becomes security definer: show its body.",
            )


def _view(node: Node) -> _Said:
    options = {item.def_elem.defname: item.def_elem.arg for item in node.options}
    value = options.get("security_invoker")
    is_on = value is not None and (value.string.sval.lower() in ("true", "on", "1", "yes", "") or value.boolean.boolval)
    if not is_on:
        yield (
            "view-reads-as-owner",
            ERROR,
            f"{'.'.join(own_table(node.view))} reads with its owner's rights: write with (security_invoker = true).",
        )


def _rows(node: Node) -> _Said:
    if not node.HasField("where_clause"):
        yield "every-row", ERROR, f"{'.'.join(own_table(node.relation))}: every row is changed, for there is no WHERE."


def _publication(node: Node) -> _Said:
    yield "realtime", WARNING, "Realtime begins or ends to announce changes of these tables to whoever may read them."


_RULES: dict[str, Callable[[Node], _Said]] = {
    "CreatePolicyStmt": _policy,
    "AlterPolicyStmt": _policy,
    "GrantStmt": _grant,
    "AlterTableStmt": _alter_table,
    "DropStmt": _drop,
    "CreateFunctionStmt": _function,
    "AlterFunctionStmt": _alter_function,
    "ViewStmt": _view,
    "UpdateStmt": _rows,
    "DeleteStmt": _rows,
    "AlterPublicationStmt": _publication,
}


async def squawk(sql: str) -> list[Finding]:
    """What squawk says, as warnings: it knows locks and rewrites, not row-level security."""
    program = Path(sys.executable).parent / "squawk"
    command = [str(program), "--reporter", "json", "--pg-version", "17.0", "--assume-in-transaction"]
    command += [part for rule in _SAID_ELSEWHERE for part in ("--exclude", rule)]
    if not await asyncio.to_thread(program.exists):
        return [Finding("squawk-is-not-here", WARNING, "squawk is not installed here: its rules were left out.")]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(sql.encode()), SQUAWK_SECONDS)
        found = json.loads(out)
    except (TimeoutError, json.JSONDecodeError):
        return [Finding("squawk-did-not-answer", WARNING, "squawk did not answer: its rules were left out.")]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = [
        f"{one['message']} {one.get('help') or ''} (line {one['line'] + 1})".replace("\n", " ") for one in found[:100]
    ]
    return [Finding(f"squawk:{one['rule_name']}", WARNING, text) for one, text in zip(found[:100], said, strict=True)]
