"""Build what Lambda runs: a zip a function, for arm64 and Python 3.13, of the same bytes at every build.

Run as `python -m infra.deploy.bundle build/lambda`; serverless.yml takes the zips from there. A zip carries the
handler's module, what of this repository it imports, and its own few requirements, as the lock pins them.
No plugin and no Docker: uv picks the wheels (the usual plugin puts x86-64 ones into an arm64 zip silently).
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "infra" / "lock" / "run.txt"
PLATFORM = "aarch64-manylinux_2_34"  # Amazon Linux 2023, which python3.13 runs on
PYTHON = "3.13"
OWN_PACKAGES = ("functions", "workers")


@dataclass(frozen=True)
class Bundle:
    """A function: its handler's module, and what it needs from outside."""

    name: str
    module: str
    requirements: tuple[str, ...]


BUNDLES = (
    Bundle("api", "functions.main", ("fastapi", "mangum", "postgrest", "httpx", "pyjwt[crypto]", "structlog")),
    Bundle("hooks", "functions.hooks", ("starlette", "mangum", "redis", "rq", "structlog")),
    Bundle("sweep", "functions.sweep", ("psycopg[binary]", "redis", "rq", "structlog", "cronsim", "tzdata")),
)


class BundleFailed(Exception):
    """A bundle could not be built; the message is uv's or the compiler's own."""


def sources(module: str) -> list[Path]:
    """The files of this repository that a module needs to be imported, by its import statements; sorted."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path in found or not path.exists():
            continue
        found.add(path)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += [each for each in imports(path) if each.split(".")[0] in OWN_PACKAGES]
    return sorted(found)


def imports(path: Path) -> Iterator[str]:
    """Every name that a file imports, inside functions too; `from a import b` gives a and a.b."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def build(
    folder: Path, *, python: Path | None = None, progress: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Build every bundle into the folder; answers the zips.

    With a Python 3.13 (given, or found by uv) the zips carry bytecode; without it Lambda imports three times
    slower. Raises BundleFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    python = python or _python()
    zips = []
    for bundle in BUNDLES:
        progress(f"Building {bundle.name}")
        with tempfile.TemporaryDirectory(prefix="pam-bundle-") as scratch:
            package = Path(scratch)
            _install(bundle.requirements, package)
            for source in sources(bundle.module):
                target = package / source.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            if python:
                _compile(python, package)
            zips.append(_zip(package, folder / f"{bundle.name}.zip"))
    return zips


def _uv() -> str:
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise BundleFailed("uv is not installed: pip install uv")
    return found


def _python() -> Path | None:
    done = subprocess.run([_uv(), "python", "find", PYTHON], capture_output=True, text=True)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def _run(command: list[str], **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise BundleFailed(done.stderr.strip() or done.stdout.strip())


def _install(requirements: tuple[str, ...], package: Path) -> None:
    lock = ["--constraint", str(LOCK)] if LOCK.exists() else []
    platform = ["--python-platform", PLATFORM, "--python-version", PYTHON, "--only-binary", ":all:"]
    target = [
        "--python",
        sys.executable,
        "--target",
        str(package),
        "--no-compile-bytecode",
        "--link-mode",
        "copy",
    ]
    _run([_uv(), "pip", "install", "--quiet", *target, *platform, *lock, *requirements])
    shutil.rmtree(package / "bin", ignore_errors=True)
    for leftover in [
        *package.glob(".lock"),
        *package.glob("*.dist-info/RECORD"),
        *package.rglob("__pycache__"),
    ]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _compile(python: Path, package: Path) -> None:
    """Bytecode that is taken as it is: Lambda's disk can be neither checked in time nor written."""
    named = ["-s", str(package), "-p", "/var/task"]
    mode = ["-q", "-j", "1", "--invalidation-mode", "unchecked-hash"]
    _run([str(python), "-m", "compileall", *mode, *named, str(package)], PYTHONHASHSEED="0")


def _zip(package: Path, target: Path) -> Path:
    """Sorted names, one time, one mode: the same files give the same bytes."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(package).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, path.read_bytes(), compresslevel=9)
    return target
