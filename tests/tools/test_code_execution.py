"""code_execution: workspace in, changed files out, what the model reads, and what people see meanwhile."""

import asyncio
import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from tests.support.bench import Bench
from workers.kernel.errors import Unavailable
from workers.kernel.ledger.tool_calls import CallEffect
from workers.sandbox.sandbox import NoSandbox
from workers.tools import code_execution
from workers.tools.code_execution import Args
from workers.tools.failures import ToolRefused
from workers.tools.tool import ToolContext


async def content(bench: Bench, path: str) -> str:
    return (await bench.use("file_read", path=path))[1]


def context(bench: Bench, **changes: Any) -> ToolContext:
    plain = ToolContext(hold=bench.hold, org_id=bench.org_id, call_id=uuid4(), is_repeat=False, services=bench.services)
    return replace(plain, **changes)


async def test_a_program_computes_on_workspace_files_and_changes_nothing(bench: Bench) -> None:
    await bench.use("file_write", path="numbers/a.csv", content="n\n1\n2\n3\n")
    code = "import pandas as pd\ndf = pd.read_csv('numbers/a.csv')\nprint(int(df.n.sum()))\ndf.to_csv('numbers/b.csv')"
    status, text = await bench.use("code_execution", language="python", code=code, files=["numbers/**"])
    assert status == "succeeded"
    assert text.startswith("Exit code 0. ")
    assert "Output:\n6\n" in text
    assert "numbers/b.csv: 15 bytes, not kept" in text
    assert (await bench.use("file_read", path="numbers/b.csv"))[0] == "failed"


async def test_several_changed_files_become_new_versions(bench: Bench) -> None:
    await bench.use("file_write", path="a.txt", content="old")
    code = "printf new >a.txt; printf b >b.txt; mkdir c; printf c >c/c.txt; printf secret >skipped.log"
    status, text = await bench.use(
        "code_execution", language="shell", code=code, files=["a.txt"], keep=["*.txt", "c/**"]
    )
    assert status == "succeeded"
    assert "a.txt: 3 bytes, kept as version 2" in text
    assert "b.txt: 1 bytes, kept as version 1" in text
    assert "c/c.txt: 1 bytes, kept as version 1" in text
    assert "skipped.log: 6 bytes, not kept" in text
    assert "new" in await content(bench, "a.txt")
    assert (await bench.use("file_list"))[1].startswith("3 files match")


async def test_a_file_that_somebody_changed_meanwhile_is_not_overwritten(bench: Bench) -> None:
    await bench.use("file_write", path="a.txt", content="old")
    beside = await bench.beside()

    async def meanwhile(text: str) -> None:
        await beside.use("file_write", path="a.txt", content="theirs", version=1)

    args = Args(language="shell", code="echo started; sleep 0.5; printf mine >a.txt", files=("a.txt",), keep=True)  # type: ignore[arg-type]
    result = await code_execution.run(args, context(bench, on_output=meanwhile))
    assert "a.txt: 4 bytes, NOT written: The file is at version 2, not 1" in result.text
    assert result.notes == {}
    assert "theirs" in await content(bench, "a.txt")


async def test_a_file_that_was_not_brought_in_is_not_overwritten(bench: Bench) -> None:
    await bench.use("file_write", path="a.txt", content="theirs")
    _, text = await bench.use("code_execution", language="shell", code="printf mine >a.txt", keep=True)
    assert "NOT written: The file exists already, at version 1" in text
    assert "theirs" in await content(bench, "a.txt")


async def test_nothing_is_kept_of_a_program_that_fails(bench: Bench) -> None:
    status, text = await bench.use("code_execution", language="shell", code="printf x >x.txt; exit 4", keep=True)
    assert status == "succeeded"
    assert text.startswith("Exit code 4. ")
    assert "not kept, because the program did not end with exit code 0" in text
    assert (await bench.use("file_read", path="x.txt"))[0] == "failed"


@pytest.mark.parametrize("name", ["a\\nb", "~x", "C:x", "e\\xcc\\x81"])
async def test_names_that_no_workspace_has_stay_outside(bench: Bench, name: str) -> None:
    code = f"open(b'{name}', 'w').write('x')"
    _, text = await bench.use("code_execution", language="python", code=code, keep=True)
    assert "left out: " in text
    assert (await bench.use("file_list"))[1].startswith("0 files match")


async def test_links_do_not_come_back(bench: Bench) -> None:
    _, text = await bench.use("code_execution", language="shell", code="ln -s /etc/passwd notes.txt", keep=True)
    assert "'notes.txt': left out: it is a symbolic link" in text


async def test_output_is_data_and_a_stop_is_told_with_its_reason(bench: Bench) -> None:
    result = await code_execution.run(
        Args(language="shell", code="echo hello; sleep 30", timeout_seconds=1),  # type: ignore[arg-type]
        context(bench),
    )
    assert result.origin == "program output"
    assert result.text.startswith("Stopped: it ran longer than 1 s. No exit code.")
    assert "hello" in result.text


async def test_sql_answers_rows(bench: Bench) -> None:
    status, text = await bench.use("code_execution", language="sql", code="select 6 * 7 as answer")
    assert (status, "answer" in text, "42" in text) == ("succeeded", True, True)


async def test_viewers_see_output_while_it_comes_but_not_too_often(bench: Bench) -> None:
    seen: list[str] = []

    async def show(text: str) -> None:
        seen.append(text)

    code = "import time\nfor n in range(60):\n    print(n); time.sleep(0.01)"
    result = await code_execution.run(Args(language="python", code=code), context(bench, on_output=show))  # type: ignore[arg-type]
    assert seen[0].startswith("0")
    assert 1 <= len(seen) <= 6
    assert "59" in result.text


async def test_viewers_that_cannot_be_reached_do_not_stop_a_program(bench: Bench) -> None:
    async def away(text: str) -> None:
        raise Unavailable("Realtime is away")

    args = Args(language="shell", code="echo here")  # type: ignore[arg-type]
    assert "here" in (await code_execution.run(args, context(bench, on_output=away))).text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"files": ["nowhere/**"]}, "No file of the workspace matches 'nowhere/**'"),
        ({"language": "ruby"}, "language"),
        ({"timeout_seconds": 121}, "timeout_seconds"),
        ({"code": ""}, "code"),
        ({"network": True}, "network"),
    ],
)
async def test_what_does_not_fit_is_told(bench: Bench, arguments: dict[str, Any], said: str) -> None:
    status, text = await bench.use("code_execution", **{"language": "shell", "code": "true", **arguments})
    assert status == "failed"
    assert said in text


async def test_too_many_files_are_told_before_anything_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_execution, "MAX_FILES", 1)
    for name in "ab":
        await bench.use("file_write", path=name, content=name)
    status, text = await bench.use("code_execution", language="shell", code="true", files=["**"])
    assert (status, "narrow them" in text) == ("failed", True)


async def test_files_of_another_organisation_cannot_be_named(bench: Bench) -> None:
    other = await bench.elsewhere()
    await other.use("file_write", path="theirs.txt", content="secret")
    status, text = await bench.use("code_execution", language="shell", code="ls", files=["**"])
    assert (status, "secret" in text or "theirs" in text) == ("failed", False)


async def test_without_a_sandbox_nothing_runs(bench: Bench) -> None:
    services = replace(bench.services, sandbox=NoSandbox(why=("Bubblewrap does not hold.",)))
    with pytest.raises(ToolRefused, match="No sandbox holds on this machine, so code is not run"):
        await code_execution.run(Args(language="shell", code="true"), context(bench, services=services))  # type: ignore[arg-type]


def test_only_files_that_stay_make_it_a_write() -> None:
    effects = [
        code_execution.effect_of(Args(language="shell", code="true", keep=keep))  # type: ignore[arg-type]
        for keep in (False, (), True, ("a/**",))
    ]
    assert effects == [CallEffect.READ, CallEffect.READ, CallEffect.WRITE, CallEffect.WRITE]


async def test_a_lost_program_that_keeps_files_is_not_run_again_and_one_that_keeps_none_is(bench: Bench) -> None:
    append = {"language": "shell", "code": "echo line >>log.txt"}
    kept = await bench.effect_without_outcome("code_execution", **append, keep=True)
    assert (await bench.carry_out(kept)).status.value == "unknown"
    read = await bench.effect_without_outcome("code_execution", **append)
    assert (await bench.carry_out(read)).status.value == "succeeded"
    assert "log.txt  5 bytes  version 1" in (await bench.use("file_list"))[1]


async def test_the_path_can_stop_a_program_that_it_gave_up(bench: Bench) -> None:
    args = Args(language="shell", code="while :; do sleep 1; done")  # type: ignore[arg-type]
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await code_execution.run(args, context(bench))
    assert time.monotonic() - began < 4
