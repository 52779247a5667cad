"""What can follow a model's answer: a closed union, decided from the answer and nothing else."""

from dataclasses import dataclass

from workers.kernel.ledger.tool_calls import CallEffect, RecordedCall
from workers.model.protocol import Finish

MAX_ASKED_AGAIN = 2  # in a row


@dataclass(frozen=True)
class Reply:
    """The run is done; this is the answer."""

    text: str


@dataclass(frozen=True)
class CallTools:
    """Carry these calls out, then ask the model again."""

    calls: tuple[RecordedCall, ...]


@dataclass(frozen=True)
class AwaitPerson:
    """Let the run wait until a person has answered each of the step's questions."""


@dataclass(frozen=True)
class AskAgain:
    """The model said nothing, or broke off and may write no more of what was reserved: ask once more."""


@dataclass(frozen=True)
class Stop:
    """The run cannot go on: a word for programs and a sentence for people."""

    reason: str
    sentence: str


@dataclass(frozen=True)
class Postpone:
    """No model can be asked now: the run comes back by itself."""

    sentence: str
    seconds: float


Decision = Reply | CallTools | AwaitPerson | AskAgain | Postpone | Stop


def decide(finish: Finish, text: str, calls: list[RecordedCall], *, empty_answers: int) -> Decision:
    """What a model's answer leads to; `empty_answers` counts those just before it."""
    if finish is Finish.REFUSED:
        return Stop("model_refused", "The model refused to answer.")
    if finish is Finish.LENGTH:
        return Stop("cut_short", "The model's answer was cut at its length limit: ask for less at once.")
    if todo := next_calls(tuple(calls)):
        return todo
    if text.strip():
        return Reply(text)
    if empty_answers >= MAX_ASKED_AGAIN:
        return Stop("empty_answer", "The model said nothing, three times in a row.")
    return AskAgain()


def next_calls(calls: tuple[RecordedCall, ...]) -> CallTools | AwaitPerson | None:
    """What of a step's calls is still to do: tools first, then questions; None when every call has its result."""
    unfinished = tuple(call for call in calls if not call.is_ended)
    runnable = tuple(call for call in unfinished if not is_question(call))
    if runnable:
        return CallTools(runnable)
    return AwaitPerson() if unfinished else None


def is_question(call: RecordedCall) -> bool:
    """Whether the call only waits for a person's answer."""
    return call.effect is CallEffect.PAUSE and not call.is_answered
