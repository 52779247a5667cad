"""Mutations found in the database's own catalogue: policies, row-level security, grants, triggers, unique indexes."""

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from infra.mutations.mutation import Mutation, SqlChange

POLICIES = ("tests/database/test_catalogue.py", "tests/database/test_policies.py")
UNIQUE = tuple(
    f"tests/database/test_{name}.py" for name in ("doors", "files", "verbs", "neighbours", "schema_changes", "jobs")
)
TRIGGERS = tuple(
    f"tests/database/test_{name}.py"
    for name in (
        "organizations",
        "verbs",
        "doorbell",
        "schema_changes",
        "consent",
        "approvals",
        "jobs",
        "parked",
        "conversations",
        "budgets",
    )
)

_POLICIES: LiteralString = """
  select schemaname, tablename, policyname, cmd from pg_catalog.pg_policies
   where schemaname like 'pam%' or (schemaname = 'realtime' and policyname like 'pam: %') order by 1, 2, 3"""
_TABLES: LiteralString = """
  select relnamespace::regnamespace::text as schemaname, relname::text as tablename from pg_catalog.pg_class
   where relkind in ('r', 'p') and relnamespace::regnamespace::text like 'pam%' order by 1, 2"""
_FUNCTIONS: LiteralString = """
  select oid::regprocedure::text as signature from pg_catalog.pg_proc
   where pronamespace::regnamespace::text = %s order by 1"""
_GRANTS: LiteralString = """
  select p.oid::regprocedure::text as signature, a.grantee::regrole::text as role
    from pg_catalog.pg_proc p, lateral pg_catalog.aclexplode(p.proacl) a
   where p.pronamespace::regnamespace::text like 'pam%' and a.grantee <> p.proowner and a.grantee <> 0 order by 1, 2"""
_SELECTS: LiteralString = """
  select c.oid::regclass::text as tablename, a.grantee::regrole::text as role
    from pg_catalog.pg_class c, lateral pg_catalog.aclexplode(c.relacl) a
   where c.relnamespace = 'pam'::regnamespace and c.relkind in ('r', 'p') and a.grantee <> c.relowner order by 1, 2"""
_TRIGGERS: LiteralString = """
  select tgname::text as triggername, tgrelid::regclass::text as tablename from pg_catalog.pg_trigger
   where not tgisinternal and tgrelid in (select oid from pg_catalog.pg_class where relnamespace = 'pam'::regnamespace)
   order by 2, 1"""
_UNIQUE: LiteralString = """
  select i.indexrelid::regclass::text as indexname from pg_catalog.pg_index i
    join pg_catalog.pg_class c on c.oid = i.indrelid
   where c.relnamespace = 'pam'::regnamespace and i.indisunique
     and not exists (select from pg_catalog.pg_constraint k where k.conindid = i.indexrelid) order by 1"""


async def found(dsn: str) -> list[Mutation]:
    """Every mutation that a database where PAM is installed tells of."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=psycopg.rows.dict_row) as asked:

        async def rows(query: LiteralString, *values: Any) -> list[dict[str, Any]]:
            return await (await asked.execute(query, values or None)).fetchall()

        return [
            *_policies(await rows(_POLICIES)),
            *_tables(await rows(_TABLES)),
            *_worker_verbs(await rows(_FUNCTIONS, "pam_worker")),
            *_private_functions(await rows(_FUNCTIONS, "pam_private")),
            *_revoked(await rows(_GRANTS), await rows(_SELECTS)),
            *_triggers(await rows(_TRIGGERS)),
            *_unique(await rows(_UNIQUE)),
        ]


def _said(template: str, **names: str) -> SqlChange:
    """The statement with names quoted; {!raw} parts come from the catalogue's own regclass or regprocedure text."""
    quoted = {key: sql.Identifier(name).as_string() for key, name in names.items()}
    return SqlChange(template.format(**quoted))


def _policies(rows: list[dict[str, Any]]) -> Iterator[Mutation]:
    for row in rows:
        table, policy = f"{row['schemaname']}.{row['tablename']}", str(row["policyname"])
        names = {"s": str(row["schemaname"]), "t": str(row["tablename"]), "p": policy}
        told = f"{table}: {policy}" if row["schemaname"] == "realtime" else table
        open_to_all = "with check (true)" if row["cmd"] == "INSERT" else "using (true)"
        yield Mutation(f"policy dropped: {told}", _said("drop policy {p} on {s}.{t}", **names), POLICIES)
        yield Mutation(
            f"policy widened: {told}", _said(f"alter policy {{p}} on {{s}}.{{t}} {open_to_all}", **names), POLICIES
        )
        yield Mutation(f"policy for all: {told}", _said("alter policy {p} on {s}.{t} to public", **names), POLICIES)


def _tables(rows: list[dict[str, Any]]) -> Iterator[Mutation]:
    for row in rows:
        table, names = f"{row['schemaname']}.{row['tablename']}", {"s": row["schemaname"], "t": row["tablename"]}
        for word in ("disable", "no force"):
            change = _said(f"alter table {{s}}.{{t}} {word} row level security", **names)
            yield Mutation(f"{word} RLS: {table}", change, POLICIES)
        change = _said(
            "grant usage on schema {s} to authenticated;"
            " grant insert, update, delete, truncate on {s}.{t} to authenticated",
            **names,
        )
        yield Mutation(f"writes granted: {table}", change, POLICIES)


def _worker_verbs(rows: list[dict[str, Any]]) -> Iterator[Mutation]:
    for row in rows:
        verb = str(row["signature"])
        change = SqlChange(
            f"grant usage on schema pam_worker to authenticated; grant execute on function {verb} to authenticated"
        )
        yield Mutation(f"verb granted to browsers: {verb}", change, POLICIES)


def _private_functions(rows: list[dict[str, Any]]) -> Iterator[Mutation]:
    for row in rows:
        function = str(row["signature"])
        yield Mutation(
            f"granted to everybody: {function}", SqlChange(f"grant execute on function {function} to public"), POLICIES
        )


def _revoked(functions: list[dict[str, Any]], tables: list[dict[str, Any]]) -> Iterator[Mutation]:
    for row in functions:
        function, role = str(row["signature"]), str(row["role"])
        change = SqlChange(f"revoke execute on function {function} from {role}")
        yield Mutation(f"revoked from {role}: {function}", change, POLICIES)
    for row in tables:
        table, role = str(row["tablename"]), str(row["role"])
        yield Mutation(
            f"revoked from {role}: {table}",
            SqlChange(f"revoke select on {table} from {role}"),  # noqa: S608 - names of the catalogue
            POLICIES,
        )


def _triggers(rows: list[dict[str, Any]]) -> Iterator[Mutation]:
    for row in rows:
        trigger, table = str(row["triggername"]), str(row["tablename"])
        change = _said(f"drop trigger {{trigger}} on {table}", trigger=trigger)
        yield Mutation(f"trigger dropped: {table}, {trigger}", change, TRIGGERS)


def _unique(rows: list[dict[str, Any]]) -> Iterator[Mutation]:
    for row in rows:
        index = str(row["indexname"])
        yield Mutation(f"unique index dropped: {index}", SqlChange(f"drop index {index}"), UNIQUE)
