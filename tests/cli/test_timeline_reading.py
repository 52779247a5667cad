"""Logs that no worker writes at will, as narration tells them: slow steps, lost workers, ends by the database, gaps."""

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console

from infra.cli.timeline import After, Claimed, Lost, Mark, Paused, Steered, Stepped
from infra.cli.timeline_reading import LogUnreadable, read_timeline
from infra.cli.timeline_view import show_timeline, told
from tests.cli.test_view import EVIL, GONE
from tests.support.house import assert_valid
from workers.agent import narration
from workers.kernel.ledger.events import Event
from workers.kernel.ledger.runs import Run
from workers.kernel.ledger.steps import Step
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus, PlannedCall, RecordedCall

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)


def a_run(**changed: Any) -> Run:
    ids = {name: uuid4() for name in ("org_id", "id", "thread_id", "agent_id", "user_id")}
    limits = {
        "max_steps": 30,
        "max_tokens": 400_000,
        "max_cost_usd": "0.5",
        "deadline_at": BEGAN + timedelta(minutes=15),
    }
    done = {
        "steps": 1,
        "input_tokens": 100,
        "output_tokens": 10,
        "cost_usd": "0.03",
        "turn": 1,
        "attempt": 0,
        "reason": None,
    }
    times = {"created_at": BEGAN, "started_at": BEGAN, "ended_at": None, "cancel_requested_at": None}
    taint = {"tainted_at": None, "taint": None, "agent_version": 1, "status": "succeeded"}
    return Run.model_validate({**ids, **limits, **done, **times, **taint, **changed})


def log_of(*batches: tuple[float, list[dict[str, Any]]]) -> list[Event]:
    """A log of batches, each so many seconds after the run was asked for."""
    rows: list[Event] = []
    for seconds, batch in batches:
        for payload in batch:
            at = BEGAN + timedelta(seconds=seconds)
            rows.append(Event(seq=len(rows) + 1, type=payload["type"], payload=payload, created_at=at))
    is_over = rows[-1].is_terminal or rows[-1].type == "RUN_FINISHED"
    last = [] if is_over else [{"type": "RUN_ERROR", "message": "so far"}]
    assert_valid([*(row.payload for row in rows), *last])
    return rows


def claimed(run: Run, **resumed: int) -> list[dict[str, Any]]:
    if resumed:
        return [{"type": "CUSTOM", "name": "pam.resumed", "value": resumed}]
    return [{"type": "RUN_STARTED", "threadId": str(run.thread_id), "runId": str(run.id)}]


def stepped(*calls: PlannedCall, position: int = 1, **changed: Any) -> list[dict[str, Any]]:
    used = {
        "input_tokens": 100,
        "cached_input_tokens": 40,
        "output_tokens": 10,
        "is_estimated": True,
        "cost_usd": Decimal("0.02"),
    }
    about = {
        "message_id": uuid4(),
        "text": "I say.",
        "model": "m",
        "input_sha256": "",
        "finish": "stop",
        "seconds": 1.0,
    }
    return narration.step(Step.model_validate({"position": position, **used, **about, **changed}), list(calls))


def a_call(tool: str = "redis_get", effect: CallEffect = CallEffect.READ, **arguments: Any) -> PlannedCall:
    return PlannedCall(id=uuid4(), call_id="c", tool=tool, arguments=arguments, effect=effect)


def ended(call: PlannedCall, status: CallStatus, seconds: float, **more: Any) -> list[dict[str, Any]]:
    row = RecordedCall(**call.model_dump(), step=1, place=1, status=status, result="so")
    return narration.outcome(row, status, "so", seconds, {}, **more)


def test_a_lost_worker_is_told_from_one_that_left_and_the_time_is_split() -> None:
    run = a_run(steps=3)
    first, second = a_call(), a_call(key="b")
    log = log_of(
        (2, claimed(run)),
        (10, stepped(first, second, seconds=8.0)),
        (14, ended(first, CallStatus.SUCCEEDED, 4.0)),
        (15, ended(second, CallStatus.SUCCEEDED, 4.0)),  # beside the first: together they took 5 s
        (15, narration.released()),
        (16, claimed(run, attempt=1, turn=2)),
        (50, claimed(run, attempt=2, turn=3)),
        (52, stepped(position=2)),
        (53, narration.succeeded(run, "I say.")),
    )

    timeline = read_timeline(run, log, now=BEGAN + timedelta(days=1))

    claims = [entry for entry in timeline.entries if isinstance(entry, Claimed)]
    assert [(one.after, one.unheld_seconds, one.turn, one.attempt) for one in claims] == [
        (After.QUEUED, 2, None, None),
        (After.RELEASED, 1, 2, 1),
        (After.LOST, 34, 3, 2),
    ]
    assert [one.marks for one in claims] == [(), (), (Mark.LOST_WORKER, Mark.SLOW)]
    summary = timeline.summary
    assert (summary.wall_seconds, summary.model_seconds, summary.tools_seconds) == (53, 9, 5)
    assert (summary.unheld_seconds, summary.people_seconds, summary.other_seconds) == (37, 0, 2)
    assert summary.unseen_usd == 0
    assert summary.marks == {"lost worker": 1, "slow": 1}


def lost(attempt: int, *calls: str, worker: str | None = "host:7") -> list[dict[str, Any]]:
    """As the sweep tells it."""
    value = {"worker": worker, "attempt": attempt, "turn": 1, "steps": 1, "calls": list(calls), "lease_until": None}
    return [{"type": "CUSTOM", "name": "pam.lost", "value": value}]


def test_who_was_lost_is_told_where_the_run_was_taken_away_and_counted_once() -> None:
    run, call = a_run(steps=1, status="failed", reason="attempts"), a_call()
    end = [{"type": "RUN_ERROR", "message": "The run is parked.", "code": "attempts"}]
    log = log_of(
        (1, claimed(run)),
        (2, stepped(call)),
        (30, lost(0, "redis_get", worker=EVIL)),
        (31, claimed(run, attempt=1, turn=2)),
        (60, lost(1, worker=None)),
        (61, end),
    )

    timeline = read_timeline(run, log, now=BEGAN)

    assert [entry.kind for entry in timeline.entries] == ["claim", "step", "lost", "claim", "lost", "end", "open"]
    told_lost = [entry for entry in timeline.entries if isinstance(entry, Lost)]
    assert [(one.attempt, one.steps, one.calls) for one in told_lost] == [(0, 1, ("redis_get",)), (1, 1, ())]
    assert timeline.summary.marks["lost worker"] == 2, "neither the claim after it nor the end tells it again"
    again = timeline.entries[3]
    assert isinstance(again, Claimed)
    assert (again.after, again.unheld_seconds) == (After.LOST, 29), "what the lost worker still did is in it"
    assert timeline.summary.unheld_seconds == 1 + 29 + 30
    said = io.StringIO()
    show_timeline(timeline, console=Console(file=said, width=300, highlight=False))
    assert not GONE.search(said.getvalue())
    assert "was lost after step 1, attempt 0, in redis_get" in said.getvalue()
    assert "worker ? was lost after step 1, attempt 1" in said.getvalue()


def test_a_pause_for_a_model_loses_no_worker_and_words_on_the_way_are_told() -> None:
    run = a_run(steps=1)
    said = [{"type": "CUSTOM", "name": "pam.steered", "value": {"messageId": str(uuid4()), "content": "And be brief."}}]
    log = log_of(
        (1, claimed(run)),
        (2, narration.paused("The model's server failed with status 503.", 30)),
        (33, claimed(run, attempt=1, turn=2)),
        (34, said),
        (40, stepped(seconds=6.0)),
        (41, narration.succeeded(run, "I say.")),
    )
    timeline = read_timeline(run, log, now=BEGAN + timedelta(days=1))
    claims = [entry for entry in timeline.entries if isinstance(entry, Claimed)]
    assert [(one.after, one.unheld_seconds, one.marks) for one in claims[1:]] == [(After.MODEL, 31, (Mark.SLOW,))]
    assert next(entry.sentence for entry in timeline.entries if isinstance(entry, Paused)).endswith("503.")
    assert [entry.content for entry in timeline.entries if isinstance(entry, Steered)] == ["And be brief."]
    assert "lost worker" not in timeline.summary.marks


def test_what_takes_a_share_of_the_whole_time_is_slow_and_what_broke_off_is_marked() -> None:
    run, call = a_run(steps=2, cost_usd="0.09"), a_call("file_write", CallEffect.WRITE)
    again = a_call("file_write", CallEffect.WRITE)
    log = log_of(
        (0, claimed(run)),
        (1, stepped(call, seconds=0.9)),
        (5, ended(call, CallStatus.UNKNOWN, 4.0, origin=EVIL, cost_usd=Decimal("0.01"))),
        (6, stepped(again, position=2, finish="failed", seconds=0.5)),
        (7, ended(again, CallStatus.REFUSED, 0.1)),
        (10, narration.failed(run, "model_failed", EVIL)),
    )

    timeline = read_timeline(run, log, now=BEGAN)

    marks = {entry.seq: entry.marks for entry in timeline.entries if entry.marks and entry.kind != "taint"}
    assert list(marks.values()) == [
        (Mark.UNKNOWN_OUTCOME, Mark.SLOW),
        (Mark.BROKE_OFF,),
        (Mark.REFUSED, Mark.REPEATED),
        (Mark.FAILED,),
    ]
    assert timeline.summary.calls_usd == Decimal("0.01")
    assert timeline.summary.unseen_usd == Decimal("0.04"), "charged, and told by no event: a bill that nobody saw"
    said = io.StringIO()
    show_timeline(timeline, console=Console(file=said, width=300, highlight=False))
    assert not GONE.search(said.getvalue())
    assert "slow, 40% of the whole time" in said.getvalue()
    assert "whose bill nobody saw $0.04" in said.getvalue()


def test_the_end_of_a_run_whose_worker_was_lost_is_the_databases() -> None:
    run = a_run(status="failed", reason="deadline", steps=0, cost_usd="0")
    end = [{"type": "RUN_ERROR", "message": "The run reached its time limit.", "code": "deadline"}]

    lost = read_timeline(run, log_of((1, claimed(run)), (40, end)), now=BEGAN)
    never = read_timeline(run, log_of((30, [*claimed(run), *end])), now=BEGAN)

    assert [(entry.kind, entry.marks) for entry in lost.entries] == [
        ("claim", ()),
        ("end", (Mark.LOST_WORKER, Mark.FAILED)),
    ]
    assert lost.summary.unheld_seconds == 40
    assert [(entry.kind, entry.marks) for entry in never.entries] == [("end", (Mark.FAILED,))], (
        "no worker ever claimed it"
    )
    assert never.summary.unheld_seconds == 30


def test_a_run_that_waits_for_a_worker_is_told_up_to_now() -> None:
    run = a_run(status="queued", steps=0, cost_usd="0")
    timeline = read_timeline(run, [], now=BEGAN + timedelta(seconds=90))
    assert (timeline.entries, timeline.summary.unheld_seconds, timeline.summary.wall_seconds) == ((), 90, 90)
    live = a_run(status="running", steps=0, cost_usd="0")
    working = read_timeline(live, log_of((1, claimed(live))), now=BEGAN + timedelta(seconds=90))
    assert (working.summary.unheld_seconds, working.summary.other_seconds) == (1, 89)


def test_a_log_with_a_gap_or_an_odd_event_is_refused_with_its_place() -> None:
    run = a_run()
    whole = log_of((0, claimed(run)), (1, stepped()), (2, narration.succeeded(run, "I say.")))
    used = next(row for row in whole if row.payload.get("name") == "pam.usage")
    odd = used.model_copy(update={"payload": {**used.payload, "value": {"model": "m"}}})
    unknown = used.model_copy(update={"payload": {"type": "LAUNCH"}})
    silent = [row.model_copy(update={"seq": row.seq - (row.seq > used.seq)}) for row in whole if row is not used]
    for log, words in (
        ([*whole[:2], *whole[3:]], "has seq 4 where 3 must stand"),
        ([odd if row is used else row for row in whole], f"seq {used.seq} of the log is no event"),
        ([unknown if row is used else row for row in whole], f"seq {used.seq} of the log is no event"),
        (silent, "does not say what it used"),
    ):
        with pytest.raises(LogUnreadable, match=words):
            read_timeline(run, log, now=BEGAN)
    stray = a_call()
    outcome = Event(seq=1, type="CUSTOM", payload=ended(stray, CallStatus.SUCCEEDED, 1.0)[1], created_at=BEGAN)
    with pytest.raises(LogUnreadable, match="ends a call that the log never began"):
        read_timeline(run, [outcome], now=BEGAN)


def test_a_step_says_what_it_used() -> None:
    run = a_run()
    timeline = read_timeline(run, log_of((0, claimed(run)), (1, stepped(finish="length"))), now=BEGAN)
    step = timeline.entries[1]
    assert isinstance(step, Stepped)
    assert (step.cached_input_tokens, step.is_estimated, step.finish, step.marks) == (
        40,
        True,
        "length",
        (Mark.BROKE_OFF, Mark.SLOW),
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.004, "0.00 s"), (59.994, "59.99 s"), (61, "1 min 01 s"), (3_661, "1 h 01 min"), (90_000, "1 d 1 h")],
)
def test_times_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert told(seconds) == words
