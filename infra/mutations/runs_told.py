"""Mutations of what is told of runs afterwards: their timeline, and their replay."""

# ruff: noqa: E501 - one mutation, one line

from infra.mutations.mutation import edits

_READING, _TIMELINE, _VIEW = "infra/cli/timeline_reading.py", "infra/cli/timeline.py", "infra/cli/timeline_view.py"
_LEDGER, _RECORDING, _TOOLS = (
    "infra/replay/recorded_ledger.py",
    "infra/replay/recording.py",
    "infra/replay/stand_ins.py",
)
_STORED, _REPLAYED, _TURN = "infra/replay/stored.py", "infra/replay/replayed.py", "workers/agent/turn.py"
_EXECUTION, _NARRATION = "workers/agent/execution.py", "workers/agent/narration.py"
_LOGS = ("tests/cli/test_timeline_reading.py",)
_TOLD = ("tests/cli/test_timeline.py", "-k", "question or cost or cancelled")
_CHANGED = ("tests/cli/test_replay.py", "-k", "changed or says_more")
_DECIDED = ("tests/cli/test_replay.py", "-k", "questions")
_LOOP = ("tests/cli/test_replay.py", "-k", "changed_loop")
_OUTSIDE, _ENDS = ("tests/cli/test_replay.py", "-k", "outside"), ("tests/cli/test_replay.py", "-k", "failures_of")
_FILES, _LOST = (
    ("tests/cli/test_replay.py", "-k", "changed_is or cut_is or from_a_file"),
    ("tests/faults/test_told_afterwards.py",),
)

# what is taken away, file, its text, what takes its place, who notices
MUTATIONS = edits(
    "run told",
    (
        ("a log has no gap", _READING, "if row.seq != place:", "if False:", _LOGS),
        ("a step says what it used", _READING, "if self.usage is None:", "if False:", _LOGS),
        ("a call begins before it ends", _READING, "call = self.calls.pop(outcome.toolCallId, None)", "call = self.calls.pop(outcome.toolCallId, _Call(0, '', told))", _LOGS),
        ("a reminder is no claim", _READING, 'case CustomEvent(name="pam.reminder"):\n            return False', 'case CustomEvent(name="pam.reminder"):\n            return True', _TOLD),
        ("an end without a worker is no claim", _READING, "return (following.at - told.at).total_seconds() > _ONE_BATCH_SECONDS", "return True", _LOGS),
        ("who left is not lost", _READING, "after = self.free if self.free in (After.RELEASED, After.MODEL, After.PEOPLE) else After.LOST", "after = After.LOST", _LOGS),
        ("who is lost did not leave", _READING, "after = self.free if self.free in (After.RELEASED, After.MODEL, After.PEOPLE) else After.LOST", "after = After.RELEASED", _LOGS),
        ("people's time is not a worker's", _READING, "(self.people if after is After.PEOPLE else self.unheld).append(span)", "self.unheld.append(span)", _TOLD),
        ("a moment counts once", _TIMELINE, "start = span.start if reached is None else max(span.start, reached)", "start = span.start", _LOGS),
        ("what repeats is plain", _VIEW, "return shown(line if", "return (line if", _LOGS),
        ("a leaving worker says so", _TURN, "await events.append(hold, narration.released())", "pass", _LOST),
        ("what a call cost is told", _EXECUTION, "origin=result.origin, cost_usd=cost)", "origin=result.origin)", _TOLD),
        ("a call costs what the ledger keeps", _EXECUTION, ".quantize(_LEAST_USD, ROUND_HALF_UP)", "", _TOLD),
        ("why an answer ended is told", _NARRATION, '        "finish": told.finish,\n', "", _LOGS),
        ("another outcome", _LEDGER, '(now["origin"] or "")[:500] or None) != before:', '(now["origin"] or "")[:500] or None) == ():', _CHANGED),
        ("another effect", _LEDGER, "if now := self._effects.get(stored.id):", "if now := None:", _CHANGED),
        ("another end", _LEDGER, "if end is None or (status, reason, text) != (end.status, end.reason, end.text):", "if end is None:", _LOOP),
        ("an earlier end", _LEDGER, "if left := self.left():\n            raise Differs(\"the end\"", "if left := None:\n            raise Differs(\"the end\"", _LOOP),
        ("a step more", _LEDGER, 'raise Differs(f"step {self.run.steps + 1}", self._end_in_words(), "the model is asked again")', 'raise RecordingEnds("")', _LOOP),
        ("a call that did not run", _LEDGER, 'raise Differs(_named(stored), f"{stored.status}, not run: {stored.result}", "it would run")', 'return {"call": {}, "agreed": None}', _CHANGED),
        ("other arguments", _LEDGER, "if tool.arguments.model_validate(meant) != given:", "if False:", _DECIDED),
        ("a no is a no", _LEDGER, "if asked is not None and asked.status in (ApprovalStatus.REJECTED, ApprovalStatus.EXPIRED):", "if False:", _DECIDED),
        ("other questions", _LEDGER, "if tuple(asks) != expected:", "if False:", _DECIDED),
        ("another input", _LEDGER, 'if step["input_sha256"] != recorded.input_sha256:', "if False:", _CHANGED),
        ("strictly the same input", _REPLAYED, "and not (is_strict and self.changed_inputs)", "", _CHANGED),
        ("a lost effect is unknown", _LEDGER, 'if LOST in (stored.result or "") and', "if False and", _LOST),
        ("another worker's step", _TOOLS, "if self._recording.fence_of(position) != self._ledger.fence:", "if False:", _LOST),
        ("an end from outside", _LEDGER, "if end is not None and end.is_from_outside:", "if False:", _OUTSIDE),
        ("what nobody saw ends the replay", _LEDGER, "if stored.result is None and stored.is_started is", "if stored.result == 1 and stored.is_started is", _OUTSIDE),
        ("a run that goes on", _STORED, 'if run.status in ("queued", "running"):', "if False:", _OUTSIDE),
        ("nothing later in the thread", _STORED, 'if row["position"] <= last', "if True", _ENDS),
        ("earlier runs' thoughts", _STORED, 'or (row["run_id"], row["step"]) not in acted', "or True", _ENDS),
        ("a file as it was written", _RECORDING, 'if whole["sha256"] != _digest(whole["recording"]):', "if False:", _FILES),
        ("a file of this version", _RECORDING, 'if whole["pam_recording"] != 1:', "if False:", _FILES),
        ("every step", _RECORDING, "if [step.position for step in self.steps] != list(range(1, self.run.steps + 1)):", "if False:", _FILES),
        ("every call", _RECORDING, "if [call.place for call in calls] != list(range(1, len(calls) + 1)):", "if False:", _FILES),
        ("ids of this run", _RECORDING, "if call.id != deterministic_id(", "if None is deterministic_id(", _FILES),
        ("nothing is written over", _RECORDING, "file.touch(mode=0o600, exist_ok=False)", "file.touch(mode=0o600)", _FILES),
        ("a recording is private", _RECORDING, "file.touch(mode=0o600, exist_ok=False)", "file.touch(exist_ok=False)", _FILES),
        ("nothing unknown", _RECORDING, 'model_config = ConfigDict(frozen=True, extra="forbid")', 'model_config = ConfigDict(frozen=True, extra="ignore")', _FILES),
    ),
)  # fmt: skip
