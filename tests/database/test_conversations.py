"""One thread, many messages: refused, queued, in place of the run under way, or taken by it; never dropped."""

import asyncio
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.database.test_organizations import audit, code
from tests.database.world import FINISHED, call, custom, step
from tests.support.database import Database


class Talk:
    """A thread with one run, which a worker holds unless `is_held` is off."""

    def __init__(self, database: Database, owner: UUID, org: UUID, thread: UUID, run: UUID, fence: int) -> None:
        self.database, self.owner, self.org, self.thread = database, owner, org, thread
        self.run, self.fence = run, fence

    @classmethod
    async def begun(cls, database: Database, *, is_held: bool = True) -> "Talk":
        owner, org = await database.new_organization()
        run = await database.new_run(owner, org, "The first.")
        thread = (await database.admin("select thread_id from pam.runs where id = %s", run))[0]["thread_id"]
        return cls(database, owner, org, thread, run, await database.claimed(run) if is_held else 0)

    async def say(self, message: str, person: UUID | None = None, **more: Any) -> Any:
        given = {"org_id": self.org, "agent": "engineer", "message": message, "thread_id": self.thread, **more}
        return await self.database.rpc(person or self.owner, "start_run", **given)

    async def end(self, run: UUID | None = None, fence: int | None = None) -> Any:
        held = {"run_id": run or self.run, "fence": fence or self.fence}
        return await self.database.worker("finish_run", **held, status="succeeded", reason=None, events=[FINISHED])

    async def row(self, run: Any) -> dict[str, Any]:
        (row,) = await self.database.admin(
            "select status::text, after_run, is_rolled_back, tainted_at, deadline_at - now() as left, cancel_requested_at"
            " from pam.runs where id = %s",
            run,
        )
        return row

    async def next(self) -> dict[str, Any] | None:
        return await self.database.worker("claim_next", worker="w", lease_seconds=30)  # type: ignore[no-any-return]

    async def heard(self, run: Any, fence: int) -> list[str]:
        seen = await self.database.worker("read_conversation", run_id=run, fence=fence)
        return [message["content"] for message in seen["messages"]]


async def test_a_message_to_a_busy_thread_is_refused_unless_said_otherwise(database: Database) -> None:
    talk = await Talk.begun(database)
    assert code(await talk.say("And?")) == "busy"
    for wrong in ({"priority": 11}, {"priority": None}, {"if_busy": None}):
        assert code(await talk.say("And?", **wrong)) == "invalid"
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        await talk.say("And?", if_busy="shout")


async def test_queued_messages_follow_one_another_in_their_order(database: Database) -> None:
    talk = await Talk.begun(database)
    second, third = [(await talk.say(text, if_busy="queue"))["run_id"] for text in ("The second.", "The third.")]
    assert [(await talk.row(run))["status"] for run in (second, third)] == ["queued", "queued"]
    assert await talk.next() is None, "no worker takes what waits"
    claim = {"turn": 1, "worker": "w", "lease_seconds": 30}
    assert code(await database.worker("claim_run", run_id=UUID(second), **claim)) == "waiting"
    assert await talk.heard(talk.run, talk.fence) == ["The first."], "what waits is not the business of who works"
    await database.rpc(talk.owner, "steer_run", run_id=second, message="Or rather this.")
    held = {"run_id": talk.run, "fence": talk.fence}
    await database.worker("record_step", **held, step=step(text="An answer."), calls=[], events=[])
    await talk.end()
    followed = await talk.next()
    assert followed is not None
    assert followed["run"]["id"] == second
    talked = ["The first.", "An answer.", "The second.", "Or rather this."]
    assert await talk.heard(second, followed["fence"]) == talked
    assert 800 < (await talk.row(second))["left"].total_seconds() < 901, "its clock begins now"
    assert await talk.next() is None
    held = {"run_id": UUID(second), "fence": followed["fence"]}
    assert [said["content"] for said in await database.worker("take_messages", **held)] == ["Or rather this."]
    await database.worker("record_step", **held, step=step(text="This, then."), calls=[], events=[])
    assert await talk.end(UUID(second), followed["fence"]) is None
    last = await talk.next()
    assert last is not None
    assert last["run"]["id"] == third
    assert await talk.heard(third, last["fence"]) == [*talked, "This, then.", "The third."]


async def test_what_follows_rings_and_what_waits_does_not(database: Database) -> None:
    talk = await Talk.begun(database)
    await database.owner(
        "insert into pam_private.settings values ('webhook_url', 'http://127.0.0.1:9/'), ('webhook_secret', 's')"
    )
    waiting = (await talk.say("The second.", if_busy="queue"))["run_id"]
    rings = "select count(*) as n from net.http_request_queue where convert_from(body, 'UTF8') like %s"
    assert (await database.admin(rings, f"%{waiting}%"))[0]["n"] == 0
    await talk.end()
    assert (await database.admin(rings, f"%{waiting}%"))[0]["n"] == 1


async def test_an_interrupting_message_cancels_the_run_and_comes_next(database: Database) -> None:
    talk = await Talk.begun(database)
    waiting = (await talk.say("Never mind.", if_busy="queue"))["run_id"]
    urgent = (await talk.say("Stop, this instead.", if_busy="interrupt"))["run_id"]
    assert (await talk.row(waiting))["status"] == "cancelled"
    assert (await talk.row(talk.run))["cancel_requested_at"] is not None, "its worker ends it at its next step"
    (stopped,) = await database.worker("pulse_runs", runs=(talk.run,), fences=(talk.fence,), lease_seconds=30)
    assert stopped["reason"] == "cancelled"
    cancelled = {"status": "cancelled", "reason": "cancelled", "events": [FINISHED]}
    await database.worker("finish_run", run_id=talk.run, fence=talk.fence, **cancelled)
    claim = await talk.next()
    assert claim is not None
    assert claim["run"]["id"] == urgent
    assert await talk.heard(urgent, claim["fence"]) == ["The first.", "Never mind.", "Stop, this instead."]


async def test_a_run_that_nobody_holds_gives_way_at_once(database: Database) -> None:
    talk = await Talk.begun(database, is_held=False)
    urgent = (await talk.say("This instead.", if_busy="interrupt"))["run_id"]
    assert (await talk.row(talk.run))["status"] == "cancelled"
    assert (await talk.row(urgent))["after_run"] is None
    claim = await talk.next()
    assert claim is not None
    assert claim["run"]["id"] == urgent


async def test_what_is_rolled_back_was_never_said(database: Database) -> None:
    talk = await Talk.begun(database, is_held=False)
    again = (await talk.say("The first, put better.", if_busy="roll_back"))["run_id"]
    assert (await talk.row(talk.run))["is_rolled_back"]
    claim = await talk.next()
    assert claim is not None
    assert await talk.heard(again, claim["fence"]) == ["The first, put better."]


async def test_nobody_cancels_anothers_run_by_speaking(database: Database) -> None:
    talk = await Talk.begun(database)
    developer, admin = [await database.new_member(talk.org, role) for role in ("developer", "admin")]
    for manner in ("interrupt", "roll_back"):
        assert code(await talk.say("Mine first.", developer, if_busy=manner)) == "forbidden"
    assert (await talk.row(talk.run))["cancel_requested_at"] is None
    assert code(await talk.say("Mine behind.", developer, if_busy="queue")) == ""
    assert code(await talk.say("Mine now.", admin, if_busy="interrupt")) == ""


async def test_what_was_read_while_it_waited_marks_the_run_that_follows(database: Database) -> None:
    talk = await Talk.begun(database)
    waiting = (await talk.say("Send it.", if_busy="queue"))["run_id"]
    assert (await talk.row(waiting))["tainted_at"] is None
    await database.admin("update pam.runs set tainted_at = now(), taint = 'a page' where id = %s", talk.run)
    await talk.end()
    assert (await talk.row(waiting))["tainted_at"] is not None


async def test_ten_messages_at_once_are_ten_runs_in_a_row(database: Database) -> None:
    talk = await Talk.begun(database)
    told = await asyncio.gather(*(talk.say(str(n), if_busy="queue") for n in range(10)), talk.end())
    runs = {answer["run_id"] for answer in told[:-1]}
    for _ in range(10):
        claim = await talk.next()
        assert claim is not None
        runs.remove(claim["run"]["id"])
        assert await talk.next() is None, "one at a time"
        await talk.end(UUID(claim["run"]["id"]), claim["fence"])
    assert runs == set()


async def test_nothing_follows_while_a_run_of_the_thread_is_under_way(database: Database) -> None:
    talk = await Talk.begun(database)
    waiting = (await talk.say("The second.", if_busy="queue"))["run_id"]
    await database.admin("select pam_private.let_next_follow(%s, %s)", talk.org, talk.thread)
    assert str((await talk.row(waiting))["after_run"]) == str(talk.run)


async def test_a_run_takes_what_is_said_to_it_once_and_nothing_that_is_said_to_another(database: Database) -> None:
    talk = await Talk.begun(database)
    held = {"run_id": talk.run, "fence": talk.fence}
    await talk.say("The second.", if_busy="queue")
    for words in ("And be brief.", "And friendly."):
        await database.rpc(talk.owner, "steer_run", run_id=talk.run, message=words)
        assert [said["content"] for said in await database.worker("take_messages", **held)] == [words]


async def test_a_run_that_was_left_waiting_is_found_by_the_sweep(database: Database) -> None:
    talk = await Talk.begun(database)
    waiting = (await talk.say("The second.", if_busy="queue"))["run_id"]
    await database.admin('alter table pam.runs disable trigger "The next run of a thread follows"')
    await talk.end()
    assert await talk.next() is None
    assert await database.worker("sweep_threads") == []
    claim = await talk.next()
    assert claim is not None
    assert claim["run"]["id"] == waiting


async def test_a_key_that_comes_again_with_another_manner_is_another_request(database: Database) -> None:
    talk = await Talk.begun(database)
    first = await talk.say("The second.", if_busy="queue", idempotency_key="once")
    assert (await talk.say("The second.", if_busy="queue", idempotency_key="once"))["run_id"] == first["run_id"]
    assert code(await talk.say("The second.", if_busy="interrupt", idempotency_key="once")) == "conflict"


async def test_a_run_succeeds_only_when_what_was_said_to_it_is_answered(database: Database) -> None:
    talk = await Talk.begun(database)
    held = {"run_id": talk.run, "fence": talk.fence}
    ending = {"status": "succeeded", "reason": None, "events": [FINISHED]}
    assert await database.worker("take_messages", **held) == [], "the question is not said to it, it is the run"
    await database.rpc(talk.owner, "steer_run", run_id=talk.run, message="And be brief.")
    await database.worker("record_step", **held, step=step(text="At length."), calls=[], events=[])  # thought before
    assert code(await database.worker("finish_run", **held, **ending)) == "steered", "not taken"
    assert (await talk.row(talk.run))["status"] == "running"
    (taken,) = await database.worker("take_messages", **held)
    assert taken["content"] == "And be brief."
    assert await database.worker("take_messages", **held) == []
    assert await talk.heard(talk.run, talk.fence) == ["The first.", "At length.", "And be brief."], "whoever reads it"
    assert code(await database.worker("finish_run", **held, **ending)) == "steered", "taken, and not answered"
    await database.worker("record_step", **held, step=step(2, text="Briefly."), calls=[], events=[])
    assert await database.worker("finish_run", **held, **ending) is None
    told = await database.admin(
        "select payload -> 'value' as value from pam.events where payload ->> 'name' = 'pam.steered'"
    )
    assert [row["value"]["content"] for row in told] == ["And be brief."]


async def test_a_run_that_fails_does_not_wait_for_words(database: Database) -> None:
    talk = await Talk.begun(database)
    await database.rpc(talk.owner, "steer_run", run_id=talk.run, message="And be brief.")
    ended = {"type": "RUN_ERROR", "message": "x", "code": "x"}
    given = {"run_id": talk.run, "fence": talk.fence, "status": "failed", "reason": "x", "events": [ended]}
    assert await database.worker("finish_run", **given) is None
    following = await database.new_run(talk.owner, talk.org, "Again.", thread_id=talk.thread)
    assert "And be brief." in await talk.heard(following, await database.claimed(following)), "it is not dropped"


async def test_who_may_answer_may_speak_and_nobody_else(database: Database) -> None:
    talk = await Talk.begun(database)
    people = {role: await database.new_member(talk.org, role) for role in ("viewer", "developer", "admin")}
    for role, expected in (("viewer", "forbidden"), ("developer", "forbidden"), ("admin", "")):
        assert code(await database.rpc(people[role], "steer_run", run_id=talk.run, message="x")) == expected
    assert (
        code(await database.rpc(await database.new_person(), "steer_run", run_id=talk.run, message="x")) == "not_found"
    )
    for bad, expected in (("", "invalid"), (" \n", "invalid"), (None, "invalid"), ("x" * 100_001, "too_large")):
        assert code(await database.rpc(talk.owner, "steer_run", run_id=talk.run, message=bad)) == expected
    await database.admin("update pam.runs set task = '{}' where id = %s", talk.run)
    assert code(await database.rpc(talk.owner, "steer_run", run_id=talk.run, message="x")) == "conflict"
    await database.admin("update pam.runs set task = null where id = %s", talk.run)
    await database.rpc(talk.owner, "cancel_run", run_id=talk.run)
    assert code(await database.rpc(talk.owner, "steer_run", run_id=talk.run, message="x")) == "conflict"
    assert await audit(database, talk.org, "run.steer") == [False, False, True]


async def test_a_hundred_messages_are_enough(database: Database) -> None:
    talk = await Talk.begun(database)
    await database.admin(
        "insert into pam.messages (org_id, thread_id, run_id, role, content)"
        " select org_id, thread_id, id, 'user', 'x' from pam.runs, generate_series(1, 99) where id = %s",
        talk.run,
    )
    assert code(await database.rpc(talk.owner, "steer_run", run_id=talk.run, message="x")) == "limit"


async def test_words_to_one_run_are_not_taken_by_another(database: Database) -> None:
    talk, other = await Talk.begun(database), await Talk.begun(database)
    await database.rpc(talk.owner, "steer_run", run_id=talk.run, message="Between us.")
    held = {"run_id": other.run, "fence": other.fence}
    assert await database.worker("take_messages", **held) == []
    planned = call()
    await database.worker("record_step", **held, step=step(), calls=[planned], events=[custom()])
    assert "Between us." not in await other.heard(other.run, other.fence)


async def test_a_step_that_broke_off_has_said_nothing(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    held = {"run_id": run, "fence": await database.claimed(run)}
    await database.worker("record_step", **held, step=step(1) | {"finish": "failed"}, calls=[], events=[custom()])
    told = await database.worker("read_conversation", **held)
    assert (told["finish"], [one["role"] for one in told["messages"]]) == ("failed", ["user"])
    await database.worker("record_step", **held, step=step(2), calls=[], events=[custom()])
    told = await database.worker("read_conversation", **held)
    assert [one["step"] for one in told["messages"]] == [None, 2]
