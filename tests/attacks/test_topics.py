"""Attacks on live topics: by a run through websocket_send, by its worker's verb, and by a browser through the policies.

Each case is a mechanism of its own; what stopped it stands beside it. Nothing may be sent by any of them.
"""

from typing import Any
from uuid import UUID, uuid4

import psycopg

from tests.database.world import become, refused_state
from tests.support.bench import Bench
from tests.support.database import Database
from workers.kernel.ledger import tool_calls

PLACE = "There is no such topic in this organisation"
FORM = "A topic is org:, thread: or user: and an id in lower case"

# name → (topic, what the model reads)
TOPICS: dict[str, tuple[str, str]] = {
    "the log of its own run": ("run:{run}", "carries its log alone"),
    "the log of a foreign run": ("run:{foreign_run}", "carries its log alone"),
    "a foreign organisation": ("org:{foreign}", PLACE),
    "an organisation that is not there": ("org:00000000-0000-0000-0000-000000000000", PLACE),
    "a thread of a foreign organisation": ("thread:{foreign_thread}", PLACE),
    "a person of a foreign organisation": ("user:{foreign_user}", PLACE),
    "an organisation's id as a person's": ("user:{own}", PLACE),
    "a second organisation of the same person": ("org:{second}", PLACE),
    "a thread there": ("thread:{second_thread}", PLACE),
    "a colleague there": ("user:{second_user}", PLACE),
    "an id in capitals": ("org:{OWN}", FORM),
    "a kind in capitals": ("ORG:{own}", FORM),
    "a suffix": ("org:{own}:x", FORM),
    "a blank behind": ("org:{own} ", FORM),
    "a line end behind": ("org:{own}\n", FORM),
    "two topics": ("org:{own},org:{foreign}", FORM),
    "a pattern": ("org:%", FORM),
    "no kind": ("{own}", FORM),
    "a kind of nobody's": ("room:{own}", FORM),
    "the client's own prefix": ("realtime:org:{own}", FORM),
    "ten thousand characters": ("org:" + "a" * 10_000, FORM),
    "the query's own language": ("org:{own}' or true --", FORM),
    "letters that look alike": ("оrg:{own}", FORM),
    "an id in braces": ("org:{{{own}}}", FORM),
    "a shorthand that is none": ("run:mine", "carries its log alone"),
    "a shorthand of another's": ("org:theirs", FORM),
}
DEEP: dict[str, Any] = {"x": 1}
for _ in range(16):
    DEEP = {"x": DEEP}
# name → (event, payload, what the model reads)
MESSAGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a job's status, forged": ("job", {"job_id": "x", "status": "succeeded"}, "PAM's or Realtime's own"),
    "a batch of a log, forged": ("events", {"first": 1, "events": []}, "PAM's or Realtime's own"),
    "a preview, forged": ("preview", {"text": "x"}, "PAM's or Realtime's own"),
    "a name of PAM's": ("pam.usage", {}, "PAM's or Realtime's own"),
    "a frame of the wire": ("phx_close", {}, "PAM's or Realtime's own"),
    "presence, forged": ("presence_diff", {}, "PAM's or Realtime's own"),
    "a name with a line end": ("a\nb", {}, "An event's name is"),
    "a name that is markup": ("<img src=x>", {}, "An event's name is"),
    "a name too long": ("a" * 64, {}, "An event's name is"),
    "a payload too large": ("ok", {"text": "ü" * 40_000}, "64 KiB"),
    "a payload too deep": ("ok", DEEP, "16 levels"),
}


async def messages(database: Database) -> int:
    (row,) = await database.admin(
        "select count(*) as n from realtime.messages where event not in ('events', 'preview', 'job')"
    )
    return int(row["n"])


async def names(bench: Bench) -> dict[str, Any]:
    """Ids of the run's own organisation, of a foreign one, and of a second one of the same person."""
    database = bench.database
    foreign = await bench.elsewhere()
    _, second = await database.new_organization(bench.user_id)

    async def thread(user: UUID, org: UUID) -> str:
        return str((await database.rpc(user, "create_thread", org_id=org))["thread_id"])

    return {
        "own": bench.org_id, "OWN": str(bench.org_id).upper(), "run": bench.hold.run_id,
        "foreign": foreign.org_id, "foreign_run": foreign.hold.run_id, "foreign_user": foreign.user_id,
        "foreign_thread": await thread(foreign.user_id, foreign.org_id),
        "second": second, "second_thread": await thread(bench.user_id, second),
        "second_user": await database.new_member(second, "developer"),
    }  # fmt: skip


async def test_no_run_sends_where_it_must_not(bench: Bench) -> None:
    known = await names(bench)
    before, through = await messages(bench.database), []
    for name, (topic, reason) in TOPICS.items():
        status, said = await bench.use("websocket_send", topic=topic.format(**known), event="ok", payload={})
        if status not in ("failed", "refused") or reason not in said:
            through.append((name, status, said))
    assert through == []
    assert await messages(bench.database) == before
    (row,) = await bench.database.admin(
        "select count(*) as n from pam.audit where org_id = %s and action = 'message.send' and not is_allowed",
        bench.org_id,
    )
    assert row["n"] == len(TOPICS)


async def test_no_run_sends_what_it_must_not(bench: Bench) -> None:
    before, through = await messages(bench.database), []
    for name, (event, payload, reason) in MESSAGES.items():
        status, said = await bench.use("websocket_send", topic="org:mine", event=event, payload=payload)
        if status not in ("failed", "refused") or reason not in said:
            through.append((name, status, said))
    assert through == []
    assert await messages(bench.database) == before


async def test_a_verb_without_a_recorded_intent_sends_nothing(bench: Bench) -> None:
    before = await messages(bench.database)
    planned = await bench.planned("websocket_send", {"topic": "org:mine", "event": "ok"})
    other = await bench.planned("redis_get", {"key": "a"})
    beside = await bench.beside()
    theirs = await beside.planned("websocket_send", {"topic": "org:mine", "event": "ok"})
    await tool_calls.begin(bench.hold, other)  # another tool's intent, and another run's, are none of this
    await tool_calls.begin(beside.hold, theirs)
    held = {"run_id": bench.hold.run_id, "fence": bench.hold.fence}
    said = {"topic": "org:mine", "event": "ok", "payload": {}}
    for call in (planned.id, other.id, theirs.id, uuid4()):
        state = await refused_state(bench.database.worker("send_message", **held, call=call, **said))
        assert state == "PM002"
    old = {**held, "fence": bench.hold.fence - 1}
    assert await refused_state(bench.database.worker("send_message", **old, call=planned.id, **said)) == "PM002"
    assert await messages(bench.database) == before


async def test_one_who_lost_their_role_sends_nothing_more(bench: Bench) -> None:
    before = await messages(bench.database)
    call = await bench.planned("websocket_send", {"topic": "user:mine", "event": "ok"})
    await bench.database.admin("update pam.members set role = 'viewer' where user_id = %s", bench.user_id)
    held = {"run_id": bench.hold.run_id, "fence": bench.hold.fence}
    told = {"call": call.id, "topic": "user:mine", "event": "ok", "payload": {}}
    assert await refused_state(bench.database.worker("send_message", **held, **told)) == "PM003"
    assert await messages(bench.database) == before


async def test_a_member_who_left_is_not_reached_any_more(bench: Bench) -> None:
    left = await bench.database.new_member(bench.org_id, "developer")
    assert (await bench.use("websocket_send", topic=f"user:{left}", event="ok"))[0] == "succeeded"
    await bench.database.rpc(bench.user_id, "remove_member", org_id=bench.org_id, user_id=left)
    status, said = await bench.use("websocket_send", topic=f"user:{left}", event="ok")
    assert (status, PLACE in said) == ("refused", True)


async def test_a_lost_worker_sends_once(bench: Bench) -> None:
    before = await messages(bench.database)
    call = await bench.effect_without_outcome("websocket_send", topic="org:mine", event="ok", payload={"n": 1})
    assert (await bench.carry_out(call)).status.value == "succeeded"
    assert await messages(bench.database) == before + 1


async def test_a_flood_ends_at_120_a_minute_for_all_runs_of_the_organisation(bench: Bench) -> None:
    for number in range(120):
        call = await bench.planned("websocket_send", {"topic": "org:mine", "event": "ok"})
        await bench.database.admin(
            "insert into pam.sent_messages (org_id, call_id, run_id, topic, event, size_bytes) values (%s, %s, %s, 't', 'e', %s)",
            bench.org_id, call.id, bench.hold.run_id, number,
        )  # fmt: skip
    beside = await bench.beside()
    status, said = await beside.use("websocket_send", topic="org:mine", event="ok")
    assert (status, "120 messages within a minute" in said) == ("failed", True)
    await bench.database.admin(
        "update pam.sent_messages set created_at = created_at - interval '61 s' where org_id = %s", bench.org_id
    )
    assert (await beside.use("websocket_send", topic="org:mine", event="ok"))[0] == "succeeded"


async def test_what_a_run_has_read_does_not_leave_by_a_topic_unasked(bench: Bench) -> None:
    await bench.database.admin(
        "update pam.runs set tainted_at = now(), taint = 'a page' where id = %s", bench.hold.run_id
    )
    before = await messages(bench.database)
    _, ask = await bench.asked("websocket_send", topic="org:mine", event="leak", payload={"secret": "what I read"})
    assert "what nobody vouches for" in ask.why
    assert "what I read" in (ask.shown or "")
    assert await messages(bench.database) == before


async def test_a_message_that_realtime_does_not_take_is_not_called_sent(bench: Bench) -> None:
    await bench.database.admin("alter table realtime.messages rename column event to occasion")
    try:
        status, said = await bench.use("websocket_send", topic="org:mine", event="ok")
    finally:
        await bench.database.admin("alter table realtime.messages rename column occasion to event")
    assert (status, "Realtime did not take" in said) == ("failed", True)
    rows = await bench.database.admin("select call_id from pam.sent_messages where org_id = %s", bench.org_id)
    assert rows == []


async def speaks(database: Database, person: UUID | None, topic: str, column: str | None = None, **row: str) -> bool:
    """What Realtime asks before it lets a browser send: may this person insert a message under this topic?"""
    told = {"topic": column or topic, "extension": row.get("extension", "broadcast")}
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as connection:
        await connection.execute("select set_config('realtime.topic', %s, true)", [topic])
        role = row.get("role", "authenticated")
        await become(connection, role, {"sub": person, "role": role} if person else {"role": role})
        try:
            await connection.execute(
                "insert into realtime.messages (topic, extension) values (%(topic)s, %(extension)s)", told
            )
        except psycopg.errors.InsufficientPrivilege:
            return False
        finally:
            await connection.rollback()
    return True


async def hears(database: Database, person: UUID, topic: str, column: str | None = None) -> bool:
    """What Realtime asks before a join."""
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as connection:
        await connection.execute("select set_config('realtime.topic', %s, true)", [topic])
        await connection.execute(
            "insert into realtime.messages (topic, extension, event) values (%s, 'broadcast', 'e')", [column or topic]
        )
        await become(connection, "authenticated", {"sub": person, "role": "authenticated"})
        found = await (await connection.execute("select id from realtime.messages limit 1")).fetchone()
        await connection.rollback()
    return found is not None


async def test_a_browser_hears_and_speaks_where_its_person_may_and_nowhere_else(bench: Bench) -> None:
    database, known = bench.database, await names(bench)
    viewer = await database.new_member(bench.org_id, "viewer")
    colleague = await database.new_member(bench.org_id, "developer")
    removed = await database.new_member(bench.org_id, "developer")
    await database.rpc(bench.user_id, "remove_member", org_id=bench.org_id, user_id=removed)
    thread = (await database.rpc(bench.user_id, "create_thread", org_id=bench.org_id))["thread_id"]
    stranger = UUID(str(known["foreign_user"]))
    org, talk, mine, run = f"org:{bench.org_id}", f"thread:{thread}", f"user:{colleague}", f"run:{bench.hold.run_id}"
    # (hears, speaks) of: developer, viewer, removed member, stranger
    expected = {
        org: ((True, True), (True, False), (False, False), (False, False)),
        talk: ((True, True), (True, False), (False, False), (False, False)),
        mine: ((True, True), (False, False), (False, False), (False, False)),
        f"user:{viewer}": ((False, True), (True, True), (False, False), (False, False)),
        run: ((True, False), (True, False), (False, False), (False, False)),
        f"user:{stranger}": ((False, False), (False, False), (False, False), (True, True)),
    }
    for topic, wanted in expected.items():
        for person, rights in zip((colleague, viewer, removed, stranger), wanted, strict=True):
            seen = (await hears(database, person, topic), await speaks(database, person, topic))
            assert seen == rights, (topic, person, seen)
    for name, (odd, _) in TOPICS.items():
        if name not in ("a second organisation of the same person", "a thread there", "a colleague there"):
            topic = odd.format(**known)
            assert not await speaks(database, bench.user_id, topic), name
            assert (await hears(database, bench.user_id, topic)) is (name == "the log of its own run"), name


async def test_a_browser_slips_by_no_setting_claim_or_extension(bench: Bench) -> None:
    database, known = bench.database, await names(bench)
    org = f"org:{bench.org_id}"
    assert await speaks(database, bench.user_id, org)
    assert not await speaks(
        database, bench.user_id, org, column=f"run:{bench.hold.run_id}"
    )  # asks of one, writes another
    assert not await speaks(database, bench.user_id, org, column=f"org:{known['foreign']}")
    assert not await hears(database, bench.user_id, org, column=f"org:{known['foreign']}")
    assert not await speaks(database, bench.user_id, org, extension="presence")
    assert not await speaks(database, None, org)  # no subject
    assert not await speaks(database, None, org, role="anon")
