"""Runs @supabase/lite (Auth and PostgREST) under Deno, installed once below the state folder from its lock file."""

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path

import httpx

from infra.local.locks import FileLock
from infra.local.processes import Child, ProcessFailed

_FILES = ("deno.json", "deno.lock", "launch.ts")
_READS = "PORT,DATABASE_URL,PUBLIC_URL,JWT_SECRET,SUPABASE_PUBLISHABLE_KEY,SUPABASE_SECRET_KEY"


def deno_program() -> Path:
    """The Deno that stands beside this Python."""
    found = shutil.which("deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ProcessFailed("deno is not installed beside this Python: run `python3 -m infra doctor`")
    return Path(found)


_OURS = {"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1", "DO_NOT_TRACK": "1", "LITE_TELEMETRY": "0"}


def _environment(home: Path) -> dict[str, str]:
    """What Deno needs to run what is installed: nothing of the caller's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, **_OURS, "DENO_DIR": str(home / "deno")}


class Lite:
    """An installed copy of lite, named after its files so that an update installs anew."""

    def __init__(self, *, home: Path) -> None:
        source = Path(__file__).parent
        content = b"".join((source / name).read_bytes() for name in _FILES)
        self._source = source
        self._home = home
        self.folder = home / f"lite-{hashlib.sha256(content).hexdigest()[:12]}"

    @property
    def is_installed(self) -> bool:
        """Whether its packages are there."""
        return (self.folder / "installed").exists()

    async def install(self) -> None:
        """Fetch the locked packages, once. Raises ProcessFailed with what Deno said."""
        if self.is_installed:
            return
        lock = await FileLock(file=self._home / "lite.lock").exclusive()
        try:
            if not self.is_installed:  # another command may have been faster
                await self._fetch()
        finally:
            lock.release()

    async def _fetch(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in _FILES:
            shutil.copy(self._source / name, self.folder)
        process = await asyncio.create_subprocess_exec(
            str(deno_program()),
            "install",
            "--frozen",
            "--quiet",
            cwd=self.folder,
            env={**os.environ, **_environment(self._home)},  # the caller's proxies, certificates and registry settings
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise ProcessFailed(
                "could not fetch @supabase/lite from the npm registry (is the network there?):\n"
                + output.decode(errors="replace")[-1500:]
            )
        (self.folder / "installed").touch()

    async def auth_schema(self) -> str:
        """The SQL of lite's auth tables."""
        process = await asyncio.create_subprocess_exec(
            str(deno_program()),
            "run",
            "--ignore-env",
            "--cached-only",
            "launch.ts",
            "schema",
            cwd=self.folder,
            env=_environment(self._home),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode:
            raise ProcessFailed("lite could not print its schema:\n" + errors.decode(errors="replace")[-1500:])
        return output.decode()

    async def start(self, *, port: int, settings: dict[str, str], log: Path) -> Child:
        """Serve Auth and PostgREST on 127.0.0.1:port."""
        child = await Child.start(
            name="lite",
            command=[
                deno_program(),
                "run",
                "--no-prompt",
                "--cached-only",
                "--ignore-env",
                f"--allow-env={_READS}",
                "--allow-net=127.0.0.1",
                "launch.ts",
                "serve",
            ],
            log=log,
            environment={**_environment(self._home), **settings, "PORT": str(port)},
            cwd=self.folder,
        )
        headers = {"apikey": settings["SUPABASE_PUBLISHABLE_KEY"]}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:

            async def answers() -> bool:
                try:
                    return (await client.get("/auth/v1/health", timeout=2)).status_code == 200
                except httpx.HTTPError:
                    return False

            try:
                await child.until_ready(answers)
            except BaseException:
                await child.stop()
                raise
        return child
