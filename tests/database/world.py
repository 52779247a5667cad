"""Two organisations with rows in every table, people in every role, and the JSON that a worker hands to its verbs."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg

from tests.support.database import Database

ROLES = ("owner", "admin", "developer", "viewer")


def step(position: int = 1, **other: Any) -> dict[str, Any]:
    """One model call as `record_step` takes it."""
    return {
        "position": position,
        "message_id": str(uuid4()),
        "text": "Looking.",
        "model": "rehearsal",
        "input_sha256": "0" * 64,
        "finish": "tool_calls",
        "input_tokens": 100,
        "cached_input_tokens": 0,
        "output_tokens": 10,
        "is_estimated": False,
        "cost_usd": "0.000125",
        "seconds": 0.2,
        **other,
    }


def call(tool: str = "file_write", effect: str = "write", **arguments: Any) -> dict[str, Any]:
    """One planned tool call as `record_step` takes it."""
    return {
        "id": str(uuid4()),
        "call_id": f"call_{uuid4().hex[:8]}",
        "tool": tool,
        "arguments": arguments,
        "effect": effect,
    }


def custom(name: str = "pam.note", value: Any = 1) -> dict[str, Any]:
    """An event that fits anywhere."""
    return {"type": "CUSTOM", "name": name, "value": value}


FINISHED = {"type": "RUN_FINISHED", "outcome": {"type": "success"}}
BROKEN = {"type": "RUN_ERROR", "message": "It broke.", "code": "broken"}


async def refused_state(verb: Any) -> str:
    """The SQLSTATE with which a verb's coroutine is refused; empty when it went through."""
    try:
        await verb
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""


@dataclass(frozen=True)
class Team:
    """An organisation, who is in it, and one run that went through every table."""

    org: UUID
    people: dict[str, UUID]
    removed: UUID
    run: UUID
    file: str = "notes.md"


@dataclass(frozen=True)
class World:
    """Two teams that must never see each other, and a stranger to both."""

    database: Database
    a: Team
    b: Team
    stranger: UUID
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    async def fill(cls, database: Database) -> "World":
        """Make both teams, through the product's own doors."""
        stranger = await database.new_person()
        await database.owner(
            "insert into pam_private.settings values ('webhook_url', 'http://127.0.0.1:9/'), ('webhook_secret', 'it is a secret')"
        )
        return cls(database, await _team(database), await _team(database), stranger)


async def _team(database: Database) -> Team:
    owner, org = await database.new_organization()
    people = {"owner": owner, **{role: await database.new_member(org, role) for role in ROLES[1:]}}
    removed = await database.new_member(org, "developer")
    await database.rpc(owner, "remove_member", org_id=org, user_id=removed)
    run = await database.new_run(people["developer"], org)
    fence = await database.claimed(run)
    planned = call(path="notes.md")
    await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[planned], events=[custom()])
    held = {"run_id": run, "fence": fence}
    await database.worker("begin_call", **held, id=planned["id"])
    await database.worker(
        "write_file", **held, call=planned["id"], path="notes.md", content="aGVsbG8=", expected_version=0
    )
    await database.worker(
        "finish_call",
        **held,
        id=planned["id"],
        status="succeeded",
        result="done",
        events=[custom()],
        output="all of it",
    )
    await database.worker("preview_message", **held, preview={"text": "hel"})
    work = {"task": "redis_get", "arguments": {"key": "a"}, "due_at": "2027-01-01T00:00:00Z"}
    submitting, coming_again = call("celery_task"), call("celery_task")
    sending = call("websocket_send", "external")
    more = [submitting, coming_again, sending]
    await database.worker("record_step", **held, step=step(2), calls=more, events=[custom()])
    for one in more:
        await database.worker("begin_call", **held, id=one["id"])
    await database.worker("submit_job", **held, call=submitting["id"], job={**work, "name": "look"})
    again = {**work, "cron": "0 7 * * *", "time_zone": "UTC"}
    await database.worker("submit_job", **held, call=coming_again["id"], job=again)
    said = {"topic": f"org:{org}", "event": "noted", "payload": {"n": 1}}
    assert "topic" in await database.worker("send_message", **held, call=sending["id"], **said)
    leaving = call("api_call", "irreversible", url="https://api.example.com/")
    await database.worker("record_step", **held, step=step(3), calls=[leaving], events=[custom()])
    await database.rpc(
        owner, "set_policy", org_id=org, role="developer", tool="api_call", effect="irreversible", consent="ask"
    )
    await database.worker("interrupt_run", **held, asks=[{"id": leaving["id"]}], events=[custom()])
    assert "token" in await database.rpc(owner, "make_decision_link", approval_id=leaving["id"])
    await database.rpc(owner, "decide", decisions=[{"approval_id": leaving["id"], "verdict": "approve"}])
    held["fence"] = await database.claimed(run)
    await database.worker("finish_run", **held, status="succeeded", reason=None, events=[FINISHED])
    return Team(org, people, removed, run)


async def become(connection: psycopg.AsyncConnection[Any], role: str, claims: Any) -> None:
    """Make the open transaction one that PostgREST would have opened for these claims (text is taken as it is)."""
    told = claims if isinstance(claims, str) else json.dumps(claims, default=str)
    await connection.execute("select set_config('request.jwt.claims', %s, true)", [told])
    await connection.execute(f"set local role {role}".encode())
