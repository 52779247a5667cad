"""Runs the mutations: each in a database or a tree of its own, two at a time; a survivor fails and is named."""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rich.markup import escape

from infra import installation
from infra.cli.setting import SCRIPTS, home
from infra.local.attach import running_stack
from infra.local.facts import StackFacts
from infra.local.lite import Lite
from infra.local.stack import HERE, ROOT, SEED, StackOptions
from infra.mutations import catalogue
from infra.mutations.listed import MUTATIONS
from infra.mutations.mutation import Edit, Mutation, SqlChange, TargetVanished
from infra.pytest_run import counted, harmless

AT_ONCE = 2
PATIENCE_SECONDS = 180
BASE = "pam_mutation"
BARE, SAMPLE, CHECK = f"{BASE}_bare", f"{BASE}_sample", f"{BASE}_check"
FAST = (("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off"))


class Verdict(StrEnum):
    """How a mutation ended; only the first is good."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    VANISHED = "vanished"
    BROKEN = "broken"


@dataclass(frozen=True)
class Outcome:
    """A verdict and its reason: the test that noticed, or what went wrong."""

    mutation: Mutation
    verdict: Verdict
    reason: str


class Laboratory:
    """One stack for the mutations in SQL, and a prepared database to clone."""

    def __init__(self, *, facts: StackFacts, folder: Path) -> None:
        self._facts = facts
        self._folder = folder
        self._checking = asyncio.Lock()
        self._count = 0
        self._complaints: dict[tuple[bool, tuple[str, ...]], asyncio.Future[str | None]] = {}

    async def prepare(self) -> None:
        """The databases that mutations in SQL start from: the platform and PAM, and the same with the sample."""
        await self._server(f"create database {BARE} template template0")
        auth_schema = await Lite(home=home()).auth_schema()
        platform, after = ((HERE / name).read_text() for name in ("platform.sql", "platform_after_auth.sql"))
        async with await psycopg.AsyncConnection.connect(self.dsn(BARE), autocommit=True) as connection:
            for text in (platform, auth_schema, after):
                await connection.execute(text.encode())
        await installation.install(self.dsn(BARE, as_owner=True))
        for name in (CHECK, SAMPLE):
            await self._server(f"create database {name} template {BARE} strategy file_copy")
            await self._server(f"alter database {name} owner to postgres")
        async with await psycopg.AsyncConnection.connect(
            self.dsn(SAMPLE, as_owner=True), autocommit=True
        ) as connection:
            await connection.execute(SEED.read_bytes())

    def dsn(self, database: str, *, as_owner: bool = False) -> str:
        """A database of the stack, as its superuser or as the project's owner."""
        parts: dict[str, Any] = conninfo_to_dict(self._facts.owner_dsn if as_owner else self._facts.admin_dsn)
        return make_conninfo(**{**parts, "dbname": database})

    async def _server(self, statement: str) -> None:
        async with await psycopg.AsyncConnection.connect(self._facts.admin_dsn, autocommit=True) as connection:
            await connection.execute(statement.encode())

    async def judge(self, mutation: Mutation) -> Outcome:
        """Take the guard away, run its tests, say what they said."""
        missing = [
            word for word in mutation.tests if word.startswith("tests/") and not (ROOT / word.split("::")[0]).exists()
        ]
        if missing:
            return Outcome(mutation, Verdict.SURVIVED, f"there is no {', '.join(missing)}")
        complaint = await self._before(mutation)
        if complaint:
            return Outcome(mutation, Verdict.BROKEN, f"without the mutation: {complaint}")
        match mutation.change:
            case SqlChange(statements):
                return await self._in_database(mutation, statements)
            case Edit() as edit:
                return await self._in_copy(mutation, edit)

    async def _before(self, mutation: Mutation) -> str | None:
        """What its tests complain about while the guard is in place: a test that fails anyway notices nothing."""
        is_sql = isinstance(mutation.change, SqlChange)
        known = self._complaints.get((is_sql, mutation.tests))
        if known is None:
            known = asyncio.ensure_future(self._complain(mutation.tests, is_sql=is_sql))
            self._complaints[is_sql, mutation.tests] = known
        return await known

    async def _complain(self, tests: tuple[str, ...], *, is_sql: bool) -> str | None:
        status, said, report = await self._test(tests, ROOT, self._shared("") if is_sql else {})
        return None if status == 0 else f"{failed_test(report) or 'its tests'}: {said}"

    def _shared(self, statements: str) -> dict[str, str]:
        """What lets pytest use this stack, and copies of its prepared databases with these statements applied."""
        return {"PAM_TEST_STACK": self._facts.state, "PAM_TEST_BASE": BASE, "PAM_TEST_MUTATION": statements}

    async def _in_database(self, mutation: Mutation, statements: str) -> Outcome:
        try:
            async with self._checking, await psycopg.AsyncConnection.connect(self.dsn(CHECK)) as connection:
                await connection.execute(statements.encode())
                await connection.rollback()
        except psycopg.Error as error:
            return Outcome(mutation, Verdict.VANISHED, str(error).splitlines()[0])
        return self._judged(mutation, *await self._test(mutation.tests, ROOT, self._shared(statements)))

    async def _drop_databases_of(self, pid: int) -> None:
        """What a run of pytest on this stack leaves behind: its templates are named after its process."""
        async with await psycopg.AsyncConnection.connect(self._facts.admin_dsn, autocommit=True) as connection:
            pattern = rf"\_{pid}(\_\d+)?$"
            cursor = await connection.execute(
                "select datname from pg_catalog.pg_database where datname ~ %s", [pattern]
            )
            for (name,) in await cursor.fetchall():
                await connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    async def _in_copy(self, mutation: Mutation, edit: Edit) -> Outcome:
        self._count += 1
        tree = self._folder / f"tree-{self._count}"
        await asyncio.to_thread(copy_tree, tree)
        try:
            edit.apply(tree)
            return self._judged(mutation, *await self._test(mutation.tests, tree, {"PYTHONPATH": str(tree)}))
        except TargetVanished as error:
            return Outcome(mutation, Verdict.VANISHED, str(error))
        finally:
            await asyncio.to_thread(shutil.rmtree, tree, ignore_errors=True)

    def _judged(self, mutation: Mutation, status: int, said: str, report: Path) -> Outcome:
        # A verb that fails while a test's world is filled was noticed; a tree that cannot even start was not.
        noticed = failed_test(report, or_error=isinstance(mutation.change, SqlChange))
        if status == 0:
            return Outcome(mutation, Verdict.SURVIVED, f"{counted(report)[0]} tests passed")
        if status == 1 and noticed:
            return Outcome(mutation, Verdict.CAUGHT, noticed)
        return Outcome(mutation, Verdict.BROKEN, f"status {status}: {said}")

    async def _test(self, tests: tuple[str, ...], tree: Path, environment: dict[str, str]) -> tuple[int, str, Path]:
        """pytest's exit status, its last words, and its report."""
        report = self._folder / f"report-{time.monotonic_ns()}.xml"
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--timeout=40", f"--junitxml={report}"),
            *tests,
            cwd=tree,
            env={**harmless(os.environ), **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(child.communicate(), PATIENCE_SECONDS)
        except TimeoutError:
            return -1, f"its tests did not end within {PATIENCE_SECONDS} s", report
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
            if "PAM_TEST_BASE" in environment:
                await self._drop_databases_of(child.pid)
        lines = output.decode(errors="replace").strip().splitlines()
        said = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1] if lines else "nothing")
        return child.returncode or 0, said, report


def copy_tree(target: Path) -> None:
    """The checkout without what is hidden or compiled."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".*", "__pycache__"), symlinks=True)


def failed_test(report: Path, *, or_error: bool = False) -> str | None:
    """The first test of a JUnit report that failed, or whose fixtures did."""
    kinds = ("failure", "error") if or_error else ("failure",)
    try:
        cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314 - our own pytest wrote it
        return next((str(c.get("name")) for c in cases if any(c.find(kind) is not None for kind in kinds)), None)
    except (OSError, ElementTree.ParseError):
        return None


def is_wanted(number: int, name: str, wanted: Sequence[str]) -> bool:
    """Whether a word is in the name, or is `N..`, which goes on where a broken run stopped; no words: all."""
    starts = [int(word[:-2]) for word in wanted if word.endswith("..") and word[:-2].isdecimal()]
    return not wanted or any(number >= start for start in starts) or any(word in name for word in wanted)


async def _run(wanted: Sequence[str], console: Console) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="pam-mutations-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        options = StackOptions(
            state=folder / "stack", home=home(), model=None, scripts=(SCRIPTS,), workers=0, postgres_settings=FAST
        )
        async with running_stack(options) as facts:
            laboratory = Laboratory(facts=facts, folder=folder)
            await laboratory.prepare()
            every = [*await catalogue.found(laboratory.dsn(CHECK)), *MUTATIONS]
            chosen = [m for number, m in enumerate(every, 1) if is_wanted(number, m.name, wanted)]
            at_once = asyncio.Semaphore(AT_ONCE)

            async def judged(mutation: Mutation) -> None:
                async with at_once:
                    outcome = await laboratory.judge(mutation)
                outcomes.append(outcome)
                mark = "[green]✔[/green]" if outcome.verdict is Verdict.CAUGHT else "[red]✘[/red]"
                said = (
                    f"caught by {outcome.reason}"
                    if outcome.verdict is Verdict.CAUGHT
                    else f"{outcome.verdict}: {outcome.reason}"
                )
                console.print(
                    f"{mark} {len(outcomes)}/{len(chosen)} {escape(mutation.name)} … {escape(said)}", soft_wrap=True
                )

            async with asyncio.TaskGroup() as group:
                for mutation in chosen:
                    group.create_task(judged(mutation))
    return outcomes


def run_mutations(args: Sequence[str], *, console: Console) -> dict[str, Any]:
    """Run the mutations that `is_wanted` picks by these words; status 1 unless all were caught."""
    began = time.monotonic()
    try:
        outcomes = asyncio.run(_run(args, console))
    except KeyboardInterrupt:
        return {"status": 130, "mutations": 0, "caught": 0, "seconds": round(time.monotonic() - began, 1)}
    named = {verdict: sorted(o.mutation.name for o in outcomes if o.verdict is verdict) for verdict in Verdict}
    caught, seconds = len(named[Verdict.CAUGHT]), round(time.monotonic() - began, 1)
    is_good = bool(outcomes) and caught == len(outcomes)
    console.print(f"\n{caught} of {len(outcomes)} mutations were caught, in {seconds:.0f} s.")
    for verdict in (Verdict.SURVIVED, Verdict.VANISHED, Verdict.BROKEN):
        for name in named[verdict]:
            console.print(f"[red]{verdict}[/red]: {escape(name)}", soft_wrap=True)
    return {
        "status": 0 if is_good else 1,
        "mutations": len(outcomes),
        "caught": caught,
        "survived": named[Verdict.SURVIVED],
        "vanished": named[Verdict.VANISHED],
        "broken": named[Verdict.BROKEN],
        "seconds": seconds,
    }
