"""The operator at work: one at a time on a database, it waits for changes to check and to apply."""

import asyncio
from typing import Any

import psycopg
import structlog
from psycopg.types.json import Jsonb

from infra.owner import application, check
from infra.owner.application import NotApplied
from infra.owner.rebuild import Rebuild
from infra.owner.snapshot import Connection
from infra.owner.trial import OperatorLimits

_LOCK = 7_063_117_005
BEAT_SECONDS = 5.0
_LOST = "The connection was lost while it was being applied: call apply again."
_BROKE = "Applying it broke inside PAM: propose it in parts."

log = structlog.get_logger()


class Operator:
    """Holds the owner's connection. `rebuild` is None where there is no embedded PostgreSQL.

    `was_ready`: whether it came to work since it last began.
    """

    def __init__(self, *, dsn: str, rebuild: Rebuild | None, limits: OperatorLimits | None = None) -> None:
        self._dsn = dsn
        self._rebuild = rebuild
        self._limits = limits or OperatorLimits()
        self.was_ready = False

    async def work(self, until: asyncio.Event) -> None:
        """Check and apply until told to stop. Raises psycopg.Error when the database goes away."""
        self.was_ready = False
        connection: Connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, prepare_threshold=None, connect_timeout=10, application_name="pam-operator"
        )
        async with connection:
            if not await self._is_alone(connection, until):
                return
            await connection.execute("listen pam_operator")
            self.was_ready = True
            log.info("operator ready", has_rebuild=self._rebuild is not None)
            while not until.is_set():
                await connection.execute("select pam_private.operator_beat()")
                change = await self._take(connection)
                if change is not None:
                    await self._beside(connection, until, change)
                    continue
                await self._wait(connection, until)

    async def _is_alone(self, connection: Connection, until: asyncio.Event) -> bool:
        """Wait until no other operator is there."""
        said = False
        while not until.is_set():
            row = await (await connection.execute("select pg_try_advisory_lock(%s)", [_LOCK])).fetchone()
            if row and row[0]:
                return True
            if not said:
                log.info("another operator is at work, waiting for its place")
                said = True
            await _is_set_within(until, BEAT_SECONDS)
        return False

    async def _take(self, connection: Connection) -> dict[str, Any] | None:
        row = await (await connection.execute("select pam_private.take_change()")).fetchone()
        return row[0] if row else None

    async def _wait(self, connection: Connection, until: asyncio.Event) -> None:
        """Until a change is announced, the beat is due, or it is time to leave."""
        stop = asyncio.create_task(until.wait())
        heard = asyncio.create_task(_first_notice(connection))
        try:
            await asyncio.wait((stop, heard), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stop, heard):
                task.cancel()
            await asyncio.gather(stop, heard, return_exceptions=True)
        if heard.done() and not heard.cancelled() and (error := heard.exception()):
            raise error

    async def _beside(self, connection: Connection, until: asyncio.Event, change: dict[str, Any]) -> None:
        """Do one change, beating all the while. Told to stop, break it off: its transaction goes with it."""
        task = asyncio.create_task(self.do(connection, change))
        stop = asyncio.create_task(until.wait())
        try:
            while not task.done() and not stop.done():
                await asyncio.wait((task, stop), timeout=BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    await connection.execute("select pam_private.operator_beat()")
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()):
            raise error

    async def do(self, connection: Connection, change: dict[str, Any]) -> None:
        """Check or apply one change, and write down how it went."""
        if change["status"] == "applying":
            await self._apply(connection, change)
        else:
            try:
                outcome = await check.check(change, dsn=self._dsn, rebuild=self._rebuild, limits=self._limits)
            except Exception as error:  # a change that breaks the check must not hold up all others for ever
                log.error("check broke", change=change["id"], error=type(error).__name__)
                outcome = check.Outcome(
                    "refused", None, {"places": []}, "The check broke inside PAM: propose it in parts."
                )
            await connection.execute(
                "select pam_private.report_check(%s, %s, %s, %s, %s, %s)",
                [change["org_id"], change["id"], outcome.status, outcome.base, Jsonb(outcome.report), outcome.failure],
            )
            log.info("change checked", change=change["id"], status=outcome.status)

    async def _apply(self, connection: Connection, change: dict[str, Any]) -> None:
        try:
            await application.apply(change, dsn=self._dsn, limits=self._limits)
            log.info("change applied", change=change["id"], version=change["version"])
        except NotApplied as refusal:
            await self._not_applied(connection, change, refusal)
        except Exception as error:  # a change that breaks the operator must not hold up all others for ever
            log.error("application broke", change=change["id"], error=type(error).__name__)
            was_lost = isinstance(error, psycopg.OperationalError)
            broken = NotApplied("checked", _LOST) if was_lost else NotApplied("failed", _BROKE)
            await self._not_applied(connection, change, broken)  # raises if the whole database went away

    async def _not_applied(self, connection: Connection, change: dict[str, Any], refusal: NotApplied) -> None:
        await connection.execute(
            "select pam_private.fail_apply(%s, %s, %s, %s)",
            [change["org_id"], change["id"], refusal.status, str(refusal)],
        )
        log.warning("change not applied", change=change["id"], status=refusal.status)


async def _first_notice(connection: Connection) -> None:
    async for _ in connection.notifies(timeout=BEAT_SECONDS, stop_after=1):
        return


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
