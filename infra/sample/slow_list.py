"""The demo's task, a list that is slow for members, and the proof on a clone that a migration cures it."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID, uuid4

import postgast
import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from infra.local.postgres import server_programs

TASK = (
    "Members say that the task list is slow: GET /tasks, the newest 50 open tasks of their projects, takes "
    "most of a second although nobody is in more than a few projects. Find out why, with figures from the "
    "database, and write the fix as one new file in supabase/migrations. Nobody may see or do more or less "
    "than before, and the service's query stays as it is."
)

# Word for word app/tasks.py of the workspace (a test compares them).
LIST_SQL: LiteralString = """
select t.id, t.title, t.priority, t.due_on, t.created_at, p.name as project
from public.tasks t
join public.projects p on p.id = t.project_id
where t.status = 'open'
order by t.created_at desc, t.id desc
limit 50
"""

POSTGRES_PROGRAMS = server_programs() / "bin"
RUNS = 5
LEAST_RATIO = 10
TIMEOUT = "60s"

# The clone shares its server with the live database, and roles, databases and settings belong to the server.
# So only statements that stay inside the clone are applied; functions and DO blocks could hide any other one.
APPLICABLE = {
    "alter_policy_stmt": "ALTER POLICY",
    "alter_table_stmt": "ALTER TABLE",
    "comment_stmt": "COMMENT",
    "create_policy_stmt": "CREATE POLICY",
    "create_stats_stmt": "CREATE STATISTICS",
    "drop_stmt": "DROP",
    "index_stmt": "CREATE INDEX",
    "reindex_stmt": "REINDEX",
    "rename_stmt": "RENAME",
    "transaction_stmt": "BEGIN and COMMIT",
    "vacuum_stmt": "ANALYZE",
    "variable_set_stmt": "SET",
}

# What a person may see and do: each probe's answer must be the same after the migration as before it.
TABLES = ("projects", "members", "invitations", "tasks", "comments", "invoices")
PROBES: dict[str, sql.SQL | sql.Composed] = {
    f"reads {table}": sql.SQL("select count(*), md5(string_agg(id::text, ',' order by id)) from {}").format(
        sql.Identifier("public", table)
    )
    for table in TABLES
} | {
    # It reads no column: else the policies for reading would narrow it and hide an open policy for changing.
    "changes tasks": sql.SQL("update public.tasks set title = 'A probe'"),
    "adds tasks to a project of others": sql.SQL(
        "insert into public.tasks (project_id, title) values (%(foreign_project)s, 'A probe')"
    ),
    "joins a project without an invitation": sql.SQL(
        "insert into public.members (project_id, user_id) values (%(foreign_project)s, %(user_id)s)"
    ),
    "takes a project as its owner": sql.SQL(
        "insert into public.members (project_id, user_id, role) values (%(open_project)s, %(user_id)s, 'owner')"
    ),
    "joins in the name of another": sql.SQL(
        "insert into public.members (project_id, user_id) values (%(open_project)s, gen_random_uuid())"
    ),
}
Reach = dict[tuple[str, str], tuple[Any, ...] | int | str]


@dataclass(frozen=True)
class Proof:
    """What the clone showed: median seconds of the list before and after, and whether the fix stands."""

    before_seconds: float
    after_seconds: float
    ratio: float
    same_rows: bool
    rows: int
    passed: bool
    reason: str


@dataclass(frozen=True)
class Measured:
    """The list of one member: its rows and its median duration."""

    rows: list[tuple[Any, ...]] = field(repr=False)
    seconds: float


class NotApplicable(Exception):
    """The migration cannot be applied to the clone; the message says why."""


async def prove(*, owner_dsn: str, admin_dsn: str, migration_sql: str, user_id: UUID) -> Proof:
    """Apply the migration to a clone of the database, and compare a member's list before and after it.

    `owner_dsn` (`postgres`) applies the migration and asks as people; `admin_dsn` (a superuser) copies the
    database. It passes if the list is not empty, has the same rows in the same order and comes ten times as
    fast, and if nobody sees or may do more or less than before. The live database is only read; the clone is
    gone at the end. Raises RuntimeError if the database cannot be copied.
    """
    try:
        statements = await asyncio.to_thread(read_statements, migration_sql)
    except NotApplicable as refusal:
        return _failed(str(refusal))
    async with (
        clone(admin_dsn=admin_dsn, database=_database(owner_dsn)) as name,
        await AsyncConnection.connect(_with_database(owner_dsn, name), autocommit=True) as owner,
    ):
        await owner.execute(f"set statement_timeout = '{TIMEOUT}'")
        await owner.execute("vacuum analyze")
        people = await _find_people(owner, user_id)
        before = await measure(owner, user_id)
        reach_before = await _find_reach(owner, people)
        try:
            await _apply(_with_database(owner_dsn, name), statements)
            await owner.execute("vacuum analyze")
            after = await measure(owner, user_id)
        except (NotApplicable, psycopg.Error) as refusal:
            return _failed(str(refusal).strip(), before=before)
        return _judge(before, after, _compare(reach_before, await _find_reach(owner, people)))


def read_statements(migration_sql: str) -> list[str]:
    """Split a migration into statements. Raises NotApplicable for one that could reach beyond the clone."""
    try:
        kinds = [statement.stmt.WhichOneof("node") for statement in postgast.parse(migration_sql).stmts]
        statements: list[str] = postgast.split(migration_sql)
    except postgast.PgQueryError as error:
        raise NotApplicable(f"The migration is not SQL: {error}.") from error
    if not statements:
        raise NotApplicable("The migration holds no statement.")
    for kind, statement in zip(kinds, statements, strict=True):
        if kind not in APPLICABLE:
            allowed = ", ".join(APPLICABLE.values())
            raise NotApplicable(f"The proof applies only {allowed}, not: {statement.strip()[:80]}")
    return statements


@asynccontextmanager
async def clone(*, admin_dsn: str, database: str) -> AsyncIterator[str]:
    """Copy a live database with pg_dump, without disturbing its users, and drop the copy at the end."""
    name = f"pam_clone_{uuid4().hex[:12]}"
    async with await AsyncConnection.connect(_with_database(admin_dsn, database), autocommit=True) as admin:
        owners = await admin.execute(
            "select pg_get_userbyid(datdba) from pg_database where datname = current_database()"
        )
        (owner,) = await owners.fetchone() or ("postgres",)
        await admin.execute(
            sql.SQL("create database {} owner {} template template0").format(
                sql.Identifier(name), sql.Identifier(owner)
            )
        )
        try:
            await _copy(_with_database(admin_dsn, database), _with_database(admin_dsn, name))
            yield name
        finally:
            await admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


async def measure(owner: AsyncConnection, user_id: UUID) -> Measured:
    """Run the list as the member, once to warm up and then RUNS times."""
    durations: list[float] = []
    rows: list[tuple[Any, ...]] = []
    for _ in range(RUNS + 1):
        async with owner.transaction(force_rollback=True):
            await _become(owner, "authenticated", user_id)
            started = time.perf_counter()
            rows = await (await owner.execute(LIST_SQL)).fetchall()
            durations.append(time.perf_counter() - started)
    return Measured(rows=rows, seconds=statistics.median(durations[1:]))


def address_program(program: str, dsn: str) -> tuple[list[str], dict[str, str]]:
    """A Postgres program's command and environment; the password goes by the latter: arguments are public."""
    parts = conninfo_to_dict(dsn)
    password = str(parts.pop("password", None) or "")
    address = make_conninfo("", **parts)
    return [str(POSTGRES_PROGRAMS / program), f"--dbname={address}"], {"PGPASSWORD": password}


async def _copy(source: str, target: str) -> None:
    """Dump the source and restore it into the empty target."""
    dump, dump_env = address_program("pg_dump", source)
    dump += ["--format=custom", "--compress=none"]
    restore, restore_env = address_program("pg_restore", target)
    restore += ["--exit-on-error", "--no-publications", "--no-subscriptions"]
    pipe = asyncio.subprocess.PIPE
    dumping = await asyncio.create_subprocess_exec(*dump, env=dump_env, stdout=pipe, stderr=pipe)
    dumped, dump_trouble = await dumping.communicate()
    if dumping.returncode:
        raise RuntimeError(f"pg_dump could not read the database: {dump_trouble.decode().strip()}")
    restoring = await asyncio.create_subprocess_exec(*restore, env=restore_env, stdin=pipe, stderr=pipe)
    _, restore_trouble = await restoring.communicate(dumped)
    if restoring.returncode:
        raise RuntimeError(f"pg_restore could not build the clone: {restore_trouble.decode().strip()}")


async def _apply(dsn: str, statements: list[str]) -> None:
    """Run each statement by itself, so that `create index concurrently` works. Raises NotApplicable."""
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(f"set statement_timeout = '{TIMEOUT}'")
        for statement in statements:
            try:
                await connection.execute(statement.encode())
            except psycopg.Error as error:
                said = error.diag.message_primary or error
                raise NotApplicable(f"The migration does not apply: {said}, in: {statement.strip()[:80]}") from error


async def _become(owner: AsyncConnection, role: LiteralString, user_id: UUID | None) -> None:
    """Be this person until the transaction ends, as PostgREST does it."""
    claims = json.dumps({"sub": str(user_id), "role": role} if user_id else {"role": role})
    await owner.execute("select set_config('request.jwt.claims', %s, true)", [claims])
    await owner.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))


async def _find_people(owner: AsyncConnection, user_id: UUID) -> dict[str, UUID | None]:
    """The member, the two others with most projects, somebody in no project, and nobody signed in."""
    others = await owner.execute(
        "select user_id from public.members where user_id <> %s group by 1 order by count(*) desc, 1 limit 2",
        [user_id],
    )
    named = {f"another member ({other})": other for (other,) in await others.fetchall()}
    return {"the member": user_id, **named, "a stranger": uuid4(), "anonymous": None}


async def _find_reach(owner: AsyncConnection, people: dict[str, UUID | None]) -> Reach:
    """What each person sees and may do. All is rolled back, also an index that only saves time."""
    reach: Reach = {}
    for person, user_id in people.items():
        projects = await owner.execute(
            """
            select min(p.id) filter (where not i.is_open) as foreign_project,
              min(p.id) filter (where i.is_open) as open_project
            from public.projects p join public.invitations i on i.project_id = p.id
            where p.id not in (select m.project_id from public.members m where m.user_id = %s)
            """,
            [user_id],
        )
        foreign_project, open_project = await projects.fetchone() or (None, None)
        parameters = {"foreign_project": foreign_project, "open_project": open_project, "user_id": user_id}
        async with owner.transaction(force_rollback=True):
            await owner.execute("create index on public.members (project_id, user_id)")
            await _become(owner, "authenticated" if user_id else "anon", user_id)
            for name, probe in PROBES.items():
                reach[person, name] = await _try(owner, probe, parameters)
    return reach


async def _try(owner: AsyncConnection, probe: sql.SQL | sql.Composed, parameters: dict[str, Any]) -> Any:
    """The probe's row or row count, or the name of the error that refused it."""
    try:
        async with owner.transaction(force_rollback=True):
            cursor = await owner.execute(probe, parameters)
            return await cursor.fetchone() if cursor.description else cursor.rowcount
    except errors.QueryCanceled:
        raise
    except psycopg.Error as refusal:
        return type(refusal).__name__


def _compare(before: Reach, after: Reach) -> str:
    """The first difference in a sentence, or nothing."""
    for (person, probe), answer in before.items():
        if after[person, probe] != answer:
            return f"It changes what {person} may do: {probe}: {answer} before, {after[person, probe]} after."
    return ""


def _judge(before: Measured, after: Measured, difference: str) -> Proof:
    ratio = before.seconds / after.seconds
    same_rows = before.rows == after.rows
    if not before.rows:
        reason = "The member's list is empty: there is nothing to compare."
    elif not same_rows:
        reason = f"The list is another one: {len(before.rows)} rows before, {len(after.rows)} after."
    elif difference:
        reason = difference
    elif ratio < LEAST_RATIO:
        reason = f"The list is {ratio:.1f} times as fast as before; {LEAST_RATIO} times were asked for."
    else:
        reason = ""
    return Proof(
        before_seconds=before.seconds,
        after_seconds=after.seconds,
        ratio=ratio,
        same_rows=same_rows,
        rows=len(after.rows),
        passed=not reason,
        reason=reason or f"The same {len(after.rows)} rows {ratio:.0f} times as fast; nobody sees or may do more.",
    )


def _failed(reason: str, before: Measured | None = None) -> Proof:
    return Proof(
        before_seconds=before.seconds if before else 0.0,
        after_seconds=0.0,
        ratio=0.0,
        same_rows=False,
        rows=0,
        passed=False,
        reason=reason,
    )


def _database(dsn: str) -> str:
    return str(conninfo_to_dict(dsn).get("dbname") or "postgres")


def _with_database(dsn: str, name: str) -> str:
    return make_conninfo(dsn, dbname=name)
