"""Two organisations with rows in every table, people in every role, and the JSON that a worker hands to its verbs."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

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


SEALING_KEY = UUID("5ea11e57-0000-4000-8000-000000000001")


def connection(name: str = "billing", **other: Any) -> dict[str, Any]:
    """A connection as `add_connection` takes it; its deposit has the outer form of one, and opens to nothing."""
    deposit = b"PAMd\x01" + SEALING_KEY.bytes + bytes(500)
    return {
        "id": uuid4(),
        "name": name,
        "kind": "bearer",
        "hosts": ["api.example.com"],
        "settings": {},
        "deposit": base64.b64encode(deposit).decode(),
        **other,
    }


async def refused_state(verb: Any) -> str:
    """The SQLSTATE with which a verb's coroutine is refused; empty when it went through."""
    try:
        await verb
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""


OLD = "PM002"  # the SQLSTATE of a fence that is not the newest


async def running(database: Database) -> tuple[UUID, UUID, UUID, int, UUID]:
    """(owner, organisation, run, fence, planned call) of a run after its first step."""
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    planned = call()
    await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[planned], events=[])
    return owner, org, run, fence, UUID(planned["id"])


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
        await database.worker(
            "publish_sealing_key", id=SEALING_KEY, public_key="cHVi", private_sealed="cHJp", key_id="local-1"
        )
        return cls(database, await _team(database), await _team(database), stranger)


async def _team(database: Database) -> Team:
    owner, org = await database.new_organization()
    people = {"owner": owner, **{role: await database.new_member(org, role) for role in ROLES[1:]}}
    removed = await database.new_member(org, "developer")
    await database.rpc(owner, "remove_member", org_id=org, user_id=removed)
    await database.rpc(owner, "allow_host", org_id=org, host="api.example.com")
    await connect(database, owner, org)
    await database.rpc(owner, "set_budget", org_id=org, period="month", max_cost_usd=100)
    run = await database.new_run(people["developer"], org)
    fence = await database.claimed(run)
    planned = call(path="notes.md")
    await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[planned], events=[custom()])
    held = {"run_id": run, "fence": fence}
    await database.worker("begin_call", **held, id=planned["id"])
    await database.worker(
        "write_file", **held, call=planned["id"], path="notes.md", content="aGVsbG8=", expected_version=0
    )
    await database.owner("select pam.trust_organization_with_schema(%s)", org)
    await database.owner("select pam_private.operator_beat()")
    proposal = {"name": "notes", "sql": "create table public.notes (id int)", "findings": [], "acknowledged": {}}
    assert "id" in await database.worker("propose_change", **held, call=planned["id"], **proposal)
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
    began = (await database.rpc(owner, "read_workspace", org_id=org))["now"]
    pulled = {"remote": "https://example.com/team/r", "path": "", "ref": "main", "commit_id": "0" * 40, "since": began}
    assert "commit_id" in await database.rpc(owner, "record_checkout", org_id=org, **pulled)
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


async def connect(database: Database, person: UUID, org: UUID, **other: Any) -> Any:
    """Add a connection as this person; answers what the verb answers. Lists are arrays here, objects jsonb."""
    asked = connection(**other)
    async with database.person(person) as asking:
        row = await (
            await asking.execute(
                "select pam.add_connection(%(org)s, %(id)s, %(name)s, %(kind)s, %(hosts)s::text[], %(settings)s, %(deposit)s,"
                " %(expires_at)s) as answer",
                {"org": org, "expires_at": None, **asked, "settings": Jsonb(asked["settings"])},
            )
        ).fetchone()
    return row["answer"] if row else None


async def become(connection: psycopg.AsyncConnection[Any], role: str, claims: Any) -> None:
    """Make the open transaction one that PostgREST would have opened for these claims (text is taken as it is)."""
    told = claims if isinstance(claims, str) else json.dumps(claims, default=str)
    await connection.execute("select set_config('request.jwt.claims', %s, true)", [told])
    await connection.execute(f"set local role {role}".encode())
