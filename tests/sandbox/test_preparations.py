"""What a sandbox prepares once on a machine, and that an attempt which broke off is in nobody's way."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.sandbox import bubblewrap as layer
from workers.sandbox import programs
from workers.sandbox.account import Account
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.sandbox import Language, Limits, Program, SandboxRefused

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap needs Linux")
QUESTION = Program(Language.SQL, "select 6 * 7 as answer;")
STRANGER = Account(61_100, 61_100, False)


@pytest.fixture
def unprepared(bubblewrap: Bubblewrap) -> Iterator[Bubblewrap]:
    """A sandbox that has not made its database's template."""
    with tempfile.TemporaryDirectory(prefix="pam-templates-") as folder:
        Path(folder).chmod(0o755)
        box = Bubblewrap(home=bubblewrap._home)
        box._home = Path(folder)
        yield box


async def test_a_database_that_could_not_be_prepared_is_prepared_by_the_next_program(
    unprepared: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(layer, "_INITIALISE", "touch /template/half; echo disk full; exit 3")
        with pytest.raises(SandboxRefused, match="could not be prepared: disk full"):
            await unprepared.run(QUESTION, (), Limits())
    assert list(unprepared._home.iterdir()) == []
    with monkeypatch.context() as slow:
        slow.setattr(layer, "_INITIALISE", "touch /template/half; sleep 20")
        first = asyncio.create_task(unprepared.run(QUESTION, (), Limits()))
        async with asyncio.timeout(10):
            while not list(unprepared._home.glob("*/half")):
                await asyncio.sleep(0.02)
        (half,) = unprepared._home.iterdir()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert list(unprepared._home.iterdir()) == []
    half.mkdir()  # and what a worker left that was killed
    (half / "half").touch()
    assert "42" in (await unprepared.run(QUESTION, (), Limits())).output
    assert [path.name for path in unprepared._home.iterdir()] == [half.name.rpartition(".")[0]]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_copy_that_broke_off_is_made_anew(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "closed" / "thing"
    source.mkdir(parents=True)
    source.parent.chmod(0o700)
    (source / "text").write_text("whole")
    if kind == "file":
        source = source / "text"
    else:
        os.mkfifo(source / "pipe")  # no copy of it can be made
        with pytest.raises(OSError, match="named pipe"):
            programs.within_reach(source, tmp_path / "home", STRANGER)
        (parent,) = (tmp_path / "home").iterdir()
        assert list(parent.iterdir()) == []
        (source / "pipe").unlink()
    copy = programs.within_reach(source, tmp_path / "home", STRANGER)
    half = copy.with_name(f"{source.name}.{os.getpid()}")
    if kind == "file":
        half.write_text("half")
    else:
        half.mkdir()
    os.utime(source, (1, 1))  # a newer one is copied anew
    assert programs.within_reach(source, tmp_path / "home", STRANGER) == copy
    assert (copy if kind == "file" else copy / "text").read_text() == "whole"
    assert not half.exists()
