"""A ledger that answers from a recording what the database answered then, and holds what the loop does against it."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any
from uuid import UUID

from infra.replay.recording import Recording, StoredApproval, StoredCall
from workers.agent.execution import LOST
from workers.agent.loop import FAILED
from workers.kernel.errors import FenceLost, Refused
from workers.kernel.ledger.approvals import ApprovalKind, ApprovalStatus
from workers.kernel.ledger.hold import Json
from workers.kernel.ledger.runs import Claim, Run, RunStatus
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus, RecordedCall
from workers.tools.tool import Tool


class Differs(FenceLost):
    """The loop does now something else than is recorded. Whatever is under way drops the run."""

    def __init__(self, where: str, recorded: str, now: str) -> None:
        super().__init__(f"{where}: recorded {recorded}; now {now}")
        self.where, self.recorded, self.now = where, recorded, now


class WorkerWasLost(FenceLost):
    """Another worker went on from here: a new claim follows."""


class RecordingEnds(FenceLost):
    """Nothing more is recorded: the run was ended from outside here, or waits."""


class RecordedLedger:
    """The verbs of pam_worker that a loop calls, for one run. It decides nothing: it repeats what was answered.

    Nothing here waits, so that each of the calls that ran side by side comes to its end before another's is heard of.
    """

    def __init__(self, *, recording: Recording, shows: Collection[str]) -> None:
        self._recording = recording
        self._shows = shows  # the tools that show people their effect before they decide
        self._stored = {call.id: call for call in recording.calls}
        self._approvals = {approval.id: approval for approval in recording.approvals}
        self._calls: dict[UUID, RecordedCall] = {}
        self._effects: dict[UUID, str] = {}
        fresh = {"status": RunStatus.RUNNING, "steps": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": Decimal(0)}
        self.run = recording.run.model_copy(update={**fresh, "reason": None, "ended_at": None})
        self.fence = recording.fence_of(1) if recording.steps else 1
        self.pauses = 0
        self.is_over = False
        self.changed_inputs: list[int] = []
        self._heard = 0  # of what people said on the way

    def claim(self) -> Claim:
        """What a worker gets that takes the run now."""
        if self.run.steps < len(self._recording.steps):
            self.fence = self._recording.fence_of(self.run.steps + 1)
        return Claim(fence=self.fence, run=self.run, agent=self._recording.agent)

    def stored(self, id: UUID) -> StoredCall:
        """A call as it is recorded. Raises Differs for one that is not."""
        if id not in self._stored:
            raise Differs("a call", "nothing of it", f"it is {id}")
        return self._stored[id]

    def approval(self, id: UUID) -> StoredApproval | None:
        """What people were asked about a call."""
        return self._approvals.get(id)

    def left(self) -> str | None:
        """What is recorded and was not done again."""
        if self.run.steps < len(self._recording.steps):
            return f"step {self.run.steps + 1}"
        for call in self._recording.calls:
            if call.result is not None and not self._calls[call.id].is_ended:
                return f"the end of {_named(call)}"
        if self.pauses < len(self._recording.pauses):
            return f"pause {self.pauses + 1}"
        return None

    async def call(self, verb: str, **arguments: Json) -> Json:
        """One verb, by the names that the real one has. Raises Refused as it did then."""
        match verb:
            case "read_conversation":
                return self._conversation()
            case "take_messages":
                return self._take()
            case "append_events" | "preview_message":
                return 1  # what viewers see decides nothing
            case "begin_step":
                return self._begin_step(arguments["output_tokens"])
            case "record_step":
                return self._record_step(arguments["step"], arguments["calls"])
            case "begin_call":
                return self._begin(self.stored(arguments["id"]), only_ask=arguments.get("only_ask", False))
            case "finish_call":
                return self._finish_call(self.stored(arguments["id"]), arguments)
            case "interrupt_run":
                return self._interrupt([UUID(ask["id"]) for ask in arguments["asks"]])
            case "finish_run":
                return self._finish_run(RunStatus(arguments["status"]), arguments["reason"], arguments["events"][-1])
        raise Differs("the loop", "no such verb", f"it calls {verb}")

    def _take(self) -> Json:
        """What people said before the next step, once."""
        due = [one for one in self._recording.steered if one.before_step <= self.run.steps + 1]
        new, self._heard = due[self._heard :], len(due)
        return [{"role": "user", "content": one.content, "step": None} for one in new]

    def _begin_step(self, output_tokens: int) -> Json:
        """What it might write is in the recorded answer; a budget that was used up then is so again."""
        end = self._recording.end
        if said := self._take():
            return {"messages": said}
        if end and end.reason == "budget" and self.run.steps == len(self._recording.steps):
            raise Refused("budget", end.text)
        return {"output_tokens": output_tokens, "is_reserved": False}

    def _conversation(self) -> Json:
        done = self._recording.steps[: self.run.steps]
        said: list[Json] = [{"role": one.role, "content": one.content, "step": None} for one in self._recording.said]
        heard = self._recording.steered[: self._heard]
        for position in range(1, self.run.steps + 2):
            said += [
                {"role": "user", "content": one.content, "step": None} for one in heard if one.before_step == position
            ]
            said += [
                {"role": "assistant", "content": step.text, "step": position}
                for step in done[position - 1 : position]
                if step.finish != FAILED
            ]
        return {
            "finish": done[-1].finish if done else None,
            "messages": said,
            "calls": [call.model_dump() for call in self._calls.values()],
        }

    def _record_step(self, step: dict[str, Any], calls: list[dict[str, Any]]) -> Json:
        position = step["position"]
        if position > len(self._recording.steps):
            raise Differs(f"step {position}", self._end_in_words(), "one step more")
        recorded = self._recording.steps[position - 1]
        for name in ("text", "finish"):
            if step[name] != getattr(recorded, name):
                raise Differs(f"step {position}, its {name}", str(getattr(recorded, name)), str(step[name]))
        planned = [call for call in self._recording.calls if call.step == position]
        if len(planned) != len(calls):
            raise Differs(f"step {position}", f"{len(planned)} calls", f"{len(calls)} calls")
        for stored, now in zip(planned, calls, strict=True):
            for part in ("tool", "arguments"):
                before = getattr(stored, part)
                if now[part] != before:
                    raise Differs(f"{_named(stored)}, its {part}", str(before), str(now[part]))
            if now["effect"] != stored.effect:
                self._effects[stored.id] = now["effect"]  # told unless the call's end tells more
        if step["input_sha256"] != recorded.input_sha256:
            self.changed_inputs.append(position)
        for stored in planned:
            self._calls[stored.id] = RecordedCall.model_validate(
                stored.model_dump() | {"status": CallStatus.PLANNED, "result": None, "origin": None}
            )
        self.run = self.run.model_copy(
            update={
                "steps": position,
                "input_tokens": self.run.input_tokens + recorded.input_tokens,
                "output_tokens": self.run.output_tokens + recorded.output_tokens,
                "cost_usd": self.run.cost_usd + recorded.cost_usd,
            }
        )
        return self.run.model_dump()

    def _begin(self, stored: StoredCall, *, only_ask: bool) -> Json:
        self._check_effect(stored)
        state = self._calls[stored.id]
        asked = self._approvals.get(stored.id)
        if asked is not None and state.decision is None:
            return {"ask": _question(asked)}
        if asked is not None and asked.status in (ApprovalStatus.REJECTED, ApprovalStatus.EXPIRED):
            raise Differs(_named(stored), f"people declined it: {stored.result}", "it would run all the same")
        if LOST in (stored.result or "") and stored.effect is not CallEffect.READ and not only_ask:
            if state.status is not CallStatus.STARTED:  # its worker began it, and was not seen again
                self._calls[stored.id] = state.model_copy(update={"status": CallStatus.STARTED})
                raise WorkerWasLost(f"{_named(stored)} was begun by a worker that was lost")
            raise Refused("recorded", (stored.result or "").partition(f" {LOST}")[0])
        if not stored.is_started:
            return self._never_began(stored, only_ask=only_ask)
        if only_ask:
            return {"held": True}
        self._calls[stored.id] = state.model_copy(update={"status": CallStatus.STARTED})
        return {"call": {}, "agreed": asked.facts if asked and asked.status is ApprovalStatus.APPROVED else None}

    def _never_began(self, stored: StoredCall, *, only_ask: bool) -> Json:
        """The call ended, or the run did, before its intent was recorded."""
        is_shown = stored.tool in self._shows and not (stored.result or "").startswith("The arguments of ")
        match stored.status:
            case CallStatus.FAILED | CallStatus.REFUSED if is_shown and (
                stored.origin or stored.status is CallStatus.FAILED
            ):  # people would have been asked, and what it does could not be shown to them
                return {"ask": _unasked(self.run)}
            case CallStatus.REFUSED if stored.result is not None:
                raise Refused("recorded", stored.result)
        if only_ask:
            return {"held": True}
        if stored.result is None:
            raise RecordingEnds(f"{_named(stored)} never began")
        raise Differs(_named(stored), f"{stored.status}, not run: {stored.result}", "it would run")

    def _check_effect(self, stored: StoredCall) -> None:
        if now := self._effects.get(stored.id):
            raise Differs(f"{_named(stored)}, its effect", stored.effect, now)

    def check_arguments(self, stored: StoredCall, tool: Tool, given: Any) -> None:
        """What is carried out is what the model asked for, or what a person made of it."""
        asked = self._approvals.get(stored.id)
        edited = asked.edited_arguments if asked else None
        meant = stored.arguments if edited is None else edited
        if tool.arguments.model_validate(meant) != given:
            raise Differs(f"{_named(stored)}, what is carried out", str(meant), str(given))

    def _finish_call(self, stored: StoredCall, now: dict[str, Any]) -> Json:
        if stored.result is None and stored.is_started is (self._calls[stored.id].status is CallStatus.STARTED):
            raise RecordingEnds("nobody saw this call's end")
        before = (stored.status.value, stored.result, stored.origin)
        if (now["status"], now["result"], (now["origin"] or "")[:500] or None) != before:
            raise Differs(
                _named(stored),
                _outcome(stored.status, stored.result, stored.origin),
                _outcome(CallStatus(now["status"]), now["result"], now["origin"]),
            )
        self._check_effect(stored)
        ended = {"status": stored.status, "result": stored.result, "origin": stored.origin, "cost_usd": stored.cost_usd}
        done = self._calls[stored.id] = self._calls[stored.id].model_copy(update=ended)
        self.run = self.run.model_copy(update={"cost_usd": self.run.cost_usd + stored.cost_usd})
        return done.model_dump(exclude={"decision"})

    def _interrupt(self, asks: list[UUID]) -> Json:
        self._stop_if_outside()
        expected = self._recording.pauses[self.pauses] if self.pauses < len(self._recording.pauses) else ()
        if tuple(asks) != expected:
            raise Differs(f"pause {self.pauses + 1}", self._asks_in_words(expected), self._asks_in_words(asks))
        self.pauses += 1
        for id in asks:
            self._check_effect(self._stored[id])
        answers = [self._approvals[id] for id in asks]
        self.is_over = not all(answer.is_decided for answer in answers)
        for answer in answers:
            said = answer.note if answer.kind is ApprovalKind.QUESTION else None
            told = {"status": CallStatus.ANSWERED, "decision": answer.decision, "result": said}
            self._calls[answer.id] = self._calls[answer.id].model_copy(update=told)
        return None

    def _finish_run(self, status: RunStatus, reason: str | None, last: dict[str, Any]) -> Json:
        steps, end = self._recording.steps, self._recording.end
        if 0 < self.run.steps < len(steps) and steps[self.run.steps - 1].finish == FAILED:
            raise WorkerWasLost("its answer broke off, and the next worker asked again")
        if status is RunStatus.SUCCEEDED and any(one.before_step > self.run.steps for one in self._recording.steered):
            raise Refused("steered", "Somebody has said something more: it is taken before the run ends.")
        self._stop_if_outside()
        text = str((last.get("result") or {}).get("text", "")) if last["type"] == "RUN_FINISHED" else last["message"]
        if left := self.left():
            raise Differs("the end", f"the run went on with {left}", f"it ends as {_ending(status, reason, text)}")
        if end is None or (status, reason, text) != (end.status, end.reason, end.text):
            raise Differs("the end", self._end_in_words(), _ending(status, reason, text))
        self.is_over = True
        return None

    def _stop_if_outside(self) -> None:
        """An end that came from outside stands, whatever the loop was about to do after all that is recorded."""
        if self._recording.end and self._recording.end.is_from_outside and self.left() is None:
            raise RecordingEnds("somebody else ended the run here")

    def no_more_steps(self) -> None:
        """The model is asked, and no answer is recorded: it failed, or this raises RecordingEnds or Differs."""
        end = self._recording.end
        if end is not None and end.reason in ("model_failed", "context_too_long"):
            return
        if end is not None and end.is_from_outside:
            raise RecordingEnds("somebody else ended the run here")
        raise Differs(f"step {self.run.steps + 1}", self._end_in_words(), "the model is asked again")

    def _end_in_words(self) -> str:
        end = self._recording.end
        return _ending(end.status, end.reason, end.text) if end else "the run waits for people"

    def _asks_in_words(self, ids: Collection[UUID]) -> str:
        named = [_named(self._stored[id]) if id in self._stored else str(id) for id in ids]
        return f"people are asked about {', '.join(named)}" if named else "nobody is asked"


def _named(call: StoredCall) -> str:
    return f"step {call.step}, {call.tool} ({call.place})"


def _outcome(status: CallStatus, result: str | None, origin: str | None) -> str:
    return f"{status}{f' from {origin}' if origin else ''}: {result or '(no result)'}"


def _ending(status: RunStatus, reason: str | None, text: str) -> str:
    return f"{status}{f' ({reason})' if reason else ''}: {text}"


def _question(asked: StoredApproval) -> Json:
    return asked.model_dump(include={"why", "needs_role", "is_four_eyes", "expires_at"})


def _unasked(run: Run) -> Json:
    return {"why": "", "needs_role": "developer", "is_four_eyes": False, "expires_at": run.deadline_at}
