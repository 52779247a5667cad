"""Databases for one test each, cloned from a template, and people and logins that ask them."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from infra import installation
from infra.cli.setting import home
from infra.local.facts import StackFacts
from infra.local.lite import Lite
from infra.local.stack import HERE, ROOT
from workers.tools import CARD_TOOLS

DEFINITION = {
    "instructions": "You do backend engineering.",
    "tools": list(CARD_TOOLS),
    "conduct_tools": ["ask_person"],
}


def on_database(dsn: str, name: str) -> str:
    """The same login on another database of the server."""
    parts = conninfo_to_dict(dsn)
    return make_conninfo(**{**parts, "dbname": name})


async def prepare_platform(admin_dsn: str, home: Path) -> None:
    """What a hosted project has before PAM comes, in the database that the DSN names."""
    auth_schema = await Lite(home=home).auth_schema()
    async with await psycopg.AsyncConnection.connect(admin_dsn, autocommit=True) as connection:
        for text in ((HERE / "platform.sql").read_text(), auth_schema, (HERE / "platform_after_auth.sql").read_text()):
            await connection.execute(text.encode())


@dataclass(frozen=True)
class Database:
    """One database: DSNs for who is who, and shorthands that read well in a test."""

    admin_dsn: str
    owner_dsn: str
    worker_dsn: str
    agent_dsn: str
    sweeper_dsn: str

    async def admin(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Ask as the superuser."""
        return await _ask(self.admin_dsn, statement, values)

    async def owner(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Ask as `postgres`, the project's owner."""
        return await _ask(self.owner_dsn, statement, values)

    async def worker(self, verb: str, /, **arguments: Any) -> Any:
        """Call pam_worker.<verb> on the worker's login."""
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        bound = {  # as WorkerGateway sends them: a tuple is an array
            k: Jsonb(v) if isinstance(v, (dict, list)) else list(v) if isinstance(v, tuple) else v
            for k, v in arguments.items()
        }
        async with await psycopg.AsyncConnection.connect(self.worker_dsn, autocommit=True) as connection:
            row = await (await connection.execute(f"select pam_worker.{verb}({names})".encode(), bound)).fetchone()
        return row[0] if row else None

    @asynccontextmanager
    async def person(
        self, user_id: UUID | None, *, role: str = "authenticated", **claims: Any
    ) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
        """A transaction as PostgREST opens it for this person; it is committed at the end."""
        async with await psycopg.AsyncConnection.connect(self.owner_dsn, row_factory=dict_row) as connection:
            told = {**({"sub": str(user_id), "role": role} if user_id else {"role": role}), **claims}
            await connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(told)])
            await connection.execute(f"set local role {role}".encode())
            yield connection

    async def rpc(self, user_id: UUID | None, function: str, /, **arguments: Any) -> Any:
        """Call pam.<function> as this person."""
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        bound = {k: Jsonb(v) if isinstance(v, (dict, list)) else v for k, v in arguments.items()}
        async with self.person(user_id) as connection:
            row = await (
                await connection.execute(f"select pam.{function}({names}) as answer".encode(), bound)
            ).fetchone()
        return row["answer"] if row else None

    async def until_blocked(self, task: "asyncio.Task[Any]", by: int) -> None:
        """Wait until somebody waits for the connection with this number, or the task is done without having waited."""
        async with asyncio.timeout(10):
            while not task.done() and not await self.admin(
                "select 1 from pg_stat_activity where %s = any (pg_blocking_pids(pid))", by
            ):
                await asyncio.sleep(0.01)

    async def new_person(self) -> UUID:
        """Somebody with an account."""
        user_id = uuid4()
        await self.admin(
            "insert into auth.users (id, email, raw_app_meta_data, raw_user_meta_data) values (%s, %s, '{}', '{}')",
            user_id,
            f"{user_id}@example.com",
        )
        return user_id

    async def new_organization(self, owner: UUID | None = None) -> tuple[UUID, UUID]:
        """An organisation with its owner and the agent `engineer`: (owner, organisation)."""
        owner = owner or await self.new_person()
        org = UUID((await self.rpc(owner, "create_organization", name="Team"))["org_id"])
        answer = await self.rpc(
            owner, "import_agent", org_id=org, name="engineer", definition=DEFINITION, source="# card"
        )
        assert "refused" not in answer, answer
        return owner, org

    async def new_member(self, org: UUID, role: str) -> UUID:
        """A person with this role in the organisation."""
        user_id = await self.new_person()
        await self.admin("insert into pam.members (org_id, user_id, role) values (%s, %s, %s)", org, user_id, role)
        return user_id

    async def new_run(self, user_id: UUID, org: UUID, message: str = "Look around.", **arguments: Any) -> UUID:
        """A queued run of the agent `engineer`."""
        answer = await self.rpc(user_id, "start_run", org_id=org, agent="engineer", message=message, **arguments)
        assert "run_id" in answer, answer
        return UUID(answer["run_id"])

    async def claimed(self, run: UUID, *, worker: str = "w1", lease_seconds: int = 30) -> int:
        """Claim the run at its present turn; answers the fence."""
        turn = (await self.admin("select turn from pam.runs where id = %s", run))[0]["turn"]
        answer = await self.worker("claim_run", run_id=run, turn=turn, worker=worker, lease_seconds=lease_seconds)
        assert "fence" in answer, answer
        return int(answer["fence"])


async def _ask(dsn: str, statement: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        cursor = await connection.execute(statement.encode(), values or None)
        return await cursor.fetchall() if cursor.description else []


_numbers = itertools.count(1)


class Template:
    """A prepared database that nobody is connected to, so that it can be cloned in some 50 ms."""

    def __init__(self, *, facts: StackFacts, name: str) -> None:
        self._facts = facts
        self._name = name
        self._turn = asyncio.Lock()
        self._made = 0

    @classmethod
    async def make(
        cls, facts: StackFacts, *, name: str = "pam_template", with_pam: bool = True, with_sample: bool = True
    ) -> "Template":
        """Prepare a new database: the platform, and PAM and the sample if wanted.

        `pam test --mutations` prepares such databases once, PAM_TEST_BASE_bare and PAM_TEST_BASE_sample, and takes a
        guard out of each copy with the statements of PAM_TEST_MUTATION.
        """
        name = f"{name}_{os.getpid()}_{next(_numbers)}"
        if with_pam and (base := os.environ.get("PAM_TEST_BASE")):
            source = f"{base}_{'sample' if with_sample else 'bare'}"
            await _ask(facts.admin_dsn, f"create database {name} template {source} strategy file_copy", ())
            await _ask(on_database(facts.admin_dsn, name), os.environ.get("PAM_TEST_MUTATION", ""), ())
            return cls(facts=facts, name=name)
        await _ask(facts.admin_dsn, f"create database {name} template template0", ())
        await prepare_platform(on_database(facts.admin_dsn, name), home())
        owner = on_database(facts.owner_dsn, name)
        if with_pam:
            await installation.install(owner)
        if with_sample:
            await _ask(owner, (ROOT / "supabase" / "seed.sql").read_text(), ())
        return cls(facts=facts, name=name)

    @asynccontextmanager
    async def clone(self) -> AsyncIterator[Database]:
        """A copy for one test, dropped at its end."""
        async with self._turn:
            self._made += 1
            name = f"{self._name}_{self._made}"
            await _ask(self._facts.admin_dsn, f"create database {name} template {self._name} strategy file_copy", ())
            await _ask(self._facts.admin_dsn, f"alter database {name} owner to postgres", ())
        facts = self._facts
        try:
            yield Database(
                admin_dsn=on_database(facts.admin_dsn, name),
                owner_dsn=on_database(facts.owner_dsn, name),
                worker_dsn=on_database(facts.worker_dsn, name),
                agent_dsn=on_database(facts.agent_dsn, name),
                sweeper_dsn=on_database(facts.sweeper_dsn, name),
            )
        finally:
            await _ask(facts.admin_dsn, f"drop database {name} with (force)", ())
