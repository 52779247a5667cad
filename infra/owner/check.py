"""Try a change and say what it would do: on a rebuild, then on the target in a transaction that is rolled back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from infra.owner import catalogue_lint, difference, snapshot
from infra.owner.rebuild import Rebuild, RebuildFailed
from infra.owner.snapshot import Connection
from infra.owner.trial import OperatorLimits, Ran, StatementFailed, old_relations, run_all, run_one
from workers.tools.schema_guard import GuardedStatement, check_change, reads_old_rows
from workers.tools.schema_lint import ERROR, Finding
from workers.tools.schema_names import ChangeRefused


@dataclass(frozen=True)
class Outcome:
    """What the operator says of a change: status checked, refused or proposed (it could not be tried), and why."""

    status: str
    base: str | None
    report: dict[str, Any]
    failure: str | None = None


@dataclass
class _Seen:
    """What one place showed."""

    ran: list[Ran] = field(default_factory=list)
    change: difference.Difference | None = None
    findings: list[Finding] = field(default_factory=list)


async def check(change: dict[str, Any], *, dsn: str, rebuild: Rebuild | None, limits: OperatorLimits) -> Outcome:
    """Try a change as taken from the database. Never changes the target; never raises for the change's own faults."""
    report: dict[str, Any] = {"places": []}
    if not change["is_trusted"]:
        return Outcome("refused", None, report, "The organisation is not trusted with the project's schema.")
    try:
        statements = check_change(change["sql"])  # the worker's word is not enough: this connection is the owner's
    except ChangeRefused as refusal:
        return Outcome("refused", None, report, refusal.sentence)
    report["statements"] = [s.sql for s in statements]
    report["bodies"] = [s.sql for s in statements if s.tag in ("create function", "create procedure", "alter function")]
    report["singly"] = [s.sql for s in statements if s.is_single]
    try:
        async with _connected(dsn) as target:
            before = await snapshot.take(target)
            base = before.digest(await snapshot.history(target))
            seen = await _on_rebuild(dsn, before, statements, rebuild, limits, report)
            why_not = _why_not_on_target(statements, may_read_rows=bool(change["may_read_rows"]))
            if why_not is None:
                seen = await _on_target(target, statements, limits)
                report["places"].append({"place": "target", "ran": [r.as_json() for r in seen.ran]})
            else:
                report["places"].append({"place": "target", "skipped": why_not})
    except StatementFailed as failed:
        return Outcome("proposed" if failed.may_pass else "refused", None, report, str(failed))
    except psycopg.Error as error:
        return Outcome("proposed", None, report, f"The database did not answer ({type(error).__name__}): check again.")
    if seen is None or seen.change is None:
        return Outcome(
            "proposed",
            None,
            report,
            "The change could be tried nowhere: " + "; ".join(str(place.get("skipped")) for place in report["places"]),
        )
    report["difference"] = seen.change.as_json()
    return _judged(change, base, report, seen.findings)


def _judged(change: dict[str, Any], base: str, report: dict[str, Any], found: Sequence[Finding]) -> Outcome:
    """An error stands in the way unless the proposer acknowledged its rule, with a reason that the approver reads."""
    report["findings"] = [*change["findings"], *(finding.as_json() for finding in found)]
    open_rules = sorted({f["rule"] for f in report["findings"] if f["severity"] == ERROR} - set(change["acknowledged"]))
    if open_rules:
        failure = f"Mend these, or acknowledge them with a reason in a new proposal: {', '.join(open_rules)}."
        return Outcome("refused", base, report, failure)
    return Outcome("checked", base, report)


def _why_not_on_target(statements: Sequence[GuardedStatement], *, may_read_rows: bool) -> str | None:
    if any(s.is_single for s in statements):
        return "its statements cannot run in a transaction: they are run singly when it is applied"
    if not may_read_rows and reads_old_rows(tuple(statements)):
        return (
            "whether it works depends on rows that the person who asked may not see: an admin or owner of the "
            "organisation must ask for the check"
        )
    return None


async def _on_rebuild(
    dsn: str,
    before: snapshot.Snapshot,
    statements: Sequence[GuardedStatement],
    rebuild: Rebuild | None,
    limits: OperatorLimits,
    report: dict[str, Any],
) -> _Seen | None:
    """What the rebuild shows; None, and why in the report, where there is none. Raises StatementFailed."""
    if rebuild is None:
        report["places"].append({"place": "rebuild", "skipped": "there is no embedded PostgreSQL on this machine"})
        return None
    try:
        async with rebuild.database(dsn, before) as copy, _connected(copy) as connection:
            seen = (
                await _singly(connection, statements)
                if any(s.is_single for s in statements)
                else (await _on_target(connection, statements, limits, with_pam=False))
            )
    except RebuildFailed as failed:
        report["places"].append({"place": "rebuild", "skipped": str(failed)})
        return None
    report["places"].append({"place": "rebuild", "ran": [r.as_json() for r in seen.ran]})
    return seen


async def _on_target(
    connection: Connection, statements: Sequence[GuardedStatement], limits: OperatorLimits, *, with_pam: bool = True
) -> _Seen:
    """Run everything in a transaction, look, and roll back."""
    seen = _Seen()
    async with connection.transaction(force_rollback=True):
        before = await snapshot.take(connection)
        could = await difference.read_access(connection, before.schemas)
        faults = await catalogue_lint.look(connection, before.schemas, with_pam=with_pam)
        old = await old_relations(connection, before.schemas)
        seen.ran = await run_all(connection, statements, limits, old=old)
        await _look_after(connection, seen, before, could, faults, with_pam=with_pam)
    return seen


async def _singly(connection: Connection, statements: Sequence[GuardedStatement]) -> _Seen:
    """On the rebuild, what cannot run in a transaction: it is thrown away afterwards."""
    seen = _Seen()
    before = await snapshot.take(connection)
    could = await difference.read_access(connection, before.schemas)
    faults = await catalogue_lint.look(connection, before.schemas, with_pam=False)
    await connection.execute("set search_path = public, extensions")
    for number, statement in enumerate(statements, start=1):
        try:
            await run_one(connection, statement.sql)
        except psycopg.Error as error:
            said = f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})."
            raise StatementFailed(number, said, error.sqlstate or "") from error
        seen.ran.append(Ran(number, statement.tag, 0.0, (), None))
    await _look_after(connection, seen, before, could, faults, with_pam=False)
    return seen


async def _look_after(
    connection: Connection,
    seen: _Seen,
    before: snapshot.Snapshot,
    could: difference.Access,
    faults: dict[tuple[str, str], Finding],
    *,
    with_pam: bool,
) -> None:
    after = await snapshot.take(connection)
    can = await difference.read_access(connection, after.schemas)
    seen.change = difference.compare(before, after, could, can)
    now = await catalogue_lint.look(connection, after.schemas, with_pam=with_pam)
    seen.findings = [finding for key, finding in sorted(now.items()) if key not in faults]


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    """A connection of its own for one change, so that nothing of it outlives it."""
    connection: Connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=None, connect_timeout=10, application_name="pam-operator"
    )
    async with connection:
        yield connection
