"""The process that owns the embedded stack: it starts it, mends it, and ends it when nobody uses it any more.

Users hold a shared lock on the state folder's `users.lock`. The kernel lets go of a dead user's lock, so even after
`kill -9` of the last one nothing is left running.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import psutil
import psycopg

from infra.installation import InstallationRefused
from infra.local.facts import ModelChoice, write_private
from infra.local.locks import FileLock
from infra.local.processes import ProcessFailed
from infra.local.stack import Stack, StackOptions
from workers.kernel import telemetry


def clear_leftovers(state: Path) -> None:
    """End what a killed supervisor left behind: only processes that it named, by number and time of birth."""
    try:
        named = json.loads((state / "children.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return
    left = []
    for name, (pid, born) in named.items():
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - born) < 1:
                left.append((name, process))
        except psutil.Error:
            continue
    for name, process in left:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs([process for _, process in left], timeout=8)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    (state / "children.json").unlink(missing_ok=True)


async def supervise(options: StackOptions) -> int:
    """Start the stack, keep it while it has users, stop it. Exit status 1 when it does not start."""
    state = options.state
    own = FileLock(file=state / "supervisor.lock")
    if not own.try_exclusive():
        return 0  # another supervisor was faster
    facts_file, status_file = state / "stack.json", state / "status.json"
    facts_file.unlink(missing_ok=True)
    clear_leftovers(state)
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        write_private(status_file, {"lines": lines, "error": None})

    progress("Waking up")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stack = Stack(options=options, progress=progress)
    starting = asyncio.create_task(stack.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    failure = starting.exception()
    if failure is not None:
        reasons = _leaves(failure)
        if not all(
            isinstance(reason, (ProcessFailed, InstallationRefused, OSError, psycopg.Error)) for reason in reasons
        ):
            raise failure
        write_private(status_file, {"lines": lines, "error": "\n".join(str(reason) for reason in reasons)})
        return 1
    facts = starting.result()
    facts.write(facts_file)
    watching = asyncio.create_task(stack.watch(stop))
    users = FileLock(file=state / "users.lock")
    while not stop.is_set() and not users.try_exclusive():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.5)
    stop.set()
    facts_file.unlink(missing_ok=True)
    await watching
    await stack.stop()
    status_file.unlink(missing_ok=True)
    return 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def main() -> int:
    """Read the options that `attach` gave; the model's key comes by the environment only."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.supervisor", description=__doc__)
    parser.add_argument("options", help="JSON, as infra.local.attach writes it")
    given = json.loads(parser.parse_args().options)
    telemetry.configure("supervisor")
    key = os.environ.pop("PAM_SUPERVISED_MODEL_KEY", "")
    model = ModelChoice(given["model"]["name"], given["model"]["url"], key) if given["model"] else None
    options = StackOptions(
        state=Path(given["state"]),
        home=Path(given["home"]),
        model=model,
        scripts=tuple(Path(folder) for folder in given["scripts"]),
        workers=given["workers"],
        postgres_settings=tuple(given["postgres_settings"].items()),
        worker_environment=tuple(given["worker_environment"].items()),
    )
    return asyncio.run(supervise(options))


if __name__ == "__main__":
    sys.exit(main())
