"""`python3 -m infra …`: makes PAM's environment with the standard library alone, then hands over to the command line.

The environment is a folder below .pam (or PAM_HOME), made from the lock in infra/lock, named after Python's version.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "infra" / "lock"
_NO_INDEX = "is the network (or your package index) there?"
_LEAST_FREE_BYTES = 16_000_000  # an environment without a package has as much
NEEDS_TEST = {"test", "check", "bench", "bundle"}


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to the command."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    """Say what is wrong and what to do, and stop."""
    say(f"pam: {text}")
    raise SystemExit(1)


def main() -> None:
    """Make or find the environment, then become the command line in it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is run by whatever Python is there
        fail(f"PAM needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try python3.11 -m infra …")
    if os.name != "posix":
        fail("PAM runs on Linux and macOS")
    home = Path(os.environ.get("PAM_HOME") or ROOT / ".pam").resolve()
    lock = LOCKS / ("test.txt" if set(sys.argv[1:2]) & NEEDS_TEST else "run.txt")
    venv = venv_of(home)
    python = venv / "bin" / "python"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not is_ready(venv, lock):
            make(home, venv, lock)
    except PermissionError as error:
        fail(f"cannot write {error.filename}: set PAM_HOME to a folder of your own")
    except OSError as error:
        fail(f"{error.strerror or error} ({error.filename or home}): make room, or set PAM_HOME to another folder")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PAM_HOME": str(home)}
    os.execve(str(python), [str(python), "-m", "infra.cli", *sys.argv[1:]], environment)  # noqa: S606 - our own Python


def venv_of(home: Path) -> Path:
    """The folder of the environment for this Python."""
    return home / f"venv-{sys.version_info.major}.{sys.version_info.minor}"


def digest(lock: Path) -> str:
    """What the lock says now."""
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def is_ready(venv: Path, lock: Path) -> bool:
    """Whether the environment holds what the lock says. The test lock holds everything of the other."""
    for name in {lock.name, "test.txt"}:
        mark = venv / f"{name}.sha256"
        if mark.exists() and mark.read_text() == digest(LOCKS / name):
            return True
    return False


def make(home: Path, venv: Path, lock: Path) -> None:
    """Fill the environment from the lock; one process at a time, and a half-made one is made anew."""
    with (home / "venv.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another command prepares PAM's environment; waiting for it …")
            fcntl.flock(handle, fcntl.LOCK_EX)
        if is_ready(venv, lock):
            return
        total = len(re.findall(r"^\S+==", lock.read_text(), re.MULTILINE))
        say(f"Preparing PAM's own environment in {venv} ({total} locked packages, once) …")
        began = time.monotonic()
        if not (venv / "bin" / "pip").exists():
            shutil.rmtree(venv, ignore_errors=True)
            made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True)
            if made.returncode:
                is_full = shutil.disk_usage(home).free < _LEAST_FREE_BYTES
                shutil.rmtree(venv, ignore_errors=True)
                if is_full:
                    fail(f"no room is left in {home}: make room, or set PAM_HOME to another folder")
                fail(
                    "this Python cannot make virtual environments: on Debian or Ubuntu, apt install python3-venv\n"
                    + (made.stdout + made.stderr).strip()[-400:]
                )
        install(venv, lock, total)
        (venv / f"{lock.name}.sha256").write_text(digest(lock))
        command = home / "bin" / "pam"
        command.parent.mkdir(exist_ok=True)
        command.write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}" PAM_HOME="{home}" exec "{venv}/bin/python" -m infra.cli "$@"\n'
        )
        command.chmod(0o755)
        say(f"Ready in {time.monotonic() - began:.0f} s. `{command}` is the command `pam`.\n")


def install(venv: Path, lock: Path, total: int) -> None:
    """pip with every hash checked, its steps counted."""
    command = [
        str(venv / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--progress-bar",
        "off",
        "-r",
        str(lock),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    seen, shown = 0, 0.0
    tail: list[str] = []
    on_terminal = sys.stderr.isatty()
    try:
        for line in process.stdout:
            tail = [*tail[-15:], line.rstrip()]
            if line.startswith(("Collecting ", "Requirement already")):
                seen += 1
                if on_terminal:
                    print(f"\r  fetching {seen}/{total}  ", end="", file=sys.stderr, flush=True)
                elif time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    say(f"  fetching {seen}/{total}")
            elif line.startswith("Installing collected"):
                print("\r" if on_terminal else "", end="", file=sys.stderr)
                say(f"  installing {total} packages")
        status = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise SystemExit(130) from None
    if status:
        reasons = "\n".join(line for line in tail if "ERROR" in line or "error" in line.lower()) or "\n".join(tail)
        is_full = "No space left" in reasons
        fail(
            f"the packages could not be installed: {'the disk is full, make room' if is_full else _NO_INDEX}\n"
            f"{reasons}\nRun the same command again to go on."
        )


if __name__ == "__main__":
    main()
