"""Use the embedded stack: start it if it does not run, share it if it does, and let go of it at the end."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from infra.local.facts import StackFacts
from infra.local.locks import FileLock
from infra.local.stack import ROOT, StackOptions

Progress = Callable[[str], None]


class StackFailed(Exception):
    """The stack did not start; the message says why and where its logs are."""


@asynccontextmanager
async def running_stack(options: StackOptions, *, progress: Progress = lambda line: None) -> AsyncIterator[StackFacts]:
    """The running stack, for as long as the context lasts. Raises StackFailed.

    The last one to leave lets the supervisor end it; it also ends when its users are killed.
    """
    users = FileLock(file=options.state / "users.lock")
    try:
        if not users.try_shared():
            progress("Waiting for the last stack to stop")
            await users.shared()
        yield await _facts(options, progress)
    finally:
        users.release()


async def _facts(options: StackOptions, progress: Progress) -> StackFacts:
    start = await FileLock(file=options.state / "start.lock").exclusive()
    try:
        if is_unsupervised(options.state):
            (options.state / "status.json").unlink(missing_ok=True)
            (options.state / "stack.json").unlink(missing_ok=True)
            supervisor = _spawn(options)
        else:
            supervisor = None
        return await _until_ready(options, supervisor, progress)
    finally:
        start.release()


def _spawn(options: StackOptions) -> "subprocess.Popen[bytes]":
    """The supervisor, in a session of its own: a Ctrl-C at the terminal is for its users."""
    log = options.state / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    given = {
        "state": str(options.state),
        "home": str(options.home),
        "model": {"name": options.model.name, "url": options.model.url} if options.model else None,
        "scripts": [str(folder) for folder in options.scripts],
        "workers": options.workers,
        "postgres_settings": dict(options.postgres_settings),
        "worker_environment": dict(options.worker_environment),
    }
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PAM_SUPERVISED_MODEL_KEY": options.model.key if options.model else "",
    }
    environment.pop("OPENAI_API_KEY", None)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "infra.local.supervisor", json.dumps(given)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=options.state,
            env=environment,
        )


def is_unsupervised(state: Path) -> bool:
    """Whether no supervisor looks after the stack of this folder: it has ended, or was killed."""
    probe = FileLock(file=state / "supervisor.lock")
    try:
        return probe.try_exclusive()
    finally:
        probe.release()


async def _until_ready(
    options: StackOptions, supervisor: "subprocess.Popen[bytes] | None", progress: Progress
) -> StackFacts:
    told = 0
    deadline = time.monotonic() + 240
    while True:
        facts = StackFacts.read(options.state / "stack.json")
        if facts is not None:
            return facts
        try:
            status = json.loads((options.state / "status.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            status = {"lines": [], "error": None}
        for line in status["lines"][told:]:
            progress(line)
        told = len(status["lines"])
        logs = options.state / "logs"
        if status["error"]:
            raise StackFailed(f"{status['error']}\nLogs are in {logs}.")
        if supervisor is not None and supervisor.poll() is not None:
            tail = (logs / "supervisor.log").read_text(errors="replace").splitlines()[-6:]
            raise StackFailed("the stack's supervisor ended:\n" + "\n".join(tail) + f"\nLogs are in {logs}.")
        if supervisor is None and is_unsupervised(options.state):
            raise StackFailed("the stack was just stopped by somebody else: run the command again")
        if time.monotonic() > deadline:
            raise StackFailed(f"the stack did not start within 4 minutes. Logs are in {logs}.")
        await asyncio.sleep(0.05)
