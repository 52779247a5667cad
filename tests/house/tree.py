"""The files of the checkout, and what a Python file imports, whatever the spelling."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("functions", "workers", "infra", "tests")


@cache
def files() -> tuple[Path, ...]:
    """Every file that belongs to the checkout: as git sees it, or all that is not hidden in a copy without git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
        ).stdout.decode()
        found = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        found = [path for path in ROOT.rglob("*") if not any(p.startswith((".", "__py")) for p in _parts(path))]
    return tuple(sorted(path for path in found if path.is_file()))


def _parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).parts


def named(path: Path) -> str:
    """A path as the rules speak of it."""
    return path.relative_to(ROOT).as_posix()


def modules(*packages: str) -> list[Path]:
    """The Python files of these packages; the sample's workspace is material of the demo, not PAM."""
    return [
        path
        for path in files()
        if path.suffix == ".py" and _parts(path)[0] in packages and "infra/sample/workspace" not in named(path)
    ]


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(), filename=str(path))


@dataclass(frozen=True)
class Import:
    """A module that a file imports. `is_lazy`: inside a function, so not when the file itself is imported."""

    name: str
    line: int
    is_lazy: bool


def imports(module: ast.Module, *, package: str) -> Iterator[Import]:
    """What a module imports: plain, from, relative, and importlib with a literal; what only types need is left out.

    package: the dotted package that relative imports start from. A dynamic import without a literal is named "?".
    """
    yield from _within(module, package, is_lazy=False)


def _within(node: ast.AST, package: str, *, is_lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, child.lineno, is_lazy)
            case ast.ImportFrom(module=name, names=names, level=level):
                start = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
                whole = ".".join(part for part in (start, name) if part)
                for alias in names:
                    yield Import(f"{whole}.{alias.name}", child.lineno, is_lazy)
            case ast.Call() if _imports(child):
                first = child.args[0] if child.args else None
                is_literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
                yield Import(str(first.value) if is_literal else "?", child.lineno, is_lazy)  # type: ignore[union-attr]
                yield from _within(child, package, is_lazy=is_lazy)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _within(child, package, is_lazy=True)
            case _:
                yield from _within(child, package, is_lazy=is_lazy)


def _imports(call: ast.Call) -> bool:
    match call.func:
        case ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module" | "__import__"):
            return True
    return False


def imports_of(path: Path) -> list[Import]:
    """What a file of the checkout imports."""
    parts = _parts(path)
    return list(imports(tree(path), package=".".join(parts[:-1])))
