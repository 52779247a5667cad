"""The tree: what may stand at its top, what a file may be called and hold, and what its locks promise."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from infra.cli.app import app
from tests.house.tree import PACKAGES, ROOT, files, modules, named, tree

TOP = {"functions", "workers", "supabase", "infra", "tests"}
TOP_FILES = {"pyproject.toml", "serverless.yml", "README.md", "CHANGELOG.md", "LICENSE"}
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "data", "info", "types", "queue"}
MAX_LINES = 400
TEXT = {".py", ".sql", ".ts", ".md", ".toml", ".yml", ".yaml", ".json", ".txt", ".lock"}
GENERATED = ("infra/lock/", "infra/local/lite/deno.lock")
# Spelled in pieces, so that this file does not hold what it looks for.
UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")))
MACHINE = re.compile(
    "|".join(
        (
            r"(?<![\w.])/wo" + "rk/",
            "/tm" + "p/w",
            "/fa" + "rm/",
            r"(?<![\w.])/ro" + "ot/",
            r"(?<![\w.])/ho" + r"me/\w",
            "/Us" + r"ers/\w",
        )
    )
)
REGISTRIES = re.compile(
    "|".join(
        (
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            r"npm" + r"js\.(org|com)",
            r"proxy\.go" + r"lang\.org",
            r"jsr" + r"\.io",
            r"esm" + r"\.sh",
            r"deno\.la" + "nd",
            r"hub\.dock" + r"er\.com",
        )
    ),
    re.IGNORECASE,
)


def texts() -> list[Path]:
    return [path for path in files() if path.suffix in TEXT or path.name in (".gitignore", ".env.example")]


def test_the_top_of_the_tree_is_what_was_agreed() -> None:
    tops = {named(path).partition("/")[0] for path in files()}
    assert {top for top in tops if not top.startswith(".")} - TOP - TOP_FILES == set()


def test_the_folder_of_migrations_does_not_shadow_the_package_supabase() -> None:
    assert not [path for path in files() if named(path).startswith("supabase/") and path.suffix == ".py"]


def test_every_module_opens_with_a_sentence() -> None:
    said = {
        named(path): (ast.get_docstring(tree(path)) or "").partition("\n\n")[0].strip() for path in modules(*PACKAGES)
    }
    assert {name: text for name, text in said.items() if not text.endswith((".", ":"))} == {}


def test_every_name_says_something() -> None:
    wrong = []
    for path in modules(*PACKAGES):
        words = {word for part in path.relative_to(ROOT).parts for word in part.removesuffix(".py").split("_")}
        wrong += [f"{named(path)}: {word}" for word in words & NO_NAMES]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and re.search(r"(Manager|Helpers?|Utils?|Info|Misc)$", node.name):
                wrong.append(f"{named(path)}:{node.lineno}: {node.name}")
    assert not wrong


def test_no_error_is_swallowed() -> None:
    wrong = []
    for path in modules(*PACKAGES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                is_wide = not caught or re.search(r"\b(Exception|BaseException)\b", caught)
                is_empty = all(isinstance(step, ast.Pass) for step in node.body)
                if not caught or (is_wide and is_empty):
                    wrong.append(f"{named(path)}:{node.lineno}: except {caught}")
    assert not wrong


def offending(pattern: re.Pattern[str], *, but: tuple[str, ...] = ()) -> list[str]:
    """Where a text of the tree holds what it must not."""
    return [
        f"{named(path)}:{number}: {line.strip()[:100]}"
        for path in texts()
        if not named(path).startswith(but)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]


def test_types_are_ignored_only_by_code() -> None:
    assert not offending(re.compile(r"#\s*type:\s*ig" + r"nore(?!\[)"))


def test_everything_is_finished() -> None:
    assert not offending(UNFINISHED)


def test_no_file_names_a_machine_or_a_registry() -> None:
    assert not offending(MACHINE)
    assert not offending(REGISTRIES)


def test_every_file_fits_one_reading() -> None:
    sizes = {named(path): len(path.read_text().splitlines()) for path in texts() if path.name != "README.md"}
    assert {name: size for name, size in sizes.items() if size > MAX_LINES and not name.startswith(GENERATED)} == {}


def commands(command: Any, path: tuple[str, ...] = ("pam",)) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_the_command_line_has_its_commands() -> None:
    assert {"pam up", "pam demo", "pam ask", "pam agents import", "pam test", "pam check", "pam bench"} <= set(COMMANDS)


def test_every_command_explains_itself_and_speaks_json() -> None:
    for words, command in COMMANDS.items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert "--json" in flags, words
        assert (command.help or "").strip(), words
        with command.make_context(words, [], resilient_parsing=True) as context:
            assert "--help" in command.get_help_option_names(context), words


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """package with marker → version and hashes, of a lock file."""
    text = (ROOT / "infra" / "lock" / name).read_text()
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found: dict[str, tuple[str, list[str]]] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        match = re.match(r"(?P<name>[\w.-]+)==(?P<version>\S+)", line)
        assert match, f"{name}: {line[:80]} is no pinned package"
        hashes = re.findall(r"--hash=(\S+)", line)
        marker = line[match.end("version") :].partition("--hash")[0].strip()
        found[f"{match['name']} {marker}".strip()] = (match["version"], hashes)
    return found


@pytest.mark.parametrize("name", ["run.txt", "test.txt"])
def test_every_locked_package_is_known_by_its_hashes(name: str) -> None:
    packages = locked(name)
    assert len(packages) > 50
    for package, (_, hashes) in packages.items():
        assert hashes, f"{package} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), package


def test_what_tests_run_on_is_what_people_run_on() -> None:
    run, test = locked("run.txt"), locked("test.txt")
    assert {
        package: version for package, (version, _) in run.items() if test.get(package, ("absent", []))[0] != version
    } == {}
    assert len(test) > len(run)


def test_every_direct_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run = {package.partition(" ")[0] for package in locked("run.txt")}
    wanted = {re.split(r"[^\w.-]", line)[0].lower() for line in project["project"]["dependencies"]}
    assert wanted - run == set()
