"""Apply a change that a person approved: the approved text, on the schema it was checked against, or not at all."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg.types.json import Jsonb

from infra.owner import snapshot
from infra.owner.snapshot import Connection
from infra.owner.trial import OperatorLimits, StatementFailed, old_relations, run_all, run_one, spoken
from workers.tools.schema_guard import GuardedStatement, as_recorded, check_change
from workers.tools.schema_names import ChangeRefused
from workers.tools.sql_functions import pg

DRIFT = (
    "The project's schema or its migration history is not what the change was checked against (somebody changed it "
    "meanwhile): check the change again."
)

log = structlog.get_logger()


class NotApplied(Exception):
    """Nothing was changed. `status` is what becomes of the change: checked and proposed may be tried again."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Key:
    """Which change."""

    org_id: str
    id: str


async def apply(change: dict[str, Any], *, dsn: str, limits: OperatorLimits) -> None:
    """Apply an approved change. Raises NotApplied, and psycopg.Error when the connection is lost: take it up again."""
    key = Key(str(change["org_id"]), str(change["id"]))
    connection: Connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=None, connect_timeout=10, application_name="pam-operator"
    )
    async with connection:
        try:
            if any(s.is_single for s in _guarded(change)):
                await _apply_singly(connection, key, limits)
            else:
                async with connection.transaction():
                    await _apply_together(connection, key, limits)
        except StatementFailed as failed:
            raise NotApplied("checked" if failed.is_lock else "failed", f"Nothing was changed. {failed}") from failed
        except psycopg.Error as error:
            if connection.closed or error.sqlstate is None:
                raise
            raise NotApplied("failed", f"Nothing was changed. It {spoken(error, limits)}") from error


def _guarded(change: dict[str, Any]) -> Sequence[GuardedStatement]:
    """The statements, judged once more. Raises NotApplied."""
    if hashlib.sha256(change["sql"].encode()).hexdigest() != change["sql_sha256"]:
        raise NotApplied("failed", "The text is not the one that was approved: nothing was changed.")
    try:
        return check_change(change["sql"])
    except ChangeRefused as refusal:
        raise NotApplied("failed", f"Nothing was changed. {refusal.sentence}") from refusal


async def _begin(connection: Connection, key: Key) -> tuple[dict[str, Any], Sequence[GuardedStatement]]:
    """Lock the change, look at its approval again, and compare the schema. Raises NotApplied."""
    cursor = await connection.execute("select pam_private.begin_apply(%s, %s)", [key.org_id, key.id])
    answer: dict[str, Any] = (await cursor.fetchone() or ({},))[0]
    if "refused" in answer:
        raise NotApplied("failed", f"Nothing was changed. {answer['refused']['message']}")
    now = await snapshot.take(connection)
    if now.digest(await snapshot.history(connection)) != answer["base"]:
        raise NotApplied("proposed", DRIFT)
    return answer, _guarded(answer)


async def _end(connection: Connection, key: Key, change: dict[str, Any]) -> None:
    await connection.execute(
        "select pam_private.end_apply(%s, %s, %s, %s)",
        [key.org_id, key.id, as_recorded(change["sql"]), Jsonb(change["report"])],
    )


async def _apply_together(connection: Connection, key: Key, limits: OperatorLimits) -> None:
    change, statements = await _begin(connection, key)
    old = await old_relations(connection, await snapshot.own_schemas(connection))
    ran = await run_all(connection, statements, limits, old=old)
    change["report"]["applied"] = [one.as_json() for one in ran]
    await _end(connection, key, change)


async def _apply_singly(connection: Connection, key: Key, limits: OperatorLimits) -> None:
    """What cannot run in a transaction, each by itself; the history follows at the end, and a failed index goes."""
    async with connection.transaction():
        change, statements = await _begin(connection, key)
    await connection.execute("select set_config('search_path', 'public, extensions', false)")
    await connection.execute("select set_config('lock_timeout', %s, false)", [f"{limits.lock_seconds * 1000:.0f}ms"])
    made: list[str] = []
    for number, statement in enumerate(statements, start=1):
        index = _index_name(statement)
        try:
            await run_one(connection, statement.sql)
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            left = await _drop_again(connection, [*made, *([index] if index and error.sqlstate != "42P07" else [])])
            raise StatementFailed(number, spoken(error, limits) + left, error.sqlstate) from error
        made += [index] if index else []
    async with connection.transaction():
        cursor = await connection.execute("select pam_private.begin_apply(%s, %s)", [key.org_id, key.id])
        if "refused" in (await cursor.fetchone() or ({},))[0]:
            log.error("the approval went while single statements ran", change=key.id)
        await _end(connection, key, change)


def _index_name(statement: GuardedStatement) -> str | None:
    """The quoted name of the index that a statement makes."""
    if not isinstance(statement.node, pg.IndexStmt):
        return None
    schema = statement.node.relation.schemaname or "public"
    return psycopg.sql.Identifier(schema, statement.node.idxname).as_string(None)


async def _drop_again(connection: Connection, names: Sequence[str]) -> str:
    """Take away what was made, and say what could not be."""
    left = []
    for name in names:
        try:
            await connection.execute(f"drop index concurrently if exists {name}".encode())
        except psycopg.Error:
            left.append(name)
    return f" The index {', '.join(left)} is left and invalid: drop it by hand." if left else ""
