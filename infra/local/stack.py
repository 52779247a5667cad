"""The embedded stack, composed: what starts in which order, on which ports, with which secrets."""

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import structlog

from infra import installation
from infra.local.facts import KEY_FILE, ModelChoice, Secrets, StackFacts, write_private
from infra.local.lite import Lite
from infra.local.postgres import Postgres, lay_out
from infra.local.processes import Child, ProcessFailed, answers_on, free_port
from infra.local.redis import start_redis
from workers.kernel.key_file import LocalKeyRing

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SEED = ROOT / "supabase" / "seed.sql"
SAMPLE_TABLES = ("members", "projects", "tasks", "comments", "invoices")
_PORTS = ("gateway", "postgres", "redis", "lite", "functions", "rehearsal")

Progress = Callable[[str], None]
log = structlog.get_logger()


@dataclass(frozen=True)
class StackOptions:
    """Where the stack keeps its state, and how it works."""

    state: Path
    home: Path
    model: ModelChoice | None
    scripts: tuple[Path, ...] = ()
    workers: int = 1
    postgres_settings: tuple[tuple[str, str], ...] = ()
    worker_environment: tuple[tuple[str, str], ...] = ()


def worker_environment(facts: StackFacts, *, model_key: str) -> dict[str, str]:
    """What a worker of this stack must know, and nothing that it need not."""
    kept = facts.environment()
    for name in ("PAM_WEBHOOK_SECRET", "SUPABASE_JWT_SECRET", "PAM_SWEEPER_DATABASE_URL"):
        del kept[name]
    return {
        **kept,
        "PAM_OUTBOUND_LOOPBACK": "1",  # this machine is the only world that the stack has
        "PAM_MODEL": facts.model,
        "OPENAI_API_KEY": model_key,
        "OPENAI_BASE_URL": facts.model_url,
        "PAM_KEY_FILE": facts.key_file,
    }


class Stack:
    """Starts, watches and stops the processes."""

    def __init__(self, *, options: StackOptions, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._state = options.state
        self._logs = options.state / "logs"
        self._secrets = Secrets.keep(options.state / "secrets.json")
        LocalKeyRing.make_file(options.state / KEY_FILE)
        self._lite = Lite(home=options.home)
        self._children: dict[str, Child] = {}
        self._starters: dict[str, Callable[[], Coroutine[Any, Any, Child]]] = {}
        self._ports = self._choose_ports()
        self._server: Postgres | None = None

    def _choose_ports(self) -> dict[str, int]:
        """Last time's ports where they are free, so that addresses stay; others where they are taken."""
        file = self._state / "ports.json"
        try:
            last = json.loads(file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            last = {}
        chosen: dict[str, int] = {}
        for name in _PORTS:
            port = free_port(last.get(name))
            while port in chosen.values():
                port = free_port()
            chosen[name] = port
        write_private(file, chosen)
        return chosen

    @property
    def children(self) -> dict[str, Child]:
        """The running processes by name."""
        return self._children

    async def start(self) -> StackFacts:
        """Start everything; answers the facts. Raises ProcessFailed or InstallationRefused, and leaves nothing."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> StackFacts:
        if not self._lite.is_installed:
            self._progress("Fetching Auth and PostgREST (@supabase/lite, once)")
        self._progress("Starting Postgres and Redis")
        async with asyncio.TaskGroup() as first:
            first.create_task(self._lite.install())
            database = first.create_task(self._start_postgres())
            first.create_task(self._begin("redis", self._start_redis))
        await self._prepare(database.result())
        facts = self._facts(database.result())
        self._progress("Starting Auth, PostgREST, Realtime, functions and a worker")
        async with asyncio.TaskGroup() as rest:
            rest.create_task(self._begin("lite", lambda: self._start_lite(facts)))
            rest.create_task(self._begin("gateway", lambda: self._start_gateway(facts)))
            rest.create_task(self._begin("functions", lambda: self._start_functions(facts)))
            rest.create_task(self._begin("rehearsal", self._start_rehearsal))
        for number in range(1, self._options.workers + 1):
            await self._begin(f"worker-{number}", lambda number=number: self._start_worker(facts, number))  # type: ignore[misc]
        await self._begin("operator", lambda: self._start_operator(facts))
        return facts

    async def _begin(self, name: str, starter: Callable[[], Coroutine[Any, Any, Child]]) -> None:
        self._starters[name] = starter
        self._children[name] = await starter()
        self._note_children()

    async def _start_postgres(self) -> Postgres:
        files = lay_out(self._state)
        settings = dict(self._options.postgres_settings)

        async def starter() -> Child:
            self._server = await Postgres.start(
                files=files, port=self._ports["postgres"], log=self._logs / "postgres.log", settings=settings
            )
            return self._server.child

        await self._begin("postgres", starter)
        assert self._server is not None
        return self._server

    async def _prepare(self, server: Postgres) -> None:
        """The platform, PAM's migrations and the sample, as far as they are not there yet."""
        admin = server.dsn()
        owner = server.dsn("postgres", password=self._secrets.owner_password)
        sources = [
            HERE / "platform.sql",
            HERE / "platform_after_auth.sql",
            HERE / "lite" / "launch.ts",
            HERE / "lite" / "deno.lock",
        ]
        digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        marker = self._state / "platform.sha256"
        if not marker.exists() or marker.read_text() != digest:
            self._progress("Preparing the database")
            auth_schema = await self._lite.auth_schema()
            async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
                for text in (
                    (HERE / "platform.sql").read_text(),
                    auth_schema,
                    (HERE / "platform_after_auth.sql").read_text(),
                ):
                    await connection.execute(text.encode())
                for role, password in (
                    ("postgres", self._secrets.owner_password),
                    ("supabase_lite", self._secrets.lite_password),
                ):
                    await connection.execute(
                        psycopg.sql.SQL("alter role {} password {}").format(psycopg.sql.Identifier(role), password)
                    )
            marker.write_text(digest)
        await installation.install(owner, progress=self._progress)
        await installation.set_passwords(
            owner,
            {
                "pam_worker": self._secrets.worker_password,
                "pam_agent_sql": self._secrets.agent_password,
                "pam_sweeper": self._secrets.sweeper_password,
            },
        )
        await installation.set_webhook(
            owner,
            url=f"http://127.0.0.1:{self._ports['functions']}/hooks/run-queued",
            secret=self._secrets.webhook_secret,
        )
        async with await psycopg.AsyncConnection.connect(owner, autocommit=True) as connection:
            await connection.execute(SEED.read_bytes())
            for table in SAMPLE_TABLES:
                await connection.execute(
                    "select pam.open_to_agent(t) from to_regclass(%(table)s) t where not exists ("
                    "select from pam_private.opened_tables o"
                    " where o.table_id = t and o.policies_sha256 = pam_private.policies_digest(t))",
                    {"table": f"public.{table}"},
                )

    def _facts(self, server: Postgres) -> StackFacts:
        secret = self._secrets
        model = self._options.model or ModelChoice("rehearsal", None, "rehearsal")
        rehearsal = f"http://127.0.0.1:{self._ports['rehearsal']}/v1"
        return StackFacts(
            state=str(self._state),
            supervisor_pid=os.getpid(),
            url=f"http://127.0.0.1:{self._ports['gateway']}",
            api_url=f"http://127.0.0.1:{self._ports['functions']}",
            publishable_key=secret.publishable_key,
            secret_key=secret.secret_key,
            jwt_secret=secret.jwt_secret,
            admin_dsn=server.dsn(),
            owner_dsn=server.dsn("postgres", password=secret.owner_password),
            worker_dsn=server.dsn("pam_worker", password=secret.worker_password),
            agent_dsn=server.dsn("pam_agent_sql", password=secret.agent_password),
            sweeper_dsn=server.dsn("pam_sweeper", password=secret.sweeper_password),
            redis_url=f"redis://:{secret.redis_password}@127.0.0.1:{self._ports['redis']}/0",
            upstash_url=f"http://127.0.0.1:{self._ports['gateway']}/upstash",
            upstash_token=secret.upstash_token,
            webhook_secret=secret.webhook_secret,
            rehearsal_url=rehearsal,
            model=model.name,
            model_url=model.url or (rehearsal if model.is_rehearsal else ""),
        )

    async def _start_redis(self) -> Child:
        child, _ = await start_redis(
            folder=self._state / "redis",
            port=self._ports["redis"],
            password=self._secrets.redis_password,
            log=self._logs / "redis.log",
        )
        return child

    async def _start_lite(self, facts: StackFacts) -> Child:
        assert self._server is not None
        settings = {
            "DATABASE_URL": self._server.dsn("supabase_lite", password=self._secrets.lite_password),
            "PUBLIC_URL": facts.url,
            "JWT_SECRET": facts.jwt_secret,
            "SUPABASE_PUBLISHABLE_KEY": facts.publishable_key,
            "SUPABASE_SECRET_KEY": facts.secret_key,
        }
        return await self._lite.start(port=self._ports["lite"], settings=settings, log=self._logs / "lite.log")

    async def _python(self, name: str, arguments: list[str], environment: dict[str, str], *, port: int | None) -> Child:
        """A process of our own; it is there when its port answers, or at once when it has none."""
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TZ") if key in os.environ}
        child = await Child.start(
            name=name,
            command=[sys.executable, "-m", *arguments],
            log=self._logs / f"{name}.log",
            environment={**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
            cwd=self._state,
        )
        if port is not None:
            try:
                await child.until_ready(lambda: answers_on(port))
            except BaseException:
                await child.stop()
                raise
        return child

    async def _start_gateway(self, facts: StackFacts) -> Child:
        environment = {
            "GATEWAY_PORT": str(self._ports["gateway"]),
            "LITE_PORT": str(self._ports["lite"]),
            "PLATFORM_DATABASE_URL": facts.admin_dsn,
            "REDIS_URL": facts.redis_url,
            "UPSTASH_TOKEN": facts.upstash_token,
            "JWT_SECRET": facts.jwt_secret,
            "SUPABASE_PUBLISHABLE_KEY": facts.publishable_key,
            "SUPABASE_SECRET_KEY": facts.secret_key,
        }
        return await self._python("gateway", ["infra.local.gateway"], environment, port=self._ports["gateway"])

    async def _start_functions(self, facts: StackFacts) -> Child:
        wanted = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_JWT_SECRET", "REDIS_URL", "PAM_WEBHOOK_SECRET")
        environment = {key: value for key, value in facts.environment().items() if key in wanted}
        port = self._ports["functions"]
        return await self._python("functions", ["infra.local.functions", "--port", str(port)], environment, port=port)

    async def _start_rehearsal(self) -> Child:
        port = self._ports["rehearsal"]
        folders = [argument for folder in self._options.scripts for argument in ("--scripts", str(folder))]
        return await self._python("rehearsal", ["infra.local.rehearsal", "--port", str(port), *folders], {}, port=port)

    async def _start_worker(self, facts: StackFacts, number: int) -> Child:
        key = self._options.model.key if self._options.model else "rehearsal"
        environment = {
            **worker_environment(facts, model_key=key),
            "PAM_LOG_FOLDER": str(self._logs),
            "PAM_HOME": str(self._options.home),
            **dict(self._options.worker_environment),
        }
        return await self._python(f"worker-{number}", ["workers.main"], environment, port=None)

    async def _start_operator(self, facts: StackFacts) -> Child:
        environment = {"PAM_OWNER_DATABASE_URL": facts.owner_dsn}  # no other child has the owner's connection
        return await self._python("operator", ["infra.owner"], environment, port=None)

    async def watch(self, until: asyncio.Event) -> None:
        """Start again what ends by itself, each after a growing pause of its own, until told to stop."""
        async with asyncio.TaskGroup() as watches:
            for name in self._children:
                watches.create_task(self._keep(name, until))

    async def _keep(self, name: str, until: asyncio.Event) -> None:
        pause, began = 0.2, time.monotonic()
        while not await _is_set_within(until, 0.3):
            status = self._children[name].process.returncode
            if status is None:
                continue
            pause = 0.2 if time.monotonic() - began > 60 else min(pause * 2, 30)
            log.warning("process ended, starting it again", name=name, status=status, pause_seconds=pause)
            if await _is_set_within(until, pause):
                return
            began = time.monotonic()
            try:
                await self._begin(name, self._starters[name])
            except (ProcessFailed, OSError) as error:
                log.error("process does not start", name=name, reason=str(error))

    async def stop(self) -> None:
        """Stop everything: workers first, the database last."""
        order = sorted(
            self._children, key=lambda name: (name == "postgres", name == "redis", not name.startswith("worker"))
        )
        for group in (
            [n for n in order if n.startswith("worker")],
            [n for n in order if not n.startswith("worker") and n not in ("postgres", "redis")],
            [n for n in order if n in ("postgres", "redis")],
        ):
            await asyncio.gather(*(self._children.pop(name).stop() for name in group))
        (self._state / "children.json").unlink(missing_ok=True)

    def _note_children(self) -> None:
        """Who is there, so that the next start can clear away what a crash left behind."""
        noted = {name: [child.pid, _born(child.pid)] for name, child in self._children.items()}
        write_private(self._state / "children.json", noted)


def _born(pid: int) -> float:
    """When a process began: with its number that names it, also after the number is used again."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
