"""Carries a recorded run out again with the loop as it is now, and says where it decides otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.replay.recorded_ledger import Differs, RecordedLedger, RecordingEnds, WorkerWasLost
from infra.replay.recording import Recording
from infra.replay.stand_ins import RecordedModel, services, standing_in
from workers.agent.loop import Loop
from workers.agent.shutdown import LeavingFlag
from workers.agent.slots import Slots
from workers.kernel.ledger.hold import Hold
from workers.tools.tool import Tool


@dataclass(frozen=True)
class Difference:
    """The first decision that is another one now."""

    where: str
    recorded: str
    now: str


@dataclass(frozen=True)
class Replayed:
    """What came of it. `changed_inputs`: the steps whose model would now be asked something else."""

    difference: Difference | None
    steps: int
    calls: int
    pauses: int
    changed_inputs: tuple[int, ...] = field(default=())

    def is_same(self, *, is_strict: bool = False) -> bool:
        """Whether the same was decided; strictly: from the same inputs."""
        return self.difference is None and not (is_strict and self.changed_inputs)


async def replay(recording: Recording, *, tools: Sequence[Tool]) -> Replayed:
    """The run again, offline: each claim is a loop of its own, from the first to the end or to what still waits."""
    ledger = RecordedLedger(recording=recording, shows={tool.name for tool in tools if tool.show})
    difference: Difference | None = None
    try:
        await _advance(recording, ledger, standing_in(tools, ledger))
    except Differs as differs:
        difference = Difference(differs.where, differs.recorded, differs.now)
    calls = sum(call.step <= ledger.run.steps for call in recording.calls)
    return Replayed(difference, ledger.run.steps, calls, ledger.pauses, tuple(ledger.changed_inputs))


async def _advance(recording: Recording, ledger: RecordedLedger, tools: tuple[Tool, ...]) -> None:
    model = RecordedModel(recording=recording, ledger=ledger)
    parts: dict[str, Any] = {"model": model, "tools": tools, "services": services(), "slots": Slots()}
    while not ledger.is_over:
        claim = ledger.claim()
        hold = Hold(ledger, recording.run.id, claim.fence)
        loop = Loop(hold=hold, claim=claim, leaving=LeavingFlag(), **parts)
        try:
            await loop.advance()
        except WorkerWasLost:
            continue
        except RecordingEnds as ends:
            if recording.end is not None and not recording.end.is_from_outside:
                raise Differs("the end", "the run ended by itself", str(ends)) from None
            break
        except Differs:
            raise
        except Exception as error:  # the job's edge, as in workers/agent/turn: a broken loop ends the run
            if recording.end is not None and recording.end.reason == "internal":
                break
            broke = f"it breaks: {type(error).__name__}: {error}"
            raise Differs(f"after step {ledger.run.steps}", "the loop went on", broke) from error
    if left := ledger.left():
        raise Differs("the end", f"the run went on with {left}", "it is over")
