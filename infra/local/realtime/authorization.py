"""Who may hear and speak on a topic: API keys and tokens, then RLS on realtime.messages with their claims.

Source of the rule: supabase/realtime `Authorization`: in a transaction that is rolled back, reading is
allowed if freshly inserted rows can be selected, writing if a row may be inserted, one per extension.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import jwt
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

_ROLES = ("anon", "authenticated", "service_role")  # what hosted's login may become
_EXTENSIONS = ("broadcast", "presence")


class TokenRefused(Exception):
    """The key or token is not accepted; the sentence begins with Realtime's error code."""


class RightsUnknown(Exception):
    """The database could not be asked; nobody is let in until it can."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified key or token. `expires_at` is in seconds since the epoch; None for an API key."""

    claims: dict[str, Any]
    expires_at: float | None

    @property
    def role(self) -> str:
        return str(self.claims["role"])


@dataclass(frozen=True, slots=True)
class Rights:
    """The extensions ("broadcast", "presence") that a caller may hear and send on one topic."""

    read: frozenset[str]
    write: frozenset[str]


EVERYTHING = Rights(frozenset(_EXTENSIONS), frozenset(_EXTENSIONS))


class Authority:
    """Verifies callers, and asks the database what they may do on a private topic."""

    def __init__(self, *, pool: AsyncConnectionPool, jwt_secret: str, publishable_key: str, secret_key: str) -> None:
        self._pool = pool
        self._jwt_secret = jwt_secret
        self._key_roles = {publishable_key: "anon", secret_key: "service_role"}

    def is_api_key(self, key: str | None) -> bool:
        return key in self._key_roles

    def verify(self, token: str) -> Caller:
        """Raises TokenRefused unless this is an API key, or an HS256 token with `role` and a live `exp`."""
        if token in self._key_roles:
            return Caller({"role": self._key_roles[token]}, None)
        if not token.isascii():
            raise TokenRefused("MalformedJWT: The token provided is not a valid JWT")
        try:
            claims = jwt.decode(
                token,
                self._jwt_secret,
                algorithms=["HS256"],
                options={"verify_aud": False, "require": ["exp", "role"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenRefused("InvalidJWTToken: Token has expired") from error
        except jwt.InvalidSignatureError as error:
            raise TokenRefused("JwtSignatureError: Failed to validate JWT signature") from error
        except jwt.MissingRequiredClaimError as error:
            raise TokenRefused("InvalidJWTToken: Fields `role` and `exp` are required in JWT") from error
        except jwt.PyJWTError as error:
            raise TokenRefused("MalformedJWT: The token provided is not a valid JWT") from error
        if claims["role"] not in _ROLES:
            raise TokenRefused(f"Unauthorized: the role of this token is none of {', '.join(_ROLES)}")
        return Caller(claims, float(claims["exp"]))

    async def rights(self, topic: str, caller: Caller) -> Rights:
        """Ask RLS. A policy that fails grants nothing. Raises RightsUnknown if the database is away."""
        try:
            async with (
                asyncio.timeout(10),
                self._pool.connection() as connection,
                connection.transaction(force_rollback=True),
            ):
                return await self._probe(connection, topic, caller)
        except (
            OSError,
            PoolTimeout,
            TimeoutError,
            psycopg.OperationalError,
            psycopg.InterfaceError,
        ) as error:
            raise RightsUnknown("DatabaseConnectionIssue: the database cannot be asked for rights") from error
        except psycopg.Error:  # a policy that raises: denied, as by the real one
            return Rights(frozenset(), frozenset())

    async def _probe(self, connection: psycopg.AsyncConnection[Any], topic: str, caller: Caller) -> Rights:
        probes = {}
        for extension in _EXTENSIONS:
            cursor = await connection.execute(
                "insert into realtime.messages (topic, extension) values (%s, %s) returning id",
                (topic, extension),
            )
            row = await cursor.fetchone()
            assert row is not None
            probes[extension] = row[0]
        await connection.execute(
            "select set_config('statement_timeout', '3s', true), set_config('realtime.topic', %s, true),"
            " set_config('request.jwt.claims', %s, true), set_config('request.jwt.claim.sub', %s, true),"
            " set_config('request.jwt.claim.role', %s, true), set_config('request.headers', '{}', true),"
            " set_config('role', %s, true)",
            (topic, json.dumps(caller.claims), str(caller.claims.get("sub") or ""), caller.role, caller.role),
        )
        read, write = set(), set()
        for extension, probe in probes.items():
            try:
                async with connection.transaction():
                    cursor = await connection.execute("select 1 from realtime.messages where id = %s", (probe,))
                    if await cursor.fetchone():
                        read.add(extension)
            except psycopg.Error as error:
                _reraise_if_disconnected(error)
            try:
                async with connection.transaction():
                    await connection.execute(
                        "insert into realtime.messages (topic, extension) values (%s, %s)", (topic, extension)
                    )
                    write.add(extension)
            except psycopg.Error as error:
                _reraise_if_disconnected(error)
        return Rights(frozenset(read), frozenset(write))


def _reraise_if_disconnected(error: psycopg.Error) -> None:
    # A refused or failing policy carries an SQLSTATE and means "no"; a lost connection carries none.
    if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
        raise error
