"""Budgets over many runs: what is reserved before it is spent, settled after, released when its worker is lost."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.database.test_organizations import code
from tests.database.world import BROKEN, call, custom, step
from tests.support.database import Database

ASKED = {"input_tokens": 1_000, "output_tokens": 4_000, "input_usd": Decimal("0.01"), "output_usd": Decimal("0.00001")}
# One step asked for so is $0.05 and 5,000 tokens at most.


async def under_way(database: Database, person: UUID, org: UUID) -> dict[str, Any]:
    """A claimed run of this person, as its worker holds it."""
    run = await database.new_run(person, org)
    return {"run_id": run, "fence": await database.claimed(run)}


async def begun(database: Database, held: dict[str, Any], **asked: Any) -> Any:
    """What the next step may use: a number of tokens, or the code of the refusal."""
    answer = await database.worker("begin_step", **held, **{**ASKED, **asked})
    return answer.get("output_tokens") or code(answer)


async def budget(database: Database, person: UUID, org: UUID, period: str, **limits: Any) -> Any:
    """Set a budget as this person."""
    exact = {name: Decimal(str(value)) if isinstance(value, float) else value for name, value in limits.items()}
    return await database.rpc(person, "set_budget", org_id=org, period=period, **exact)


async def seen_by(database: Database, person: UUID, org: UUID) -> Any:
    """The budgets that this person sees."""
    return (await database.rpc(person, "read_budgets", org_id=org))["budgets"]


async def recorded(database: Database, held: dict[str, Any], position: int = 1, *, usd: str = "0.01") -> None:
    """The step is over, and cost so much."""
    done = {**step(position), "cost_usd": usd, "input_tokens": 900, "output_tokens": 100}
    await database.worker("record_step", **held, step=done, calls=[], events=[custom()])


async def test_what_a_step_may_use_is_reserved_and_what_it_used_is_counted(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=1, max_tokens=100_000)
    held = await under_way(database, owner, org)
    assert await begun(database, held) == 4_000
    (seen,) = await seen_by(database, owner, org)
    assert (seen["used_cost_usd"], seen["held_cost_usd"], seen["held_tokens"]) == (0, 0.05, 5_000)
    await recorded(database, held)
    (seen,) = await seen_by(database, owner, org)
    assert (seen["used_cost_usd"], seen["used_tokens"], seen["used_steps"]) == (0.01, 1_000, 1)
    assert (seen["held_cost_usd"], seen["held_tokens"]) == (0, 0)


@pytest.mark.parametrize("by", ["person", "organisation"])
async def test_fifty_runs_at_once_never_pass_the_cap(database: Database, by: str) -> None:
    owner, org = await database.new_organization()
    whose = {"user_id": str(owner)} if by == "person" else {}
    await budget(database, owner, org, "day", max_cost_usd=1.02, **whose)
    runs = [await under_way(database, owner, org) for _ in range(50)]
    answers = await asyncio.gather(*(begun(database, held) for held in runs))
    # Twenty at $0.05 fit, and what is left is for one that writes 1,000 tokens.
    assert sorted(answers, key=str) == [1_000] + [4_000] * 20 + ["held"] * 29
    for held, answer in zip(runs, answers, strict=True):
        if isinstance(answer, int):
            await recorded(database, held, usd=str(ASKED["input_usd"] + answer * ASKED["output_usd"]))
    (seen,) = await seen_by(database, owner, org)
    assert (seen["used_cost_usd"], seen["held_cost_usd"]) == (1.02, 0)
    late = next(held for held, answer in zip(runs, answers, strict=True) if answer == "held")
    assert await begun(database, late) == "budget", "now it is no matter of waiting"


@pytest.mark.parametrize(
    ("limit", "answer"),
    [
        ({"max_tokens": 3_000}, 2_000),
        ({"max_tokens": 1_127}, "budget"),
        ({"max_cost_usd": 0.02}, 1_000),
        ({"max_cost_usd": 0.005}, "budget"),
        ({"max_steps": 1}, 4_000),
        ({"max_steps": 0}, "budget"),
        ({"max_seconds": 60}, 4_000),
        ({"max_seconds": 0}, "budget"),
    ],
)
async def test_each_limit_bounds_what_is_written(database: Database, limit: dict[str, Any], answer: Any) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "month", **limit)
    held = await under_way(database, owner, org)
    assert await begun(database, held) == answer


async def test_a_model_that_costs_nothing_is_bounded_by_tokens_alone(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=0, max_tokens=9_000)
    held = await under_way(database, owner, org)
    assert await begun(database, held, input_usd=Decimal(0), output_usd=Decimal(0)) == 4_000
    assert await begun(database, held, input_usd=Decimal("0.1"), output_usd=Decimal(0)) == "budget"


async def test_the_steps_of_runs_under_way_count_as_steps(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_steps=2)
    one, other, third = [await under_way(database, owner, org) for _ in range(3)]
    assert [await begun(database, held) for held in (one, other, third)] == [4_000, 4_000, "held"]
    await recorded(database, one)
    await recorded(database, other)
    assert await begun(database, third) == "budget"


async def test_a_step_that_asks_again_holds_no_more_than_once(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=0.06)
    held = await under_way(database, owner, org)
    assert [await begun(database, held) for _ in range(3)] == [4_000] * 3


@pytest.mark.parametrize("end", ["lost", "postponed", "released", "failed", "cancelled"])
async def test_what_a_run_held_is_free_when_it_leaves_its_worker(database: Database, end: str) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=0.06)
    held, other = await under_way(database, owner, org), await under_way(database, owner, org)
    await begun(database, held)
    assert await begun(database, other) == "held"
    match end:
        case "lost":
            await database.admin(
                "update pam_private.run_heads set lease_until = now() - interval '1 s' where run_id = %s",
                held["run_id"],
            )
            await database.worker("sweep_runs")
        case "postponed":
            await database.worker("postpone_run", **held, seconds=5, events=[custom()])
        case "released":
            await database.worker("release_run", **held)
        case "failed":
            await database.worker("finish_run", **held, status="failed", reason="x", events=[BROKEN])
        case "cancelled":
            await database.admin(
                "update pam_private.run_heads set lease_until = null where run_id = %s", held["run_id"]
            )
            await database.rpc(owner, "cancel_run", run_id=held["run_id"])
    assert await begun(database, other) == 4_000


async def test_a_call_with_a_price_asks_the_same_budgets(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=0.2)
    held, other = await under_way(database, owner, org), await under_way(database, owner, org)
    costly = [call("openai_api_call", "external", n=n) for n in range(2)]
    await database.worker("record_step", **held, step=step(1), calls=costly, events=[custom()])
    first, second = [
        await database.worker("begin_call", **held, id=one["id"], ceiling_usd=Decimal("0.12")) for one in costly
    ]
    assert (code(first), code(second)) == ("", "budget")
    assert "is held for work under way" in second["refused"]["message"]
    assert await begun(database, other, input_usd=Decimal("0.07")) == 987, "what the call may cost is held from others"
    await database.worker(
        "finish_call",
        **held,
        id=costly[0]["id"],
        status="succeeded",
        result="x",
        events=[custom()],
        cost_usd=Decimal("0.05"),
    )
    (seen,) = await seen_by(database, owner, org)
    assert seen["used_cost_usd"] == pytest.approx(0.05 + 0.000125)


async def test_yesterday_is_no_part_of_today_and_last_month_none_of_this(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=0.06)
    held = await under_way(database, owner, org)
    spent = "insert into pam.usage values (%s, %s, (now() at time zone 'UTC')::date - %s, 0.05, 10, 1, 0)"
    await database.admin(spent, org, owner, 1)
    assert await begun(database, held) == 4_000
    await budget(database, owner, org, "month", max_cost_usd=0.06)
    await database.admin("delete from pam.usage")
    await database.admin(spent, org, owner, 31)
    assert await begun(database, held) == 4_000
    await database.admin(spent, org, owner, 0)
    assert await begun(database, held) == "budget"


async def test_one_persons_budget_is_not_anothers(database: Database) -> None:
    owner, org = await database.new_organization()
    ada = await database.new_member(org, "developer")
    await budget(database, owner, org, "day", max_cost_usd=0.06, user_id=str(ada))
    await budget(database, owner, org, "day", max_cost_usd=0.06, user_id=str(owner))
    hers, his = await under_way(database, ada, org), await under_way(database, owner, org)
    assert await begun(database, hers) == 4_000
    await recorded(database, hers, usd="0.06")
    assert await begun(database, hers) == "budget"
    assert await begun(database, his) == 4_000
    elsewhere, beside = await database.new_organization()
    assert await begun(database, await under_way(database, elsewhere, beside)) == 4_000


async def test_a_budget_is_taken_away_by_saying_nothing(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=0)
    held = await under_way(database, owner, org)
    assert await begun(database, held) == "budget"
    await budget(database, owner, org, "day")
    assert await begun(database, held) == 4_000
    assert await seen_by(database, owner, org) == []


async def test_only_admins_set_budgets_and_people_read_their_own(database: Database) -> None:
    owner, org = await database.new_organization()
    ada, bob = [await database.new_member(org, "developer") for _ in range(2)]
    stranger = await database.new_person()
    assert code(await budget(database, ada, org, "day", max_cost_usd=5)) == "forbidden"
    assert code(await budget(database, stranger, org, "day", max_cost_usd=5)) == "not_found"
    assert code(await budget(database, owner, org, "day", max_cost_usd=5, user_id=str(stranger))) == "not_found"
    for wrong in (
        {"max_cost_usd": -1},
        {"max_cost_usd": Decimal("NaN")},
        {"max_cost_usd": 2_000_000},
        {"max_tokens": -1},
        {"max_seconds": -1},
    ):
        assert code(await budget(database, owner, org, "day", **wrong)) == "invalid"
    for person in (None, ada, bob):
        await budget(database, owner, org, "day", max_cost_usd=5, user_id=person and str(person))
    seen = {who: await seen_by(database, who, org) for who in (owner, ada)}
    assert [row["user_id"] for row in seen[owner]] == [None, *sorted((str(ada), str(bob)))]
    assert [row["user_id"] for row in seen[ada]] == [None, str(ada)]
    assert code(await database.rpc(stranger, "read_budgets", org_id=org)) == "not_found"
    audited = await database.admin("select is_allowed from pam.audit where action = 'budget.set' and org_id = %s", org)
    assert sorted(row["is_allowed"] for row in audited) == [False, True, True, True]


async def test_what_was_said_comes_before_what_is_reserved(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_cost_usd=0.06)
    held = await under_way(database, owner, org)
    await database.rpc(owner, "steer_run", run_id=held["run_id"], message="And tests.")
    answer = await database.worker("begin_step", **held, **ASKED)
    assert [one["content"] for one in answer["messages"]] == ["And tests."]
    (run,) = await database.admin("select reserved_tokens from pam.runs")
    assert run["reserved_tokens"] == 0
    assert await begun(database, held) == 4_000


async def test_a_run_and_its_jobs_share_what_the_first_may_spend(database: Database) -> None:
    owner, org = await database.new_organization()
    first = await under_way(database, owner, org)  # the run may spend $0.50
    second = await job_of(database, first)
    assert await begun(database, second, input_usd=Decimal("0.3")) == 4_000
    # $0.34 is held, so that the first may write for what is left of its $0.50 (a step has cost it $0.000125).
    for _ in range(2):
        assert await begun(database, first, input_usd=Decimal("0.1")) == 4_000, "its own is no other's"
    assert await begun(database, first, input_usd=Decimal("0.2")) == "held"
    await recorded(database, second, usd="0.34")
    assert await begun(database, first, input_usd=Decimal("0.2")) == "budget"


async def test_many_at_once_count_every_cent(database: Database) -> None:
    owner, org = await database.new_organization()
    people = [owner, *[await database.new_member(org, "developer") for _ in range(2)]]
    runs = [await under_way(database, people[place % 3], org) for place in range(12)]

    async def work(held: dict[str, Any]) -> None:
        for position in range(1, 6):
            await begun(database, held)
            await recorded(database, held, position, usd="0.003")

    await asyncio.gather(*(work(held) for held in runs))
    rows = await database.admin("select cost_usd, tokens, steps from pam.usage where org_id = %s", org)
    assert [(float(row["cost_usd"]), row["tokens"], row["steps"]) for row in rows] == [(0.06, 20_000, 20)] * 3


async def worked(database: Database, held: dict[str, Any], seconds: int) -> None:
    """Its worker has held the run for so long."""
    await database.admin(
        "update pam.runs set working_since = clock_timestamp() - make_interval(secs => %s) where id = %s",
        seconds,
        held["run_id"],
    )


async def late(database: Database, *held: dict[str, Any]) -> list[str]:
    """Why the heart must stop each of these runs, or nothing."""
    runs, fences = tuple(one["run_id"] for one in held), tuple(one["fence"] for one in held)
    stopped = await database.worker("pulse_runs", runs=runs, fences=fences, lease_seconds=15)
    reasons = {UUID(one["run_id"]): one["reason"] for one in stopped}
    return [reasons.get(one["run_id"], "") for one in held]


async def test_the_time_of_workers_is_counted_with_every_step_and_when_a_run_leaves_them(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_seconds=1_000)
    held = await under_way(database, owner, org)
    await worked(database, held, 100)
    (seen,) = await seen_by(database, owner, org)
    assert 100 <= seen["used_seconds"] < 160, "what is under way counts"
    await recorded(database, held)
    (used,) = await database.admin("select seconds from pam.usage where org_id = %s", org)
    assert 100 <= used["seconds"] < 160
    await worked(database, held, 200)
    await database.worker("finish_run", **held, status="failed", reason="x", events=[BROKEN])
    (used,) = await database.admin(
        "select u.seconds, r.worked_seconds, r.working_since from pam.usage u join pam.runs r on r.user_id = u.user_id"
        " where u.org_id = %s",
        org,
    )
    assert 300 <= used["seconds"] < 360
    assert (used["seconds"], used["working_since"]) == (used["worked_seconds"], None)


async def test_who_waits_takes_no_time(database: Database) -> None:
    owner, org = await database.new_organization()
    await budget(database, owner, org, "day", max_seconds=1_000)
    held = await under_way(database, owner, org)
    await database.worker("postpone_run", **held, seconds=5, events=[custom()])
    (run,) = await database.admin("select working_since, worked_seconds from pam.runs where id = %s", held["run_id"])
    assert run["working_since"] is None
    assert run["worked_seconds"] < 60
    await database.admin("update pam.runs set due_at = now()")
    await database.claimed(held["run_id"])
    (seen,) = await seen_by(database, owner, org)
    assert seen["used_seconds"] < 60


@pytest.mark.parametrize("by", ["person", "organisation"])
async def test_a_run_whose_budget_has_no_time_left_is_stopped_by_its_heart(database: Database, by: str) -> None:
    owner, org = await database.new_organization()
    ada = await database.new_member(org, "developer")
    elsewhere, beside = await database.new_organization()
    await budget(database, owner, org, "day", max_seconds=1_000, **({"user_id": str(ada)} if by == "person" else {}))
    hers, his, far = [await under_way(database, *who) for who in ((ada, org), (owner, org), (elsewhere, beside))]
    await worked(database, hers, 900)
    assert await late(database, hers, his, far) == ["", "", ""]
    await worked(database, hers, 1_000)
    assert await late(database, hers, his, far) == ["budget", "" if by == "person" else "budget", ""]
    assert await begun(database, hers) == "budget"


async def job_of(database: Database, first: dict[str, Any]) -> dict[str, Any]:
    """The claimed run of a job that this run has submitted in its first step."""
    submitting = call("celery_task")
    await database.worker("record_step", **first, step=step(1), calls=[submitting], events=[custom()])
    await database.worker("begin_call", **first, id=submitting["id"])
    work = {"task": "agent", "arguments": {"message": "Look."}}
    await database.worker("submit_job", **first, call=submitting["id"], job=work)
    (due,) = await database.worker("sweep_jobs")
    return {"run_id": UUID(due["run_id"]), "fence": await database.claimed(UUID(due["run_id"]))}


async def test_a_run_and_its_jobs_share_steps_and_time(database: Database) -> None:
    owner, org = await database.new_organization()
    first = await under_way(database, owner, org)
    second = await job_of(database, first)
    await database.admin("update pam.runs set max_steps = 3, max_seconds = 1000 where id = %s", first["run_id"])
    assert await begun(database, first) == 4_000
    assert await begun(database, second) == 4_000
    await recorded(database, first, 2)
    await recorded(database, second)
    assert await begun(database, second) == "budget", "three steps are theirs together"
    await database.admin("update pam.runs set max_steps = 30 where id = %s", first["run_id"])
    assert await begun(database, second) == 4_000
    await worked(database, first, 600)
    assert await late(database, first, second) == ["", ""]
    await worked(database, second, 500)
    assert await late(database, first, second) == ["budget", "budget"]
    assert await begun(database, second) == "budget"


@pytest.mark.parametrize("what", ["nothing", "words", "budget", "job", "its job"])
async def test_a_calls_outcome_says_whether_the_next_step_may_begin_without_asking(
    database: Database, what: str
) -> None:
    owner, org = await database.new_organization()
    held = await under_way(database, owner, org)
    if "job" in what:
        job = await job_of(database, held)
        held = held if what == "its job" else job
    reading = call("file_list", "read")
    await database.worker(
        "record_step", **held, step=step(2 if what == "its job" else 1), calls=[reading], events=[custom()]
    )
    await database.worker("begin_call", **held, id=reading["id"])
    match what:
        case "words":
            await database.rpc(owner, "steer_run", run_id=held["run_id"], message="And tests.")
        case "budget":
            await budget(database, owner, org, "day", max_cost_usd=5)
    done = {"status": "succeeded", "result": "x", "events": [custom()]}
    ended = await database.worker("finish_call", **held, id=reading["id"], **done)
    assert ended["is_free"] is (what == "nothing")
