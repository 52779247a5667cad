"""What code in bubblewrap sees, as bwrap's arguments: its own few folders, nothing of the machine that it may write.

The traps are measured: bwrap's own --dev and / are memory without a limit, so /dev is made by hand and / is closed;
a writable /proc lets code change what the kernel does to it, so /proc is closed; arguments in bwrap's command line
and its environment can be read by /proc/1, so both are empty.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from workers.sandbox import rlimits
from workers.sandbox.programs import POSTGRES, VENV, Programs
from workers.sandbox.sandbox import Language, Limits

UID = 1000
FOLDER = "/workspace"
WRITABLE = (FOLDER, "/tmp", "/dev/shm")  # noqa: S108 - inside the sandbox
PROGRAM = "/program"
TEMPLATE = "/postgres/template"
_SHARED_BYTES = 64 * 1024 * 1024
_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS = (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))

ENVIRONMENT = {
    "PATH": f"{VENV}/bin:{POSTGRES}/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "HOME": "/tmp",  # noqa: S108 - inside the sandbox
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "OPENBLAS_NUM_THREADS": "2",
}

# Its first byte says that the walls stand, and it waits until the limits are set and the files are there.
# As process 1 it reaps what is orphaned; when it ends, the kernel ends everything else.
# Only inside its own user namespace is the number of processes its own; Debian's sh and bash name it differently.
_GUARD = """ulimit -p %d 2>/dev/null || ulimit -u %d || exit 125
echo; read -r _ || exit 125; exec </dev/null; "$@"; exit $?"""

_RUN_SQL = r"""
cp -r /postgres/template /tmp/server && chmod 700 /tmp/server || exit 125
postgres -D /tmp/server -k /tmp -c listen_addresses= -c fsync=off -c full_page_writes=off -c shared_buffers=16MB \
  -c max_connections=10 -c max_wal_size=64MB -c autovacuum=off -c log_min_messages=fatal >/tmp/server.log 2>&1 &
server=$!
tries=0
until pg_isready -q -h /tmp -U postgres; do
  tries=$((tries + 1))
  if [ $tries -gt 500 ] || ! kill -0 $server; then
    echo 'The throw-away database did not start:'; cat /tmp/server.log; exit 125
  fi
  sleep 0.02
done
psql -X -q -P pager=off -v ON_ERROR_STOP=1 -h /tmp -U postgres -d postgres -f /program/main.sql
"""

_FILES = {Language.PYTHON: "main.py", Language.SHELL: "main.sh", Language.SQL: "main.sql"}


def command(language: Language) -> list[str]:
    """What the guard runs."""
    return {
        Language.PYTHON: [f"{VENV}/bin/python3", "-I", "-B", "-u", f"{PROGRAM}/main.py"],
        Language.SHELL: ["/bin/sh", f"{PROGRAM}/main.sh"],
        Language.SQL: ["/bin/sh", "-c", _RUN_SQL],
    }[language]


def guarded(words: list[str], limits: Limits) -> list[str]:
    """A command under the guard."""
    processes = limits.processes + rlimits.counted_elsewhere()
    return ["/bin/sh", "-c", _GUARD % (processes, processes), "guard", *words]


class Texts:
    """Small files that exist in memory only, handed to bwrap as open files."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def file(self, content: bytes) -> str:
        """The number of an open file with this content."""
        fd = os.memfd_create("pam", 0)
        self.fds.append(fd)
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        return str(fd)


@contextmanager
def opened_texts() -> Iterator[Texts]:
    """Texts that are closed at the end."""
    texts = Texts()
    try:
        yield texts
    finally:
        for fd in texts.fds:
            os.close(fd)


def arguments(
    programs: Programs,
    language: Language,
    code: str,
    limits: Limits,
    texts: Texts,
    *,
    seccomp: bytes,
    template: Path | None = None,
    writable: Mapping[str, Path] | None = None,
) -> list[str]:
    """bwrap's arguments for one program. `writable` binds are for PAM's own programs, never for code of a model."""
    words = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(UID), "--gid", str(UID)]
    words += ["--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"]
    words += ["--seccomp", texts.file(seccomp)]
    for name, value in ENVIRONMENT.items():
        words += ["--setenv", name, value]
    for bind in programs.binds:
        words += ["--ro-bind", str(bind.source), bind.target]
    for target, place in programs.links:
        words += ["--symlink", target, place]
    for folder in programs.covered:
        words += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    if template is not None:
        words += ["--ro-bind", str(template), TEMPLATE]
    words += _small_files(programs, language, code, texts)
    words += ["--proc", "/proc", "--remount-ro", "/proc"]
    words += ["--size", "65536", "--tmpfs", "/dev"]
    for device in _DEVICES:
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for name, place in _DEVICE_LINKS:
        words += ["--symlink", place, f"/dev/{name}"]
    words += ["--size", str(_SHARED_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
    words += ["--remount-ro", "/dev"]
    words += ["--size", str(limits.disk_bytes), "--tmpfs", "/tmp"]  # noqa: S108
    words += ["--size", str(limits.disk_bytes), "--tmpfs", FOLDER]
    for place, source in (writable or {}).items():
        words += ["--bind", str(source), place]
    return [*words, "--remount-ro", "/", "--chdir", FOLDER]


def _small_files(programs: Programs, language: Language, code: str, texts: Texts) -> list[str]:
    """The program itself, the accounts that exist inside, and a virtual environment that has only our packages."""
    home = Path(programs.python).parent
    contents = {
        f"{PROGRAM}/{_FILES[language]}": code,
        "/etc/passwd": f"sandbox:x:{UID}:{UID}::/tmp:/bin/sh\n",
        "/etc/group": f"sandbox:x:{UID}:\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        f"{VENV}/pyvenv.cfg": f"home = {home}\ninclude-system-site-packages = false\n",
        f"{VENV}/lib/{programs.version}/site-packages/workspace.pth": f"{FOLDER}\n",
    }
    words = ["--symlink", programs.python, f"{VENV}/bin/python3", "--symlink", "python3", f"{VENV}/bin/python"]
    for place, content in contents.items():
        words += ["--perms", "0444", "--ro-bind-data", texts.file(content.encode(errors="replace")), place]
    return words
