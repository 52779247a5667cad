"""Real people on the running stack: signed up through Auth, calling PAM through PostgREST, following runs over Realtime."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from ag_ui_validate import create_validator
from psycopg.rows import dict_row

from infra.cli.live import LoggedEvent, PreviewFrame, RunFollower
from infra.cli.person import Person
from infra.local.facts import StackFacts
from tests.support.database import DEFINITION

ENDED = ("succeeded", "failed", "cancelled")
PATIENCE_SECONDS = 40.0


@dataclass(frozen=True)
class Engineer:
    """A person with an organisation that has the agent `engineer`."""

    person: Person
    org_id: str

    async def start(self, message: str, **arguments: Any) -> str:
        """Start a run by RPC; answers its id."""
        answer = await self.person.call("start_run", org_id=self.org_id, agent="engineer", message=message, **arguments)
        return str(answer["run_id"])


@dataclass
class Followed:
    """What a follower saw of a run."""

    events: list[dict[str, Any]] = field(default_factory=list)
    previews: list[PreviewFrame] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """The event types in order."""
        return [str(event["type"]) for event in self.events]

    def results(self) -> list[str]:
        """What the tools answered, in order."""
        return [str(e["content"]) for e in self.events if e["type"] == "TOOL_CALL_RESULT"]

    def outcomes(self) -> list[str]:
        """How the tool calls went, in order."""
        return [
            str(e["value"]["status"]) for e in self.events if e["type"] == "CUSTOM" and e["name"] == "pam.tool_outcome"
        ]

    def answer(self) -> str:
        """The text of the last message."""
        return [str(e["delta"]) for e in self.events if e["type"] == "TEXT_MESSAGE_CONTENT"][-1].strip()


class House:
    """The stack with people in it."""

    def __init__(self, *, facts: StackFacts, http: httpx.AsyncClient) -> None:
        self.facts = facts
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, facts: StackFacts) -> AsyncIterator["House"]:
        """Open the house."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            yield cls(facts=facts, http=http)

    async def person(self) -> Person:
        """Somebody new, signed up through Auth."""
        return await Person.sign_up(
            self.facts.url,
            self.facts.publishable_key,
            email=f"{uuid.uuid4().hex}@example.com",
            password=secrets.token_urlsafe(16),
        )

    async def engineer(self, **definition: Any) -> Engineer:
        """Somebody new with an organisation of their own and the agent `engineer`."""
        person = await self.person()
        org_id = str((await person.call("create_organization", name="Team"))["org_id"])
        await person.call(
            "import_agent", org_id=org_id, name="engineer", definition={**DEFINITION, **definition}, source="# card"
        )
        return Engineer(person, org_id)

    async def script(self, text: str) -> str:
        """Give the rehearsal a script under a name of its own; answers a message that only this script answers.

        The text has `NAME` where its name and its cue stand.
        """
        name = f"t{uuid.uuid4().hex[:12]}"
        base = self.facts.rehearsal_url.removesuffix("/v1")
        answer = await self._http.put(f"{base}/rehearsal/scripts/{name}", content=text.replace("NAME", name).encode())
        assert answer.status_code < 300, answer.text
        return f"Please play {name}."

    async def unused(self, message: str) -> Any:
        """What of a script was not played, and what it did not expect: empty when all is well."""
        name = message.removeprefix("Please play ").removesuffix(".")
        base = self.facts.rehearsal_url.removesuffix("/v1")
        report = (await self._http.get(f"{base}/rehearsal/report", params={"script": name})).json()
        return {key: report[key] for key in ("unused", "unexpected") if report[key]}

    async def play(self, engineer: Engineer, script: str, **arguments: Any) -> tuple[str, Followed]:
        """Start a run on a script, follow it to its end over Realtime, and hold it against the protocol and the script."""
        message = await self.script(script)
        run_id = await engineer.start(message, **arguments)
        followed = await self.follow(engineer.person, run_id)
        assert not await self.unused(message)
        return run_id, followed

    async def play_until_question(self, engineer: Engineer, script: str) -> tuple[str, Followed]:
        """Start a run on a script and follow it until it waits for a person."""
        run_id = await engineer.start(await self.script(script))
        return run_id, await self.follow(engineer.person, run_id)

    async def follow(self, person: Person, run_id: str) -> Followed:
        """Follow a run to its terminal event, and check what must hold for every run."""
        seen = Followed()
        follower: RunFollower = person.follow(run_id)
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for item in follower.follow():
                if isinstance(item, LoggedEvent):
                    seen.events.append(item.payload)
                elif isinstance(item, PreviewFrame):
                    seen.previews.append(item)
        assert follower.tally.gaps == 0
        assert follower.tally.duplicates == 0
        assert_valid(seen.events)
        return seen

    async def until(self, run_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the run has one of these statuses (any final one if none is named)."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                rows = await self.admin("select * from pam.runs where id = %s", run_id)
                if rows and rows[0]["status"] in (statuses or ENDED):
                    return rows[0]
                await asyncio.sleep(0.05)

    async def events(self, run_id: str) -> list[dict[str, Any]]:
        """The stored log, checked: gapless, valid, terminal last."""
        rows = await self.admin("select seq, payload from pam.events where run_id = %s order by seq", run_id)
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        payloads = [row["payload"] for row in rows]
        assert_valid(payloads)
        return payloads

    async def admin(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the database as its superuser: for looking, never for the product's work."""
        async with await psycopg.AsyncConnection.connect(
            self.facts.admin_dsn, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(statement.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []

    def log(self, process: str) -> str:
        """What a process of the stack has logged."""
        return (Path(self.facts.state) / "logs" / f"{process}.log").read_text()


def assert_valid(events: list[dict[str, Any]]) -> None:
    """Hold events against AG-UI 1.0 with the protocol's own validator."""
    validator = create_validator()
    for event in events:
        validator.feed(event)
    validator.finalize()
    faults = [d for d in validator.report().diagnostics if d.severity == "error"]
    assert not faults, faults


async def assert_every_run_is_valid(facts: StackFacts) -> None:
    """Whatever a test did: each run's log is gapless and speaks AG-UI 1.0."""
    logs: dict[str, list[dict[str, Any]]] = {}
    async with await psycopg.AsyncConnection.connect(facts.admin_dsn, row_factory=dict_row) as connection:
        async for row in await connection.execute("select run_id, seq, payload from pam.events order by run_id, seq"):
            log = logs.setdefault(str(row["run_id"]), [])
            log.append(row["payload"])
            assert row["seq"] == len(log), f"run {row['run_id']} has a gap before {row['seq']}"
    for events in logs.values():
        assert_valid(events)
