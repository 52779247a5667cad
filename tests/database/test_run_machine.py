"""The state machine of a run against the real SQL: whatever people, workers, sweeps and clocks do in any order, a model knows
what is answered and what is so afterwards.

`PAM_MACHINE_STORIES=2000` writes so many stories of a new seed, and shortens one that fails.
"""

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.database.run_doors import Doors
from tests.database.run_stories import RunStories
from tests.support.database import Database

STORIES = int(os.environ.get("PAM_MACHINE_STORIES", "0"))
# The same stories every time: two batches, and more only until each answer below was given.
BATCH, LEAST_BATCHES, MOST_BATCHES = 80, 2, 6
# What a story must have come to, lest the machine only ever knocks at closed doors: verb → its answers.
LATE, GONE = ("PM002", "PM003"), ("access_revoked", "deadline", "cancelled")
REACHED = {
    "start_run": ("ok: at once", "ok: queue", "ok: interrupt", "ok: roll_back", "busy", "forbidden"),
    "pause_run": ("ok", "conflict", "forbidden"),
    "resume_run": ("ok", "conflict", "conflict: it does not rest", "forbidden"),
    "cancel_run": ("ok: at once", "ok: later", "conflict", "forbidden"),
    "steer_run": ("ok", "conflict", "forbidden"),
    "decide": ("ok: approve", "ok: reject", "ok: answer", "ok: others wait", "conflict", "invalid", "forbidden"),
    "retry_run": ("ok", "conflict: it has not failed", "conflict: effects", "busy", "forbidden"),
    "claim_run": (
        "ok",
        "old_turn",
        "not_queued",
        "waiting",
        "paused",
        "full",
        "ended: attempts",
        "ended: access_revoked",
        "ended: deadline",
    ),
    "claim_next": ("ok", "nothing", "nothing: full"),
    "pulse_runs": ("well", "fence_lost", "paused", *GONE),
    "read_conversation": ("ok", *LATE),
    "append_events": ("ok", *LATE),
    "take_messages": ("ok", "ok: words", *LATE),
    "begin_step": ("ok", "ok: words", *LATE),
    "record_step": ("ok", "PM002: position", *LATE),
    "begin_call": ("ok", "ok: agreed", "ask", "not_agreed", "budget", "PM002: over", *LATE),
    "finish_call": ("ok", "PM002: over", *LATE),
    "interrupt_run": ("ok", "ok: cancelled", "PM002: over", *LATE),
    "postpone_run": ("ok", "ok: cancelled", "limit", *LATE),
    "release_run": ("ok", "ok: cancelled", "PM002"),
    "finish_run": ("ok: succeeded", "ok: failed", "ok: cancelled", "steered", "steered: taken, not answered", "PM002"),
    "sweep_runs": ("rings", "is silent"),
    "over": ("running",),
    "late": ("queued", "running", "interrupted"),
    "unheard": ("queued",),
    "due": ("queued",),
    "forgotten": ("interrupted",),
    "tired": ("running",),
}


def _written(stories: int, *, number: int) -> None:
    """So many stories of the seed with this number."""
    chosen = settings(
        max_examples=stories,
        stateful_step_count=50,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if STORIES else [Phase.generate],
    )
    run_state_machine_as_test(seed(number)(RunStories), settings=chosen)


@pytest.mark.timeout(0 if STORIES else 300)
def test_whatever_happens_in_any_order_a_run_is_what_the_model_says(database: Database) -> None:
    RunStories.reached.clear()
    with Doors.open(database) as RunStories.doors:
        if STORIES:
            _written(STORIES, number=random.getrandbits(64))
        for number in range(1, 1 + MOST_BATCHES) if not STORIES else ():
            _written(BATCH, number=number)
            if number >= LEAST_BATCHES and not _missing():
                break
    assert STORIES or not _missing(), f"no story came to these: {_missing()}"


def _missing() -> list[tuple[str, str]]:
    return [(verb, kind) for verb, kinds in REACHED.items() for kind in kinds if not RunStories.reached[verb, kind]]
