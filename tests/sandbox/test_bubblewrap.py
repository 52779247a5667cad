"""Programs in bubblewrap: what they get, what comes back, and that nothing of them is left."""

import asyncio
import os
import re
import secrets
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.cli.setting import home
from workers.sandbox import copying, seccomp, walls
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.probe import sandbox_home
from workers.sandbox.sandbox import MIB, InputFile, Language, Limits, Outcome, Program, SandboxRefused, Stop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap needs Linux")
PYTHON, SHELL, SQL = Language.PYTHON, Language.SHELL, Language.SQL
ROOT = Path(__file__).parents[2]


async def done(box: Bubblewrap, language: Language, code: str, *files: InputFile, **limits: float) -> Outcome:
    """One program under the usual limits, some of them changed."""
    return await box.run(Program(language, code), files, replace(Limits(wall_seconds=20), **limits))  # type: ignore[arg-type]


def processes_of(marker: str) -> list[int]:
    """Processes of this machine that have a word in their command line."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or ())]


async def until_gone(marker: str) -> None:
    async with asyncio.timeout(10):
        while processes_of(marker):
            await asyncio.sleep(0.02)


async def until_there(marker: str) -> None:
    async with asyncio.timeout(10):
        while not processes_of(marker):
            await asyncio.sleep(0.02)


async def test_python_reads_a_given_file_and_its_changes_come_back(bubblewrap: Bubblewrap) -> None:
    code = "text = open('a/in.txt').read()\nopen('a/out.txt', 'w').write(text.upper())\nopen('same.txt').read()\nprint(2 + 2)"
    outcome = await done(bubblewrap, PYTHON, code, InputFile("a/in.txt", b"hello"), InputFile("same.txt", b"x"))
    assert (outcome.exit_code, outcome.output, outcome.changed) == (0, "4\n", {"a/out.txt": b"HELLO"})
    assert outcome.usage.cpu_seconds > 0
    assert outcome.left_out == ()


async def test_numpy_and_pandas_are_there_and_the_workspace_can_be_imported(bubblewrap: Bubblewrap) -> None:
    code = (
        "import numpy, pandas, mine\nprint(int(numpy.arange(4).sum()), len(pandas.DataFrame({'a': [1, 2]})), mine.one)"
    )
    outcome = await done(bubblewrap, PYTHON, code, InputFile("mine.py", b"one = 1"))
    assert outcome.output == "6 2 1\n"


async def test_a_shell_script_tells_its_exit_code_and_both_streams_in_order(bubblewrap: Bubblewrap) -> None:
    outcome = await done(
        bubblewrap, SHELL, "echo one; echo two >&2; echo three >/dev/stdout; python3 -c 'print(4)'; exit 9"
    )
    assert (outcome.exit_code, outcome.output) == (9, "one\ntwo\nthree\n4\n")


async def test_a_signal_shows_as_128_and_its_number(bubblewrap: Bubblewrap) -> None:
    assert (await done(bubblewrap, PYTHON, "import os; os.kill(os.getpid(), 11)")).exit_code == 139


async def test_sql_runs_on_a_database_that_forgets(bubblewrap: Bubblewrap) -> None:
    code = "create table t (n int); insert into t select generate_series(1, 3);\n\\i more.sql\n"
    first = await done(bubblewrap, SQL, code, InputFile("more.sql", b"select sum(n) as total from t;"))
    assert first.exit_code == 0
    assert "total" in first.output
    assert " 6\n" in first.output
    second = await done(bubblewrap, SQL, "select * from t;")
    assert second.exit_code == 3
    assert 'relation "t" does not exist' in second.output


async def test_programs_side_by_side_do_not_meet(bubblewrap: Bubblewrap) -> None:
    code = "touch mine-{0}; touch /tmp/mine-{0}; touch /dev/shm/mine-{0}; sleep 0.3; ls . /tmp /dev/shm | grep -c mine"
    outcomes = await asyncio.gather(*(done(bubblewrap, SHELL, code.format(n)) for n in range(3)))
    assert [outcome.output for outcome in outcomes] == ["3\n"] * 3


async def test_output_is_shown_while_the_program_runs(bubblewrap: Bubblewrap) -> None:
    seen: list[str] = []
    first = asyncio.Event()

    async def show(text: str) -> None:
        seen.append(text)
        first.set()

    program = Program(SHELL, "echo early; while ! [ -e never ]; do sleep 1; done")
    running = asyncio.create_task(bubblewrap.run(program, (), Limits(wall_seconds=20), show))
    await asyncio.wait_for(first.wait(), 10)
    assert seen == ["early\n"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_only_the_end_of_long_output_is_kept_and_all_is_counted(bubblewrap: Bubblewrap) -> None:
    outcome = await done(bubblewrap, PYTHON, "print('a' * 500_000 + 'end')", kept_output_bytes=1000)
    assert (len(outcome.output), outcome.output[-4:], outcome.output_bytes) == (1000, "end\n", 500_004)


async def test_a_stopped_program_says_why_and_takes_its_whole_tree(bubblewrap: Bubblewrap) -> None:
    code = "(setsid sh -c 'trap \"\" TERM; sleep 4321.5' &); trap '' TERM INT; sleep 4321.5; sleep 4321.5"
    outcome = await done(bubblewrap, SHELL, code, wall_seconds=0.5)
    assert (outcome.exit_code, outcome.stopped) == (None, Stop.TIME)
    assert processes_of("4321.5") == []


async def test_what_a_program_left_running_ends_with_it(bubblewrap: Bubblewrap) -> None:
    outcome = await done(
        bubblewrap, SHELL, "(setsid sh -c 'trap \"\" TERM HUP; sleep 4322.5' >/dev/null 2>&1 &); exit 0"
    )
    assert (outcome.exit_code, outcome.stopped) == (0, None)
    assert processes_of("4322.5") == []


async def test_a_cancelled_call_takes_the_whole_tree(bubblewrap: Bubblewrap) -> None:
    running = asyncio.create_task(done(bubblewrap, SHELL, "(setsid sleep 4323.5 &); sleep 4323.5; sleep 4323.5"))
    await until_there("4323.5")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_of("4323.5") == []


@pytest.mark.parametrize("way", ["copy_in", "copy_out"])
async def test_a_cancelled_call_keeps_its_folders_until_a_copy_is_done_with_them(
    bubblewrap: Bubblewrap, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    copy = getattr(copying, way)
    began, may_go_on = threading.Event(), threading.Event()
    places: list[os.stat_result] = []

    def slow(folder: int, *given: object) -> object:
        places.append(os.fstat(folder))
        began.set()
        may_go_on.wait(20)
        places.append(os.fstat(folder))
        return copy(folder, *given)

    monkeypatch.setattr(f"workers.sandbox.bubblewrap.{way}", slow)
    before = len(os.listdir("/proc/self/fd"))
    running = asyncio.create_task(done(bubblewrap, SHELL, "true", InputFile("a", b"a")))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(2):  # an impatient caller cancels twice
        running.cancel()
        await asyncio.wait({running}, timeout=0.1)
        assert not running.done()
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [place.st_dev for place in places] == [places[0].st_dev] * 2
    assert len(os.listdir("/proc/self/fd")) == before


_WORKER = """
import asyncio, sys
from pathlib import Path
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.sandbox import Language, Limits, Program
box = Bubblewrap(home=Path(sys.argv[1]))
asyncio.run(box.run(Program(Language.SHELL, "(setsid sleep " + sys.argv[2] + " &); sleep " + sys.argv[2]), (), Limits()))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_dies_takes_the_whole_tree(number: signal.Signals) -> None:
    marker = f"4324.{secrets.randbelow(10**9)}"  # its own: what another test leaves behind is that test's fault
    box = sandbox_home(str(home()))
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WORKER, str(box), marker), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    await until_there(f"sleep {marker}")
    worker.send_signal(number)
    await worker.wait()
    try:
        await until_gone(f"sleep {marker}")
    finally:
        for pid in processes_of(f"sleep {marker}"):
            os.kill(pid, signal.SIGKILL)


async def test_memory_of_many_processes_counts_together(bubblewrap: Bubblewrap) -> None:
    code = "import os, time\nfor _ in range(4): os.fork()\nheld = os.urandom(20_000_000)\ntime.sleep(15)"
    outcome = await done(bubblewrap, PYTHON, code, memory_bytes=100 * MIB)
    assert outcome.stopped is Stop.MEMORY
    assert outcome.usage.most_memory_bytes > 100 * MIB


async def test_a_machine_short_of_memory_stops_programs(bubblewrap: Bubblewrap) -> None:
    outcome = await done(bubblewrap, SHELL, "sleep 15", host_memory_left_bytes=2**60)
    assert outcome.stopped is Stop.HOST


async def test_files_that_do_not_fit_are_refused_with_what_to_do(bubblewrap: Bubblewrap) -> None:
    with pytest.raises(SandboxRefused, match="bring fewer or smaller files"):
        await done(bubblewrap, SHELL, "true", InputFile("big", bytes(3 * MIB)), disk_bytes=MIB)


@pytest.mark.parametrize("path", ["../up", "/etc/x", "a/../../up", "a//b", ""])
async def test_a_given_path_cannot_leave_the_folder(bubblewrap: Bubblewrap, path: str) -> None:
    with pytest.raises(SandboxRefused):
        await done(bubblewrap, SHELL, "true", InputFile(path, b"x"))


async def test_nothing_of_the_worker_is_left_open(bubblewrap: Bubblewrap) -> None:
    await done(bubblewrap, SHELL, "true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await done(bubblewrap, SHELL, "yes", output_bytes=10_000)
        with pytest.raises(SandboxRefused):
            await done(bubblewrap, SHELL, "true", InputFile("/", b""))
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [child for child in psutil.Process().children() if "bwrap" in child.name()]


async def test_bwrap_that_cannot_start_is_a_refusal_with_its_words(
    bubblewrap: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walls, "FOLDER", "/proc/nowhere")
    with pytest.raises(SandboxRefused, match="could not start: bwrap: "):
        await done(bubblewrap, SHELL, "true")


async def test_no_package_of_the_interpreter_comes_along(bubblewrap: Bubblewrap) -> None:
    code = "import glob, sys\nprint(sorted(p for b in (sys.base_prefix, '/usr') for p in glob.glob(b + '/lib/python3*/*-packages/*')))"
    assert (await done(bubblewrap, PYTHON, code)).output == "[]\n"


async def test_the_environment_of_bwrap_itself_is_empty(
    bubblewrap: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAM_CANARY", "canary-of-bwrap")
    outcome = await done(bubblewrap, SHELL, "cat /proc/1/environ; env")
    assert "canary-of-bwrap" not in outcome.output
    assert "PATH=" in outcome.output


@pytest.mark.parametrize("number", ["0x40000000 | 39", "0x40000000 | 425"])
async def test_calls_of_another_kind_of_machine_kill(bubblewrap: Bubblewrap, number: str) -> None:
    code = f"import ctypes\nprint(ctypes.CDLL(None).syscall({number}))"
    outcome = await done(bubblewrap, PYTHON, code)
    if os.uname().machine == "x86_64":
        assert (outcome.exit_code, outcome.output) == (159, "Bad system call\n")
    else:
        assert outcome.output == "-1\n"


@pytest.mark.parametrize("path", ["../up", "inner/../../up", "./../up"])
def test_a_path_that_climbs_is_refused_by_the_copy_itself(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    folder = os.open(tmp_path / "folder", os.O_RDONLY)
    try:
        with pytest.raises(SandboxRefused):
            copying.copy_in(folder, (InputFile(path, b"x"),))
    finally:
        os.close(folder)
    assert not (tmp_path / "up").exists()


def test_a_link_is_not_followed_even_where_a_file_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "secret")
    looked = os.stat(tmp_path / "secret")
    monkeypatch.setattr(copying.os, "stat", lambda *given, **named: looked)  # as if it was swapped in between
    folder = os.open(tmp_path / "folder", os.O_RDONLY)
    try:
        harvest = copying.copy_out(folder, (), Limits())
    finally:
        os.close(folder)
    assert harvest.changed == {}
    assert [left.path for left in harvest.left_out] == ["link"]


_OPEN_FILTER = seccomp._return(seccomp._ALLOW)


@pytest.fixture(scope="module")
def without_filter() -> Bubblewrap:
    """The walls alone, so that a hole in them is not hidden by the list of system calls."""
    box = Bubblewrap(home=sandbox_home(str(home())))
    box._seccomp = _OPEN_FILTER
    return box


@pytest.mark.parametrize(
    ("code", "stopped_by"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 80), 1)", "unreachable|refused"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "unreachable"),
        ("import os; os.mknod('d', 0o60666, os.makedev(254, 0))", "not permitted"),
        ("import os; os.chroot('/tmp')", "not permitted"),
        ("import socket; socket.sethostname('x')", "not permitted"),
        ("import time; time.clock_settime(time.CLOCK_REALTIME, 0)", "not permitted"),
        ("import ctypes, os; l = ctypes.CDLL(None, use_errno=True)\nif l.unshare(0x10000000): raise OSError(os.strerror(ctypes.get_errno()))", "No space left|not permitted"),
    ],
)  # fmt: skip
async def test_the_walls_hold_without_the_list_of_system_calls(
    without_filter: Bubblewrap, code: str, stopped_by: str
) -> None:
    outcome = await done(without_filter, PYTHON, code)
    assert outcome.exit_code == 1, outcome.output
    assert re.search(stopped_by, outcome.output)


def test_the_filter_knows_both_processors_and_names_no_call_twice() -> None:
    for machine in seccomp.MACHINES.values():
        numbers = list(seccomp.denied(machine).values())
        assert len(numbers) == len(set(numbers)) > 55
        assert len(seccomp.assembled(machine)) % 8 == 0
        assert len(seccomp.assembled(machine)) // 8 < 4096


def test_the_numbers_of_the_filter_are_the_kernels_own() -> None:
    headers = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not headers.exists():
        pytest.skip("the kernel's headers are not installed")
    told = dict(line.split()[1:3] for line in headers.read_text().splitlines() if line.startswith("#define __NR_"))
    ours = seccomp.denied(seccomp.MACHINES["x86_64"])
    wrong = {name for name, number in ours.items() if told.get(f"__NR_{name}", str(number)) != str(number)}
    assert wrong == set()
