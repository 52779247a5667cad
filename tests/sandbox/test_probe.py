"""What is trusted at a worker's start, and what happens when nothing is."""

import sys
from pathlib import Path

import pytest

from workers.sandbox import probe, seccomp, walls
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.probe import ProbedSandbox, faults_of
from workers.sandbox.pyodide import PyodideSandbox
from workers.sandbox.sandbox import InputFile, Language, Limits, NoSandbox, Program, SandboxRefused

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap needs Linux")


@linux_only
async def test_bubblewrap_passes_its_trial(bubblewrap: Bubblewrap) -> None:
    assert await faults_of(bubblewrap) == []


@linux_only
async def test_a_missing_list_of_system_calls_is_found_by_the_trial(bubblewrap: Bubblewrap) -> None:
    box = Bubblewrap(home=bubblewrap._home)
    box._seccomp = seccomp._return(seccomp._ALLOW)
    assert await faults_of(box) == ["The list of system calls does not hold."]


@linux_only
@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (["--unshare-all"], ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"], "Code could reach the network."),
        (["--remount-ro", "/", "--chdir"], ["--chdir"], "Code could write outside its folders."),
        (["--proc", "/proc"], ["--ro-bind", "/proc", "/proc"], "Code could see processes of this machine."),
        (["--unshare-all"], ["--unshare-all", "--setenv", "PAM_SECRET", "x"], "Code could see the worker's environment."),
    ],
)  # fmt: skip
async def test_a_wall_that_is_missing_is_found_by_the_trial(
    bubblewrap: Bubblewrap, monkeypatch: pytest.MonkeyPatch, old: list[str], new: list[str], fault: str
) -> None:
    box = Bubblewrap(home=bubblewrap._home)
    whole = walls.arguments
    if fault == "Code could reach the network.":
        box._seccomp = seccomp._return(seccomp._ALLOW)  # the list would hide it

    def holed(*given: object, **named: object) -> list[str]:
        words = whole(*given, **named)  # type: ignore[arg-type]
        at = next(n for n in range(len(words)) if words[n : n + len(old)] == old)
        return [*words[:at], *new, *words[at + len(old) :]]

    monkeypatch.setattr(walls, "arguments", holed)
    assert fault in await faults_of(box)


@linux_only
async def test_a_sandbox_that_fails_its_trial_is_not_taken(
    bubblewrap: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sandbox.bubblewrap.assembled", lambda machine: seccomp._return(seccomp._ALLOW))
    with pytest.raises(SandboxRefused, match="Bubblewrap does not hold: The list of system calls does not hold"):
        await probe.tried_bubblewrap(bubblewrap._home)


async def test_pyodide_passes_its_trial(pyodide_sandbox: PyodideSandbox) -> None:
    assert await faults_of(pyodide_sandbox) == []


async def test_deno_with_a_right_too_many_is_found_by_the_trial(
    pyodide_sandbox: PyodideSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = pyodide_sandbox._words()
    lax = [word.replace("--deny-env", "--allow-env") for word in words]
    monkeypatch.setattr(pyodide_sandbox, "_words", lambda: lax)
    assert await faults_of(pyodide_sandbox) == ["Code could see the environment."]


async def test_where_nothing_holds_no_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(home: Path) -> Bubblewrap:
        raise SandboxRefused("Bubblewrap does not hold: Code ran as root.")

    monkeypatch.setattr(probe, "tried_bubblewrap", refused)
    box = ProbedSandbox(home=tmp_path)  # where Pyodide was never fetched
    assert isinstance(await box.open(), NoSandbox)
    with pytest.raises(SandboxRefused) as why:
        await box.run(Program(Language.PYTHON, "print(1)"), (InputFile("a", b""),), Limits())
    assert "Code ran as root." in str(why.value)
    assert "python -m workers.sandbox install" in str(why.value)


async def test_the_fallback_is_taken_when_the_first_does_not_hold(
    pyodide_sandbox: PyodideSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(home: Path) -> Bubblewrap:
        raise SandboxRefused("Bubblewrap needs Linux.")

    async def fallback(home: Path) -> PyodideSandbox:
        return pyodide_sandbox

    monkeypatch.setattr(probe, "tried_bubblewrap", refused)
    monkeypatch.setattr(probe, "tried_pyodide", fallback)
    assert await probe.probe(home=Path("/nowhere")) is pyodide_sandbox


@pytest.mark.parametrize("language", [Language.SHELL, Language.SQL])
async def test_pyodide_refuses_what_it_cannot_run(pyodide_sandbox: PyodideSandbox, language: Language) -> None:
    with pytest.raises(SandboxRefused, match="runs Python only"):
        await pyodide_sandbox.run(Program(language, "x"), (), Limits())


async def test_python_in_pyodide_gets_files_and_gives_changes(pyodide_sandbox: PyodideSandbox) -> None:
    code = (
        "text = open('a/in.txt').read()\nopen('a/out.txt', 'w').write(text.upper())\nprint(2 + 2)\nraise SystemExit(7)"
    )
    outcome = await pyodide_sandbox.run(
        Program(Language.PYTHON, code), (InputFile("a/in.txt", b"hello"),), Limits(wall_seconds=30)
    )
    assert (outcome.exit_code, outcome.output, outcome.changed) == (7, "4\n", {"a/out.txt": b"HELLO"})
