"""The tree: what may stand at its top, what a file may be called and hold, and what its locks promise."""

import ast
import re
import tomllib

import click
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


def texts():
    return [path for path in files() if path.suffix in TEXT or path.name in (".gitignore", ".env.example")]


def test_the_top_of_the_tree_is_what_was_agreed() -> None:
    tops = {named(path).partition("/")[0] for path in files()}
    assert {top for top in tops if not top.startswith(".")} - TOP - TOP_FILES == set()


def test_the_folder_of_migrations_does_not_shadow_the_package_supabase() -> None:
    assert not [path for path in files() if named(path).startswith("supabase/") and path.suffix == ".py"]


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=named)
class TestEveryModule:
    """What holds for each Python file."""

    def test_opens_with_a_sentence(self, path) -> None:
        if path.stat().st_size == 0:
            pytest.fail("an empty file says nothing: open it with a sentence or leave it out")
        said = (ast.get_docstring(tree(path)) or "").partition("\n\n")[0].strip()
        assert said, "the module has no docstring"
        assert said.endswith((".", ":", "?")), said

    def test_has_a_name_that_says_something(self, path) -> None:
        words = {word for part in path.relative_to(ROOT).parts for word in part.removesuffix(".py").split("_")}
        assert not words & NO_NAMES
        classes = [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
        assert not [name for name in classes if re.search(r"(Manager|Helper|Helpers|Utils|Util|Info)$", name)]

    def test_swallows_no_error(self, path) -> None:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else ""
            is_wide = not caught or re.search(r"\b(Exception|BaseException)\b", caught)
            is_empty = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (is_wide and is_empty), f"line {node.lineno}: {caught or 'a bare except'} with nothing done"
            assert caught, f"line {node.lineno}: a bare except also eats a shutdown"

    def test_ignores_types_only_by_code(self, path) -> None:
        assert not re.search(r"#\s*type:\s*ig" + r"nore(?!\[)", path.read_text())


@pytest.mark.parametrize("path", texts(), ids=named)
class TestEveryText:
    """What holds for each text file."""

    def test_fits_one_reading(self, path) -> None:
        if named(path).startswith(GENERATED) or path.name == "README.md":
            return
        assert len(path.read_text().splitlines()) <= MAX_LINES, "look for the second noun in it"

    def test_is_finished(self, path) -> None:
        found = UNFINISHED.search(path.read_text())
        assert not found, found

    def test_names_no_machine_and_no_registry(self, path) -> None:
        text = path.read_text()
        assert not MACHINE.search(text), MACHINE.search(text)
        assert not REGISTRIES.search(text), REGISTRIES.search(text)


def commands(command: click.Command, path: tuple[str, ...] = ("pam",)):
    """Every command that does something, by its words."""
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_the_command_line_has_its_commands() -> None:
    assert {"pam up", "pam demo", "pam ask", "pam agents import", "pam test", "pam check", "pam bench"} <= set(COMMANDS)


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_a_command_explains_itself_and_speaks_json(words: str) -> None:
    command = COMMANDS[words]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert "--json" in flags
    assert command.help
    assert command.help.strip().endswith((".", "OPENAI_API_KEY"))
    with command.make_context(words, ["--help"], resilient_parsing=True) as context:
        assert "--help" in command.get_help_option_names(context)


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """package with marker → version and hashes, of a lock file."""
    text = (ROOT / "infra" / "lock" / name).read_text()
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        match = re.match(r"(?P<name>[\w.-]+)==(?P<version>\S+)\s*(?P<marker>;[^-]*(?:(?!--hash)-?[^-]*)*)?", line)
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
    wanted = {re.match(r"[\w.-]+", line)[0].lower() for line in project["project"]["dependencies"]}
    assert wanted - run == set()
