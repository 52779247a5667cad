"""Put PAM into a Supabase project's database, bring it up to date, and take it away without a trace."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

MIGRATIONS = Path(__file__).parent.parent / "supabase" / "migrations"
LOGINS = ("pam_worker", "pam_agent_sql", "pam_sweeper")
_LOCK = 7_203_117

Progress = Callable[[str], None]


class InstallationRefused(Exception):
    """The database is not in a state that PAM can work on; the message says what to do."""


@dataclass(frozen=True)
class Migration:
    """One file of supabase/migrations."""

    version: str
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The digest that the history keeps, so that an edited file is noticed."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """All migrations in order."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        version, _, name = path.stem.partition("_")
        found.append(Migration(version, name, path.read_text()))
    return found


async def _applied(connection: psycopg.AsyncConnection) -> dict[str, str] | None:
    """Versions and digests of PAM's own history; None when PAM is not there."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "select to_regnamespace('pam') is not null, to_regclass('pam_private.migrations') is not null"
        )
        has_schema, has_history = await cursor.fetchone() or (False, False)
        if not has_schema:
            return None
        if not has_history:
            raise InstallationRefused(
                "this database has a schema `pam` that is not PAM's: rename it, or choose another database"
            )
        await cursor.execute("select version, sha256 from pam_private.migrations")
        return {str(version): str(digest) for version, digest in await cursor.fetchall()}


async def install(
    dsn: str, *, migrations: list[Migration] | None = None, progress: Progress = lambda line: None
) -> list[str]:
    """Apply what is missing, each migration in a transaction of its own; answers the versions applied.

    Installing and upgrading are the same act, safe to repeat. A project whose migrations came by the Supabase CLI is
    adopted: its history says what is there. Raises InstallationRefused when an applied file was edited.
    """
    migrations = read_migrations() if migrations is None else migrations
    done: list[str] = []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await _take_turn(connection)
        await _check_platform(connection)
        applied = await _applied(connection)
        if applied is not None:
            applied |= await _adopt(connection, [m for m in migrations if m.version not in applied])
        for migration in migrations:
            recorded = (applied or {}).get(migration.version)
            if recorded == migration.sha256:
                continue
            if recorded is not None:
                raise InstallationRefused(
                    f"migration {migration.version} was applied with another text: a landed migration is never edited, "
                    "restore the file or write a new migration (on the embedded stack --fresh starts over)"
                )
            progress(f"{migration.version} {migration.name.replace('_', ' ')}")
            try:
                async with connection.transaction():
                    await connection.execute("set local search_path = ''")
                    await connection.execute(migration.text.encode())
                    await _record(connection, migration)
            except psycopg.Error as error:
                raise InstallationRefused(
                    f"migration {migration.version} failed and was rolled back: {error}"
                ) from error
            done.append(migration.version)
    return done


async def _take_turn(connection: psycopg.AsyncConnection) -> None:
    """One installation at a time. Raises InstallationRefused after half a minute."""
    for _ in range(60):
        row = await (await connection.execute("select pg_try_advisory_lock(%s)", [_LOCK])).fetchone()
        if row and row[0]:
            return
        await asyncio.sleep(0.5)
    raise InstallationRefused(
        "another installation holds this database (or a transaction pooler kept its lock): use the direct connection"
    )


async def _check_platform(connection: psycopg.AsyncConnection) -> None:
    """PAM stands on Auth and Realtime: say so before half of it is installed."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "select exists (select from pg_catalog.pg_proc"
            " where pronamespace::regnamespace::text = 'auth' and proname = 'uid'),"
            " exists (select from pg_catalog.pg_class"
            " where relnamespace::regnamespace::text = 'realtime' and relname = 'messages'),"
            " (select rolcreaterole or rolsuper from pg_catalog.pg_roles where rolname = current_user)"
        )
        row = await cursor.fetchone()
    has_auth, has_realtime, may_create_roles = row or (False, False, False)
    if not (has_auth and has_realtime):
        raise InstallationRefused("this is no Supabase project's database: schema auth or realtime is missing")
    if not may_create_roles:
        raise InstallationRefused("this login may not create roles: connect as `postgres`, the project's owner")


async def _record(connection: psycopg.AsyncConnection, migration: Migration) -> None:
    await connection.execute(
        "insert into pam_private.migrations (version, name, sha256) values (%s, %s, %s)",
        [migration.version, migration.name, migration.sha256],
    )


async def _has_cli_history(connection: psycopg.AsyncConnection) -> bool:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("select to_regclass('supabase_migrations.schema_migrations') is not null")
        row = await cursor.fetchone()
    return bool(row and row[0])


async def _adopt(connection: psycopg.AsyncConnection, migrations: list[Migration]) -> dict[str, str]:
    """Take over the history of a project where the Supabase CLI applied PAM's migrations."""
    known: set[str] = set()
    if await _has_cli_history(connection):
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute("select version from supabase_migrations.schema_migrations")
            known = {str(version) for (version,) in await cursor.fetchall()}
    async with connection.transaction():
        for migration in migrations:
            if migration.version in known:
                await _record(connection, migration)
    return {m.version: m.sha256 for m in migrations if m.version in known}


async def set_webhook(dsn: str, *, url: str, secret: str) -> None:
    """Tell the database where queued runs are announced, and with which key."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for name, value in (("webhook_url", url), ("webhook_secret", secret)):
            await connection.execute(
                "insert into pam_private.settings (name, value) values (%s, %s)"
                " on conflict (name) do update set value = excluded.value",
                [name, value],
            )


async def read_settings(dsn: str) -> dict[str, str]:
    """What PAM was told about its surroundings."""
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=tuple_row) as connection:
        rows = await (await connection.execute("select name, value from pam_private.settings")).fetchall()
    return {str(name): str(value) for name, value in rows}


async def set_passwords(dsn: str, passwords: dict[str, str] | None = None) -> dict[str, str]:
    """Give PAM's logins their passwords (new ones unless given); answers login → password."""
    chosen = passwords or {login: secrets.token_urlsafe(24) for login in LOGINS}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for login, password in chosen.items():
            # A verifier instead of the password, as psql's \password sends it: servers log DDL.
            verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
            await connection.execute(
                sql.SQL("alter role {} password {}").format(sql.Identifier(login), sql.Literal(verifier))
            )
        await connection.execute(
            "insert into pam_private.settings (name, value) values ('logins_made_at', now()::text)"
            " on conflict (name) do update set value = excluded.value"
        )
    return chosen


# What a team built on PAM's tables, functions and types: views, foreign keys, columns, policies.
_DEPENDANTS = """
with ours as (select oid from pg_catalog.pg_namespace where nspname in ('pam', 'pam_worker', 'pam_private')),
stones as (
  select 'pg_catalog.pg_class'::regclass as class, c.oid
    from pg_catalog.pg_class c where c.relnamespace in (select oid from ours)
  union all select 'pg_catalog.pg_proc'::regclass, f.oid
    from pg_catalog.pg_proc f where f.pronamespace in (select oid from ours)
  union all select 'pg_catalog.pg_type'::regclass, y.oid
    from pg_catalog.pg_type y where y.typnamespace in (select oid from ours))
select distinct pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
  from pg_catalog.pg_depend d join stones s on s.class = d.refclassid and s.oid = d.refobjid
  left join pg_catalog.pg_rewrite w on d.classid = 'pg_catalog.pg_rewrite'::regclass and w.oid = d.objid
  left join pg_catalog.pg_constraint k on d.classid = 'pg_catalog.pg_constraint'::regclass and k.oid = d.objid
  left join pg_catalog.pg_policy p on d.classid = 'pg_catalog.pg_policy'::regclass and p.oid = d.objid
  left join pg_catalog.pg_trigger t on d.classid = 'pg_catalog.pg_trigger'::regclass and t.oid = d.objid
  left join pg_catalog.pg_class c on c.oid = coalesce(
    w.ev_class, k.conrelid, p.polrelid, t.tgrelid,
    case when d.classid = 'pg_catalog.pg_class'::regclass then d.objid end)
 where d.deptype = 'n' and c.relnamespace not in (select oid from ours)
"""


async def uninstall(dsn: str) -> list[str]:
    """Take PAM away: its schemas, its policies on opened tables and on Realtime, its roles where nobody else uses them.

    Answers what could not be removed, one sentence each.
    """
    left: list[str] = []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await _take_turn(connection)
        if await _applied(connection) is None:
            return left
        async with connection.transaction():
            await connection.execute("select pam.close_to_agent(o.table_id) from pam_private.opened_tables o")
            await connection.execute(
                "select pam.close_function_to_agent(o.function_id) from pam_private.opened_functions o"
            )
            await connection.execute(
                "do $$ declare p text; begin for p in select distinct o.polname from pg_catalog.pg_policy o"
                " join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = o.oid"
                " and d.refclassid = 'pg_catalog.pg_proc'::regclass"
                " join pg_catalog.pg_proc f on f.oid = d.refobjid and f.pronamespace = 'pam_private'::regnamespace"
                " where o.polrelid = 'realtime.messages'::regclass and o.polname like 'pam: %' loop"
                " execute format('drop policy %I on realtime.messages', p); end loop; end $$"
            )
            rows = await (await connection.execute(_DEPENDANTS)).fetchall()
            if rows:
                names = ", ".join(str(row[0]) for row in rows[:8])
                raise InstallationRefused(
                    f"objects of yours stand on PAM's and would go with it, drop them first: {names}"
                )
            await connection.execute("drop schema pam, pam_worker, pam_private cascade")
            await connection.execute(
                "do $$ declare s text; begin for s in select n.nspname from pg_catalog.pg_namespace n,"
                " lateral aclexplode(n.nspacl) a where a.grantee = 'pam_agent'::regrole loop"
                " execute format('revoke usage on schema %I from pam_agent', s); end loop; end $$"
            )
            if await _has_cli_history(connection):
                await connection.execute(
                    "delete from supabase_migrations.schema_migrations"
                    " where version = any(%s) and name like 'pam\\_%%'",
                    [[migration.version for migration in read_migrations()]],
                )
        for role in (*LOGINS, "pam_agent"):
            try:
                await connection.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))
            except psycopg.errors.DependentObjectsStillExist:
                left.append(f"role {role} stays: another database of this cluster uses it")
    return left
