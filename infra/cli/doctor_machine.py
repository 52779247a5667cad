"""What `doctor` looks at on this machine: Python, platform, programs, the sandbox for code, the embedded stack."""

import os
import platform
import shlex
import shutil
import socket
import sys
from pathlib import Path

from infra.__main__ import venv_of
from infra.cli.finding import Finding
from infra.cli.setting import home, stack_options
from infra.local.facts import StackFacts
from infra.local.lite import Lite, deno_program
from infra.local.postgres import server_programs
from infra.local.processes import ProcessFailed
from infra.local.redis import server_program
from workers.sandbox.probe import probe, sandbox_home

SUPPORTED = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}
LEAST_FREE_BYTES = 1_500_000_000


def look_at_machine() -> list[Finding]:
    """What every command needs, and the programs that the stack starts."""
    return [*_machine(), *_programs()]


def _machine() -> list[Finding]:
    here = (platform.system(), platform.machine())
    libc = platform.libc_ver()[0]
    is_musl = here[0] == "Linux" and libc != "glibc"
    free = shutil.disk_usage(home() if home().exists() else home().parent).free
    return [
        Finding("Python", sys.version_info >= (3, 11), platform.python_version(), "PAM needs Python 3.11 or newer"),
        Finding(
            "platform",
            here in SUPPORTED and not is_musl,
            " ".join(here) + (" (musl)" if is_musl else ""),
            "the embedded stack runs on Linux x86-64 and arm64 (glibc) and macOS arm64; elsewhere use a hosted project",
        ),
        Finding(
            "disk",
            free > LEAST_FREE_BYTES,
            f"{free / 1e9:.1f} GB free",
            "the stack needs about 1.5 GB below PAM_HOME (.pam in the checkout)",
        ),
        Finding("account", True, "root: Postgres runs as pam-postgres" if os.geteuid() == 0 else "an ordinary user"),
    ]


def _postgres_program() -> Path:
    return server_programs() / "bin" / "postgres"


def _programs() -> list[Finding]:
    found: list[Finding] = []
    again = f"remove the folder {venv_of(home())} and run `python3 -m infra doctor`: it is made anew from the lock"
    for name, look in (
        ("Postgres", _postgres_program),
        ("Redis", server_program),
        ("Deno", deno_program),
    ):
        try:
            program = look()
            found.append(Finding(name, program.exists(), str(program), again))
        except ProcessFailed as error:
            found.append(Finding(name, False, str(error).splitlines()[0], again))
    return found


async def look_at_sandbox(*, is_needed: bool) -> Finding:
    """The layer that a worker on this machine would choose, tried as workers try it. is_needed: they run here."""
    try:
        sandbox = await probe(home=sandbox_home(str(home())))
        await sandbox.close()
        holds, seen = bool(sandbox.languages), sandbox.summary
    except OSError as error:
        holds, seen = False, f"it could not be tried: {error.strerror or error} ({error.filename or home()})"
    program = f"PAM_HOME={shlex.quote(str(home()))} {shlex.quote(sys.executable)} -m workers.sandbox install"
    return Finding(
        "code sandbox",
        holds or not is_needed,
        seen if is_needed else f"workers elsewhere choose theirs; on this machine: {seen}",
        f"allow unprivileged user namespaces, or fetch the fallback once, with network, in the checkout: {program}",
    )


def look_at_stack(env: dict[str, str]) -> list[Finding]:
    """The embedded stack: what it needs, and whether it runs."""
    options = stack_options(env)
    facts = StackFacts.read(options.state / "stack.json")
    lite = Lite(home=options.home)
    model = (
        f"{options.model.name} at {options.model.url}"
        if options.model
        else "none: `demo` plays a script, `ask` needs OPENAI_API_KEY"
    )
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
            can_listen = True
        except OSError:
            can_listen = False
    return [
        Finding(
            "loopback",
            can_listen,
            "ports can be opened on 127.0.0.1" if can_listen else "no port can be opened on 127.0.0.1",
            "allow this program to listen on 127.0.0.1",
        ),
        Finding(
            "Auth and PostgREST",
            True,
            "fetched" if lite.is_installed else "fetched from the npm registry at the first start",
        ),
        Finding("stack", True, f"running at {facts.url}" if facts else "not running: `pam up` starts it"),
        Finding("model", True, model),
    ]
