"""The workers' gateway: verbs of pam_worker over psycopg, on the login that may execute them and nothing else."""

import asyncio
import select
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from workers.kernel.errors import AccessRevoked, FenceLost, Refused, Unavailable

Json = Any  # what jsonb holds

# A connection that died in silence is noticed within half a minute, not after hours.
WATCHFUL = {
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_TRANSIENT = ("40001", "40P01")
_AWAY = ("57P01", "57P02", "57P03", "08000", "08003", "08006", "25006", "53100", "53200", "53300")


class WorkerGateway:
    """A small pool of connections; one call is one transaction."""

    def __init__(self, *, dsn: str, max_connections: int = 4) -> None:
        # prepare_threshold=None: a transaction pooler does not keep prepared statements.
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=max_connections,
            open=False,
            timeout=10,
            check=_check,
            kwargs={"autocommit": True, "prepare_threshold": None, "application_name": "pam-worker", **WATCHFUL},
        )

    async def open(self) -> None:
        """Connect. Raises Unavailable when the database does not answer within 10 s."""
        try:
            await self._pool.open(wait=True, timeout=10)
        except PoolTimeout as error:
            raise Unavailable("the database did not answer within 10 s: check PAM_DATABASE_URL") from error

    async def close(self) -> None:
        """Return every connection."""
        await self._pool.close()

    async def call(self, verb: str, **arguments: Json) -> Json:
        """Call pam_worker.<verb> by named arguments and answer its jsonb.

        Raises Refused, FenceLost, AccessRevoked, or Unavailable after short retries.
        """
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        statement = f"select pam_worker.{verb}({names})"
        # A list or dict travels as jsonb, a tuple as an array.
        bound = {
            name: Jsonb(value)
            if isinstance(value, (dict, list))
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in arguments.items()
        }
        for attempt in range(3):
            try:
                async with self._pool.connection() as connection:
                    row = await (await connection.execute(statement.encode(), bound)).fetchone()
                break
            except psycopg.Error as error:
                failure = _translated(verb, error)
                if attempt == 2 or error.sqlstate not in _TRANSIENT:
                    raise failure from error
                await asyncio.sleep(0.02 * 2**attempt)
        answer = row[0] if row else None
        if isinstance(answer, dict) and "refused" in answer:
            raise Refused(answer["refused"]["code"], answer["refused"]["message"])
        return answer


async def _check(connection: psycopg.AsyncConnection[Any]) -> None:
    """Ask the server whether it is there only where the socket holds something: a server that leaves says so.

    To ask each time is a round trip more for every verb. A server that falls silent is found out by the verb itself,
    after as long as the question would have waited.
    """
    unread = select.poll()
    unread.register(connection.fileno(), select.POLLIN)
    if unread.poll(0):
        await AsyncConnectionPool.check_connection(connection)


def _translated(verb: str, error: psycopg.Error) -> Exception:
    """The database's word for it in ours; nothing of a row's content gets into the message."""
    match error.sqlstate:
        case "PM002":
            return FenceLost(error.diag.message_primary or "the fence is old")
        case "PM003":
            return AccessRevoked(error.diag.message_primary or "the asker lost access")
        case state if (
            state is None or state in _TRANSIENT or state in _AWAY or isinstance(error, psycopg.OperationalError)
        ):
            return Unavailable(f"the database did not carry out {verb}: {type(error).__name__}")
        case _:
            return error
