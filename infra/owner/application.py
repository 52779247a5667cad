"""Apply a change that a person approved: the approved text, on the schema it was checked against, or not at all."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg.types.json import Jsonb

from infra.owner import snapshot
from infra.owner.snapshot import Connection
from infra.owner.trial import OperatorLimits, StatementFailed, may_pass, old_relations, run_all, run_one, spoken
from workers.tools.schema_guard import GuardedStatement, as_recorded, check_change
from workers.tools.schema_names import ChangeRefused
from workers.tools.sql_functions import pg

DRIFT = (
    "The project's schema or its migration history is not what the change was checked against (somebody changed it "
    "meanwhile): check the change again."
)

_RECORDING = "It could not be recorded: "
_UNDO_LOCK_SECONDS = 5

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
    """Apply an approved change. Raises NotApplied, and psycopg.OperationalError when the connection is lost."""
    key = Key(str(change["org_id"]), str(change["id"]))
    async with await _connect(dsn) as connection:
        try:
            if any(s.is_single for s in _guarded(change)):
                await _take_up(dsn, key, change)
                await _apply_singly(connection, dsn, key, limits)
            else:
                async with connection.transaction():
                    await _apply_together(connection, key, limits)
        except StatementFailed as failed:
            raise NotApplied("checked" if failed.may_pass else "failed", f"Nothing was changed. {failed}") from failed
        except psycopg.Error as error:
            if connection.closed or error.sqlstate is None:
                raise
            raise NotApplied("failed", f"Nothing was changed. {_RECORDING}{spoken(error, limits)}") from error


async def _connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=None, connect_timeout=10, application_name="pam-operator"
    )


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
    now, history = await snapshot.take(connection), await snapshot.history(connection)
    begun = answer["report"].get("begun")
    is_same = now.without(begun["indexes"]).digest(history) == begun["rest"] if begun else False
    if not is_same and now.digest(history) != answer["base"]:
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


@dataclass(frozen=True)
class _Single:
    """A statement that cannot run in a transaction: it makes or drops an index, whose quoted name this is."""

    sql: str
    index: str
    does_make: bool


async def _apply_singly(connection: Connection, dsn: str, key: Key, limits: OperatorLimits) -> None:
    """What cannot run in a transaction, each by itself, and the history at the end; what was made goes if that fails.

    It goes too when the operator is told to stop or loses its connection: then the change is taken up again, and what
    could not be dropped is known from `begun` in its report.
    """
    async with connection.transaction():
        change, statements = await _begin(connection, key)
        singles = [await _single(connection, statement) for statement in statements]
        own = await _begin_singly(connection, key, singles)
    await connection.execute("select set_config('search_path', 'public, extensions', false)")
    await connection.execute("select set_config('lock_timeout', %s, false)", [f"{limits.lock_seconds * 1000:.0f}ms"])
    made: list[str] = []
    gone: list[str] = []
    place = ""
    try:
        for number, single in enumerate(singles, start=1):
            place = f"Statement {number}: "
            if not single.does_make and change["report"].get("begun") and not await _is_there(connection, single.index):
                continue  # dropped by the attempt that was broken off
            made += [single.index] if single.does_make else []
            await run_one(connection, single.sql)
            gone += [] if single.does_make else [single.index]
        place = _RECORDING
        async with connection.transaction():
            cursor = await connection.execute("select pam_private.begin_apply(%s, %s)", [key.org_id, key.id])
            if "refused" in (await cursor.fetchone() or ({},))[0]:
                log.error("the approval went while single statements ran", change=key.id)
            change["report"].pop("begun", None)
            await _end(connection, key, change)
    except BaseException as error:
        if isinstance(error, psycopg.errors.DuplicateTable):  # the name is taken, and not by this statement
            made = made[:-1]
        left = await asyncio.shield(_take_back(dsn, key, [index for index in made if index in own]))
        if not isinstance(error, psycopg.Error) or connection.closed or error.sqlstate is None:
            raise
        left += f" The index {', '.join(gone)} stays dropped." if gone else ""
        first = f"It was not applied.{left}" if left else "Nothing was changed."
        status = "checked" if may_pass(error.sqlstate) else "failed"
        raise NotApplied(status, f"{first} {place}{spoken(error, limits)}") from error


async def _single(connection: Connection, statement: GuardedStatement) -> _Single:
    node = statement.node
    does_make = isinstance(node, pg.IndexStmt)
    if does_make:
        schema, name = node.relation.schemaname, node.idxname
    else:
        *above, name = [part.string.sval for part in node.objects[0].list.items]
        schema = above[-1] if above else ""
    row = await (
        await connection.execute("select format('%%I.%%I', %s::text, %s::text)", [schema or "public", name])
    ).fetchone()
    assert row is not None
    return _Single(statement.sql, str(row[0]), does_make)


async def _begin_singly(connection: Connection, key: Key, singles: Sequence[_Single]) -> set[str]:
    """Note what this attempt will make, and what the schema is besides; answers the indexes that will be its own."""
    now = await snapshot.take(connection)
    indexes = sorted({single.index for single in singles})
    own = {single.index for single in singles if single.does_make and ("index", single.index) not in now.items}
    rest = now.without(indexes).digest(await snapshot.history(connection))
    await connection.execute(
        "update pam.schema_changes set report = report || %s where org_id = %s and id = %s",
        [Jsonb({"begun": {"indexes": indexes, "own": sorted(own), "rest": rest}}), key.org_id, key.id],
    )
    return own


async def _is_there(connection: Connection, index: str) -> bool:
    row = await (await connection.execute("select to_regclass(%s) is not null", [index])).fetchone()
    return bool(row and row[0])


async def _take_up(dsn: str, key: Key, change: dict[str, Any]) -> None:
    """Take back what an attempt made that was broken off. Raises NotApplied if that cannot be done yet."""
    begun = change["report"].get("begun")
    if begun and (left := await _take_back(dsn, key, begun["own"])):
        raise NotApplied("checked", f"An earlier attempt was broken off, try again later.{left}")


async def _take_back(dsn: str, key: Key, indexes: Sequence[str]) -> str:
    """Drop what an attempt made, on a connection of its own, and say what is left. What was applied after all stays."""
    left = list(indexes)
    try:
        async with await _connect(dsn) as connection:
            await connection.execute("select set_config('lock_timeout', %s, false)", [f"{_UNDO_LOCK_SECONDS}s"])
            async with connection.transaction():  # waits for a last transaction that nobody saw the end of
                await connection.execute("select pam_private.begin_apply(%s, %s)", [key.org_id, key.id])
                cursor = await connection.execute(
                    "select from pam.schema_changes where org_id = %s and id = %s and status = 'applied'",
                    [key.org_id, key.id],
                )
                if await cursor.fetchone() is not None:
                    return ""
            for index in indexes:
                await connection.execute(f"drop index concurrently if exists {index}".encode())
                left.remove(index)
    except psycopg.Error as error:
        log.error("what a change made could not be taken back", change=key.id, error=type(error).__name__)
    return f" The index {', '.join(left)} is left: if it stays, drop it by hand." if left else ""
