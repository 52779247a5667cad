"""A rebuild of the target's schema, without a row of it, on a throw-away server: changes are tried there first."""

import asyncio
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from infra.local.locks import FileLock
from infra.local.postgres import Postgres, lay_out
from infra.local.processes import ProcessFailed, free_port
from infra.owner import snapshot
from infra.owner.snapshot import Connection, Snapshot

DUMP_SECONDS = 60
_PREFIX = "pam-rebuild-"
_YOUNG = 60.0  # seconds in which a folder may not have its lock yet
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "20"}
# What a team's schema stands on, copied by its definition: who the caller is, and what PAM's mirrors ask.
_BORROWED = (
    "auth.uid()", "auth.jwt()", "auth.role()", "auth.email()",
    "pam_private.bound_uid()", "pam_private.bound_claims()", "pam_private.is_open(regclass)",
)  # fmt: skip


class RebuildFailed(Exception):
    """The schema could not be rebuilt; the sentence says why, and the change is tried on the target alone."""


class Rebuild:
    """A server of the embedded kind, started when it is first needed, and databases on it that are dropped again."""

    def __init__(self) -> None:
        self._server: Postgres | None = None
        self._folder: Path | None = None
        self._lock: FileLock | None = None
        self._programs: Path | None = None
        self._password = secrets.token_urlsafe(18)
        self._kept: tuple[str, str] | None = None
        self._count = 0

    async def close(self) -> None:
        """Stop the server and throw everything away."""
        if self._server is not None:
            await self._server.stop()
        if self._folder is not None:
            await asyncio.to_thread(_throw_away, self._folder)
        if self._lock is not None:
            self._lock.release()
        self._server = self._folder = self._lock = self._kept = None

    @asynccontextmanager
    async def database(self, target: str, wanted: Snapshot) -> AsyncIterator[str]:
        """A database whose own schemas are the target's, as its owner; dropped at the end. Raises RebuildFailed."""
        try:
            server = await self._start()
            if self._kept is None or self._kept[0] != wanted.digest():
                await self._keep(server, target, wanted)
            assert self._kept is not None
            name = await self._clone(server, self._kept[1])
        except (ProcessFailed, OSError, psycopg.Error) as error:
            raise RebuildFailed(f"the schema could not be rebuilt here ({type(error).__name__})") from error
        try:
            yield server.dsn("postgres", password=self._password, database=name)
        finally:
            await self._drop(server, name)

    async def _start(self) -> Postgres:
        """The server; a new one if there is none yet, or if it died."""
        if self._server is not None and self._server.child.process.returncode is None:
            return self._server
        await self.close()
        await asyncio.to_thread(_throw_away_what_was_left)
        self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_PREFIX))
        self._folder.chmod(0o755)
        self._lock = FileLock(file=self._folder / "lock")
        self._lock.try_exclusive()
        files = await asyncio.to_thread(lay_out, self._folder)
        self._programs = files.programs
        self._server = await Postgres.start(
            files=files, port=free_port(), log=self._folder / "postgres.log", settings=_FAST
        )
        return self._server

    async def _admin(self, server: Postgres, statement: sql.Composed | str, *, database: str = "postgres") -> None:
        async with await psycopg.AsyncConnection.connect(server.dsn(database=database), autocommit=True) as connection:
            await connection.execute(statement.encode() if isinstance(statement, str) else statement)

    async def _clone(self, server: Postgres, template: str) -> str:
        self._count += 1
        name = f"trial_{self._count}"
        await self._admin(
            server,
            sql.SQL("create database {} template {} strategy file_copy owner postgres").format(
                sql.Identifier(name), sql.Identifier(template)
            ),
        )
        return name

    async def _keep(self, server: Postgres, target: str, wanted: Snapshot) -> None:
        """Build the one schema that is kept to be cloned: the one before goes, and so does one that went wrong."""
        if self._kept is not None:
            old, self._kept = self._kept[1], None
            await self._drop(server, old)
        self._count += 1
        name = f"rebuilt_{self._count}"
        try:
            await self._build(server, target, name, wanted)
        except BaseException:
            with suppress(psycopg.Error):
                await self._drop(server, name)
            raise
        self._kept = (wanted.digest(), name)

    async def _drop(self, server: Postgres, name: str) -> None:
        await self._admin(server, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    async def _build(self, server: Postgres, target: str, name: str, wanted: Snapshot) -> None:
        """Dump the target's own schemas, restore them, and compare: what is not the same is of no use."""
        await self._admin(server, f"create database {name} template template0")
        async with await psycopg.AsyncConnection.connect(target, autocommit=True) as connection:
            roles, foundation = await _read_foundation(connection)
        await self._make_roles(server, roles)
        await self._admin(server, f"alter database {name} owner to postgres")
        for statement in foundation:
            try:
                await self._admin(server, statement, database=name)
            except psycopg.Error:
                continue  # an extension that is not here: the comparison says whether it matters
        await self._restore(server, target, name, wanted.schemas)
        async with await psycopg.AsyncConnection.connect(server.dsn(database=name), autocommit=True) as connection:
            built = await snapshot.take(connection)
        other = [key for key in {*built.items, *wanted.items} if built.items.get(key) != wanted.items.get(key)]
        if other:
            kind, first = sorted(other)[0]
            raise RebuildFailed(f"the rebuild is not the same in {len(other)} things, such as the {kind} {first}")

    async def _make_roles(self, server: Postgres, roles: list[str]) -> None:
        async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as connection:
            known = {str(r[0]) for r in await (await connection.execute("select rolname from pg_roles")).fetchall()}
            for role in [*roles, "postgres", "anon", "authenticated", "service_role"]:
                if role not in known:
                    known.add(role)
                    await connection.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
            await connection.execute(
                sql.SQL("alter role postgres login nosuperuser createrole bypassrls password {}").format(
                    sql.Literal(self._password)
                )
            )
            await connection.execute("alter role service_role bypassrls")
            await connection.execute("grant anon, authenticated, service_role to postgres with admin option")

    async def _restore(self, server: Postgres, target: str, name: str, schemas: tuple[str, ...]) -> None:
        programs = (self._programs or Path()) / "bin"
        chosen = [part for schema in schemas for part in ("--schema", f'"{schema.replace(chr(34), chr(34) * 2)}"')]
        dump = await _run(programs / "pg_dump", ["--schema-only", *chosen], target, b"")
        await _run(programs / "psql", ["-X", "-q", "-o", os.devnull], server.dsn(database=name), dump)


def _throw_away(folder: Path) -> None:
    data = lay_out(folder).data  # beside it, where the server's account cannot reach the folder
    for path in (data, folder):
        shutil.rmtree(path, ignore_errors=True)
    data.with_name(f"{data.name}.password").unlink(missing_ok=True)


def _throw_away_what_was_left() -> None:
    """The folders of operators that were killed: nobody holds their locks."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            seen = folder.lstat()
            if seen.st_uid != os.geteuid() or not stat.S_ISDIR(seen.st_mode) or time.time() - seen.st_mtime < _YOUNG:
                continue
            lock = FileLock(file=folder / "lock")
            if lock.try_exclusive():
                _throw_away(folder)
            lock.release()
        except OSError:
            continue  # somebody else was faster


async def _read_foundation(connection: Connection) -> tuple[list[str], list[str]]:
    """The target's roles, and the statements that make what its own schemas stand on."""
    rows = await (
        await connection.execute("select rolname::text from pg_catalog.pg_roles where rolname !~ '^pg_' order by 1")
    ).fetchall()
    statements = [
        "create schema auth", "create schema extensions", "create schema pam_private",
        "grant usage on schema auth, extensions to public",
        "alter schema public owner to pg_database_owner", "set check_function_bodies = off",
    ]  # fmt: skip
    extensions = await connection.execute(
        "select quote_ident(e.extname), quote_ident(n.nspname) from pg_catalog.pg_extension e"
        " join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname <> 'plpgsql'"
    )
    for extension, schema in await extensions.fetchall():
        statements += [f"create extension if not exists {extension} with schema {schema}"]
    for function in _BORROWED:
        told = await connection.execute(
            "select pg_catalog.pg_get_functiondef(f) from to_regprocedure(%s) f where f is not null", [function]
        )
        statements += [f"set check_function_bodies = off; {row[0]}" for row in await told.fetchall()]
    columns = await connection.execute(
        "select string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', '"
        " order by a.attnum)"
        " from pg_catalog.pg_attribute a where a.attrelid = to_regclass('auth.users') and a.attnum > 0"
        " and not a.attisdropped and a.atttypid < 16384"
    )
    row = await columns.fetchone()
    if row and row[0]:
        statements += [
            f"create table auth.users ({row[0]}, primary key (id))",
            "grant references on auth.users to postgres",
        ]
    announced = await connection.execute("select 1 from pg_catalog.pg_publication where pubname = 'supabase_realtime'")
    if await announced.fetchone():
        statements += ["create publication supabase_realtime"]
    return [str(role[0]) for role in rows], statements


async def _run(program: Path, arguments: list[str], dsn: str, text: bytes) -> bytes:
    """Run one of PostgreSQL's programs on a database; the password travels in the environment. Raises RebuildFailed."""
    parts: dict[str, Any] = conninfo_to_dict(dsn)
    password = str(parts.pop("password", ""))
    process = await asyncio.create_subprocess_exec(
        str(program),
        *arguments,
        f"--dbname={make_conninfo(**parts)}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"},
        cwd="/",
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(text), DUMP_SECONDS)
    except TimeoutError:
        raise RebuildFailed(f"{program.name} took longer than {DUMP_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode and program.name == "pg_dump":
        raise RebuildFailed("pg_dump could not read the schema (a newer server than this machine's programs?)")
    return out
