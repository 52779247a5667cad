"""The pages for people who write policies: every example on them runs, and every tool has its page."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from tests.support.database import Template
from workers.kernel.ledger.approvals import Ask
from workers.kernel.ledger.tool_calls import RecordedCall
from workers.tools import CARD_TOOLS, TOOLS

PAGES = Path(__file__).resolve().parents[2] / "workers" / "tools"
_BLOCK = re.compile(r"^```(sql|pam)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A fenced block of a page: its kind, its lines, and the line it stands at."""

    kind: str
    text: str
    line: int


def examples(page: Path) -> list[Example]:
    text = page.read_text()
    return [Example(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(text)]


@pytest.fixture(scope="module")
async def first_bench(template: Template, stack: StackFacts) -> AsyncIterator[Bench]:
    async with template.clone() as cloned, Bench.open(cloned, stack) as opened:
        yield opened


class Reader:
    """Does what a page says, on an organisation of its own, and holds it against what the page promises."""

    def __init__(self, *, bench: Bench, page: Path) -> None:
        self._bench = bench
        self._page = page
        self._waiting: tuple[RecordedCall, Ask] | None = None
        self._told: tuple[str, str] | None = None
        self.promises = 0

    async def sql(self, example: Example) -> None:
        """As the organisation's owner; `-- as the project's owner` in the first line: as that."""
        text = example.text.replace(":org_id", f"'{self._bench.org_id}'")
        if text.startswith("-- as the project's owner"):
            await self._bench.database.owner(text)
            return
        async with self._bench.database.person(self._bench.user_id) as connection:
            for statement in filter(str.strip, text.split(";\n")):
                rows = await (await connection.execute(statement.strip().rstrip(";").encode())).fetchall()
                refusals = [row for row in rows if "refused" in str(row)]
                assert not refusals, f"{self._page.name}:{example.line}: {refusals}"

    async def pam(self, example: Example) -> None:
        """Calls, decisions, and what each of them leads to."""
        for number, line in enumerate(example.text.splitlines(), start=example.line + 1):
            where = f"{self._page.name}:{number}: {line}"
            if not line.strip():
                continue
            if line.startswith("→ "):
                status, _, fragment = line.removeprefix("→ ").partition(":")
                assert self._told is not None, where
                assert (self._told[0], fragment.strip() in self._told[1]) == (status.strip(), True), (where, self._told)
                self.promises += 1
            elif line.split()[0] in ("approve", "reject"):
                await self._decide(line, where)
            else:
                name, _, arguments = line.partition(" ")
                await self._call(name, json.loads(arguments))

    async def _call(self, name: str, arguments: dict[str, Any]) -> None:
        call = await self._bench.planned(name, arguments)
        carried = await self._bench.carry_out_all(call)
        if carried.asks:
            ask = carried.asks[0]
            self._waiting, self._told = (call, ask), ("waits", f"{ask.why}\n{ask.shown or ''}")
        else:
            done = carried.ended[0]
            self._told = (done.status.value, done.result or "")

    async def _decide(self, line: str, where: str) -> None:
        assert self._waiting is not None, where
        verdict, _, note = line.partition(" ")
        decided = await self._bench.decided(*self._waiting, verdict=verdict, note=note or None)
        done = await self._bench.carry_out(decided)
        self._waiting, self._told = None, (done.status.value, done.result or "")


def pages() -> list[Path]:
    return sorted(PAGES.glob("*.md"))


def test_every_tool_of_a_card_has_its_page_and_no_page_is_of_nothing() -> None:
    assert {tool.name for tool in TOOLS if not tool.is_conduct} <= {page.stem for page in pages()} <= set(CARD_TOOLS)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
async def test_what_a_page_shows_happens(first_bench: Bench, page: Path) -> None:
    reader = Reader(bench=await first_bench.elsewhere(), page=page)
    for example in examples(page):
        await (reader.sql(example) if example.kind == "sql" else reader.pam(example))
    assert reader.promises >= 2, f"{page.name} promises too little to be of use"
