"""code_execution: workspace in, changed files out, what the model reads, and what people see meanwhile."""

import asyncio
import hashlib
import time
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from tests.support.bench import Bench
from tests.tools.test_files import put_bytes
from workers.kernel.blobs import place_of
from workers.kernel.errors import FenceLost
from workers.kernel.ledger import files
from workers.kernel.ledger.files import FileEntry
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import CallEffect
from workers.kernel.workspace import Workspace
from workers.sandbox import bubblewrap
from workers.sandbox.sandbox import Limits, NoSandbox, Stop
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


async def test_viewers_see_what_changed_in_the_texts_that_were_given(bench: Bench) -> None:
    await bench.use("file_write", path="a.txt", content="one\ntwo\nthree\n")
    await bench.use("file_write", path="same.txt", content="same")
    await put_bytes(bench, "b.bin", b"\0old")
    await put_bytes(bench, "c.txt", b"text")
    await put_bytes(bench, "d.txt", b"text")
    await put_bytes(bench, "long.txt", b"a long line of a long file\n" * 50_000)
    code = (
        "sed -i s/two/2/ a.txt; printf text >b.bin; printf '\\0new' >c.txt; printf '\\377' >d.txt; "
        "printf short >long.txt; printf new >new.txt"
    )
    args = Args(language="shell", code=code, files=("**",), keep=True)  # type: ignore[arg-type]
    result = await code_execution.run(args, context(bench))
    told = {changed["path"]: changed for changed in result.notes["pam.files_changed"]}
    diff = "--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three"
    assert told["a.txt"] == {"path": "a.txt", "version": 2, "size_bytes": 12, "diff": diff}
    assert told["long.txt"]["diff"] == "[diff left out: the file held 1,350,000 bytes, and 1,048,576 are compared]"
    assert sorted(told) == ["a.txt", "b.bin", "c.txt", "d.txt", "long.txt", "new.txt"]
    assert [path for path, changed in told.items() if "diff" in changed] == ["a.txt", "long.txt"]


async def test_many_diffs_are_capped_together(bench: Bench) -> None:
    for name in "abc":
        await bench.use("file_write", path=f"{name}.txt", content=f"{name}\n")
    code = "for name in a b c; do seq 9000 | sed s/$/$name/ >$name.txt; done"
    args = Args(language="shell", code=code, files=("**",), keep=True)  # type: ignore[arg-type]
    result = await code_execution.run(args, context(bench))
    diffs = [changed["diff"] for changed in result.notes["pam.files_changed"]]
    assert [len(diff) < 200 for diff in diffs] == [True, True, True], "9,000 lines are counted, not compared"
    code = "for name in a b c; do seq 4000 | sed s/$/$name/ >$name.txt; done"
    for name in "abc":
        await bench.use("file_write", path=f"{name}.txt", content=f"{name}\n", version=2)
    result = await code_execution.run(args.model_copy(update={"code": code}), context(bench))
    diffs = [changed["diff"] for changed in result.notes["pam.files_changed"]]
    assert len(diffs[0]) > 20_000
    assert "[diff cut: " in diffs[0]
    assert diffs[1:] == ["[diff left out: the event holds 20,000 characters of diffs]"] * 2
    assert len(str(result.notes)) < 25_000


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


async def test_a_machine_short_of_memory_is_not_called_the_programs_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_execution, "Limits", partial(Limits, host_memory_left_bytes=2**60))
    status, text = await bench.use("code_execution", language="shell", code="sleep 30")
    assert status == "succeeded"
    assert text.startswith("Stopped: the machine that it ran on was short of memory, which is not the program's fault:")


def test_every_reason_to_stop_has_its_sentence() -> None:
    assert set(code_execution._WHY) == set(Stop)


async def test_sql_answers_rows(bench: Bench) -> None:
    status, text = await bench.use("code_execution", language="sql", code="select 6 * 7 as answer")
    assert (status, "answer" in text, "42" in text) == ("succeeded", True, True)


async def test_viewers_see_the_last_word_while_a_program_is_silent_and_not_too_often(bench: Bench) -> None:
    code = "import time\nfor n in range(60):\n    print(n, end=' ', flush=True); time.sleep(0.01)\ntime.sleep(60)"
    call = await bench.planned("code_execution", {"language": "python", "code": code})
    running = asyncio.create_task(bench.carry_out(call))
    shown: list[str] = []
    async with asyncio.timeout(20):
        while not "".join(shown).endswith("59 "):
            assert not running.done()
            await asyncio.sleep(0.05)
            frames = await bench.database.admin(
                "select payload from realtime.messages where event = 'preview' and topic = %s order by inserted_at",
                f"run:{bench.hold.run_id}",
            )
            shown = [frame["payload"]["text"] for frame in frames]
    assert "".join(shown) == "".join(f"{n} " for n in range(60))
    assert len(shown) <= 6
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


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


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("trouble", ["lost", "gone", "slow"])
async def test_files_that_cannot_be_brought_are_a_plain_failure_for_no_program_has_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, trouble: str, keep: bool
) -> None:
    long = b"a long line of a long file\n" * 50_000  # so that its bytes lie in object storage alone
    await put_bytes(bench, "big.txt", long)
    match trouble:
        case "lost":
            while await bench.services.workspace.store(bench.hold.gateway):
                pass
            place = place_of(bench.org_id, hashlib.sha256(long).hexdigest())
            (bench.services.workspace._blobs._folder / place).unlink()  # type: ignore[attr-defined]
            said = "big.txt, version 1, cannot be read from object storage"
        case "gone":
            listed = files.list_all

            async def before(hold: Hold) -> list[FileEntry]:
                return [*await listed(hold), FileEntry("gone.txt", 1, 1, True)]

            monkeypatch.setattr(files, "list_all", before)  # as if it was taken away in between
            said = "gone.txt: There is no such file"
        case _:
            monkeypatch.setattr(code_execution, "_BRINGING_SECONDS", 0)
            said = "took more than 0 s"
    status, text = await bench.use("code_execution", language="shell", code="true", files=["**"], keep=keep)
    assert (status, text.partition(": ")[0]) == ("failed", "The files could not be brought in, so nothing was run")
    assert said in text


async def test_a_run_that_was_lost_while_files_are_brought_stays_lost(bench: Bench) -> None:
    await bench.use("file_write", path="a.txt", content="a")
    lost = FenceLost("another worker holds the run")

    class Lost(Workspace):
        async def read(self, *given: Any, **named: Any) -> Any:
            raise lost

    services = replace(bench.services, workspace=Lost(blobs=bench.services.workspace._blobs))
    args = Args(language="shell", code="true", files=("**",), keep=True)  # type: ignore[arg-type]
    with pytest.raises(FenceLost):
        await code_execution.run(args, context(bench, services=services))


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


async def test_the_path_can_stop_a_program_that_it_gave_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "_END_SECONDS", 60)  # it is killed at once, not when patience ends
    runs = asyncio.Event()

    async def heard(_: str) -> None:
        runs.set()

    args = Args(language="shell", code="echo it runs; while :; do sleep 1; done")  # type: ignore[arg-type]
    running = asyncio.create_task(code_execution.run(args, context(bench, on_output=heard)))
    await asyncio.wait_for(runs.wait(), 30)
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 20
