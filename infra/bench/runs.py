"""Figures of whole runs on the embedded stack: the first live event, a run with one tool, the cost of a step more."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from infra.bench.measure import Row, compared, timed
from infra.cli.live import LoggedEvent, PreviewFrame
from infra.cli.person import Person
from infra.local.facts import StackFacts

STEPS = 10
_TALK = """
name: bench-talk
when: bench-talk
turns:
  - expect: {role: user}
    say: "This is long enough to be seen while it is written, word by word, until somebody has seen some of it."
    seconds_per_word: 0.05
"""
_ONE_TOOL = """
name: bench-one-tool
when: bench-one-tool
turns:
  - {expect: {role: user}, say: "I look.", call: [{file_list: {}}], seconds_per_word: 0}
  - {expect: {role: tool}, say: "That is all.", seconds_per_word: 0}
"""
_LOOK = '  - {expect: {role: %s}, say: "I look.", call: [{file_list: {}}], seconds_per_word: 0}\n'
_END = '  - {expect: {role: tool}, say: "That is all.", seconds_per_word: 0}\n'
_STEPS = "name: bench-steps\nwhen: bench-steps\nturns:\n" + _LOOK % "user" + (STEPS - 1) * (_LOOK % "tool") + _END
_LISTED = {
    "type": "function",
    "function": {"name": "file_list", "description": "List files.", "parameters": {"type": "object"}},
}


@dataclass(frozen=True)
class Bench:
    """A person with an agent on the stack, and the rehearsal as a plain client sees it; `tell` takes progress."""

    facts: StackFacts
    person: Person
    org_id: str
    http: httpx.AsyncClient
    tell: Callable[[str], None]

    @classmethod
    @asynccontextmanager
    async def open(
        cls, facts: StackFacts, *, tell: Callable[[str], None] = lambda line: None
    ) -> AsyncIterator["Bench"]:
        """Sign up, make an organisation with an agent, hand the scripts over."""
        email = f"bench-{secrets.token_hex(4)}@example.com"
        person = await Person.sign_up(facts.url, facts.publishable_key, email=email, password=secrets.token_urlsafe(16))
        org_id = str((await person.call("create_organization", name="Bench"))["org_id"])
        definition = {"instructions": "You measure.", "tools": ["file_list"], "conduct_tools": []}
        await person.call("import_agent", org_id=org_id, name="bench", definition=definition, source="# bench")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            for text in (_TALK, _ONE_TOOL, _STEPS):
                name = text.split()[1]  # name: …
                url = f"{facts.rehearsal_url.removesuffix('/v1')}/rehearsal/scripts/{name}"
                (await http.put(url, content=text.encode())).raise_for_status()
            yield cls(facts, person, org_id, http, tell)

    async def start(self, script: str) -> str:
        """Start a run by RPC; answers its id."""
        return str((await self.person.call("start_run", org_id=self.org_id, agent="bench", message=script))["run_id"])

    async def until_first_live(self) -> float:
        """Seconds from the call to the first thing that the websocket brought; the run is followed to its end."""
        began = time.perf_counter()
        follower = self.person.follow(await self.start("bench-talk"))
        seen: float | None = None
        async for item in follower.follow():
            is_live = isinstance(item, PreviewFrame) or (isinstance(item, LoggedEvent) and item.is_live)
            if is_live and seen is None:
                seen = time.perf_counter() - began
        if seen is None:
            raise RuntimeError("the websocket brought nothing of a run")
        return seen

    async def whole(self, script: str) -> float:
        """Seconds from the call to the terminal event, as a person sees it."""
        began = time.perf_counter()
        async for item in self.person.follow(await self.start(script)).follow():
            if isinstance(item, LoggedEvent) and item.payload["type"] == "RUN_ERROR":
                raise RuntimeError(str(item.payload["message"]))
        return time.perf_counter() - began

    async def plain_loop(self, script: str) -> float:
        """The same script by a loop of plain httpx calls, without tools, storage or anybody who watches."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": script}]
        began = time.perf_counter()
        while calls := await self._ask(messages):
            messages.append({"role": "assistant", "content": "I look.", "tool_calls": calls})
            messages += [{"role": "tool", "tool_call_id": call["id"], "content": "0 files"} for call in calls]
        return time.perf_counter() - began

    async def _ask(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One streamed model call; answers the tool calls."""
        body = {"model": self.facts.model, "messages": messages, "tools": [_LISTED], "stream": True}
        calls: dict[int, dict[str, Any]] = {}
        url, headers = f"{self.facts.rehearsal_url}/chat/completions", {"authorization": "Bearer rehearsal"}
        async with self.http.stream("POST", url, json=body, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    for part in choice["delta"].get("tool_calls") or []:
                        call = calls.setdefault(
                            part["index"], {"type": "function", "function": {"name": "", "arguments": ""}}
                        )
                        call["id"] = part.get("id") or call["id"]
                        for key in ("name", "arguments"):
                            call["function"][key] += part["function"].get(key) or ""
        return list(calls.values())

    async def select(self) -> None:
        """One small read through PostgREST."""
        await self.person.select("organizations", "id", id=self.org_id)


async def first_event(bench: Bench) -> Row:
    """From start_run to the first live event, against one PostgREST select."""
    return await compared(
        "start_run → first live event", bench.until_first_live, "one PostgREST select", timed(bench.select)
    )


async def one_tool(bench: Bench) -> Row:
    """A whole run with one tool call, against its two model calls alone."""
    return await compared(
        "whole run with one tool",
        lambda: bench.whole("bench-one-tool"),
        "its two model calls over httpx",
        lambda: bench.plain_loop("bench-one-tool"),
    )


async def added_step(bench: Bench) -> Row:
    """What one step more costs (model call, tool call, both recorded), against one turn of a plain loop."""

    async def step() -> float:
        return (await bench.whole("bench-steps") - await bench.whole("bench-one-tool")) / (STEPS - 1)

    async def turn() -> float:
        return await bench.plain_loop("bench-steps") / (STEPS + 1)

    return await compared("one step more", step, "one turn of a plain httpx loop", turn)
