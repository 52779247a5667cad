"""One organisation's story as hypothesis writes it: every rule asks the database and the model, and both must say the same."""

from collections import Counter
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.database.run_doors import Doors, told
from tests.database.run_model import MOST_PAUSES, STEP_USD, Model
from tests.database.run_state import TOOLS, UNFINISHED, Call, Hold, Run
from tests.database.world import step

MOST_UNFINISHED = 8  # as many as one sweep locks before it looks at the first
CAP, MAX_COST_USD = 2, Decimal("0.5")
NUMBER = st.integers(0, 11)
PERSON = st.sampled_from(("asker", "asker", "boss"))
SOME_TOOLS = st.lists(st.sampled_from(tuple(TOOLS)), max_size=3)
CEILING = st.sampled_from(("0", "0", "0.2"))
OUTCOME = st.sampled_from(("succeeded", "failed", "refused", "unknown"))

# What passes with time → how it is made to pass, and what the model knows of it then.
CLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "over": ("pam_private.run_heads set lease_until = now() - interval '1 h' where run_id", {"lease": "over"}),
    "unheard": ("pam_private.run_heads set rung_at = now() - interval '1 h' where run_id", {"is_unheard": True}),
    "late": ("pam.runs set deadline_at = now() - interval '1 h' where id", {"is_late": True}),
    "due": ("pam.runs set due_at = now() - interval '1 s' where id", {"is_postponed": False}),
    "forgotten": ("pam.runs set interrupted_at = now() - interval '8 days' where id", {"is_forgotten": True}),
    "tired": (f"pam.runs set pauses = {MOST_PAUSES} where id", {"pauses": MOST_PAUSES}),
}


class RunMachine(RuleBasedStateMachine):
    """People, workers, sweeps and clocks in any order. reached: how often each verb gave each answer."""

    doors: ClassVar[Doors]
    reached: ClassVar[Counter[tuple[str, str]]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.people, self.org = self.doors.new_organization(cap=CAP)
        self.model = Model(cap=CAP, max_cost_usd=MAX_COST_USD)
        self.threads: list[UUID] = []

    def expect(self, verb: str, answer: Any, expected: str) -> None:
        """Hold the answer against the model's, and count that this was reached."""
        assert told(answer) == expected.partition(":")[0], (verb, answer, expected)
        self.reached[verb, expected] += 1

    def rpc(self, person: str, function: str, **given: Any) -> Any:
        """A function of schema pam as one of the two people."""
        return self.doors.rpc(self.people[person], function, **given)

    def held(self, hold: Hold, verb: str, **given: Any) -> Any:
        """A worker's verb under what it believes to hold."""
        return self.doors.worker(verb, run_id=hold.run.id, fence=hold.fence, **given)

    def a_run(self, number: int, *wanted: str) -> Run:
        """One of the runs, of these statuses if there are any."""
        runs = [run for run in self.model.runs if run.status in wanted] or self.model.runs
        return runs[-1 - number % len(runs)]

    def good_holds(self) -> list[Hold]:
        """The holds that stand."""
        return [hold for hold in self.model.holds if self.model.is_current(hold)]

    def a_hold(self, number: int) -> Hold:
        """Three times in four one that stands; else one that may be long over."""
        good = self.good_holds()
        holds = good if good and number % 4 else self.model.holds
        return holds[-1 - number // 4 % len(holds)]

    def a_call(self, number: int) -> tuple[Hold, Call]:
        """A call of a run that somebody holds or held: mostly an open one of one who holds it."""
        holds = [hold for hold in self.model.holds if hold.run.calls]
        good = [hold for hold in holds if self.model.is_current(hold)]
        among = good if good and number % 4 else holds
        hold = among[-1 - number % len(among)]
        calls = [call for call in hold.run.calls if call.is_open] if number % 3 else []
        calls = calls or hold.run.calls
        return hold, calls[number // 4 % len(calls)]

    def has_runs(self) -> bool:
        return bool(self.model.runs)

    def has_queued(self) -> bool:
        return any(run.status == "queued" for run in self.model.runs)

    def has_holds(self) -> bool:
        return bool(self.model.holds)

    def has_room(self) -> bool:
        return sum(run.is_unfinished for run in self.model.runs) < MOST_UNFINISHED

    def has_calls(self) -> bool:
        return any(hold.run.calls for hold in self.model.holds)

    def has_asked(self) -> bool:
        return any(call.approval for run in self.model.runs for call in run.calls)

    # People.

    @precondition(has_room)
    @rule(
        person=PERSON,
        thread=st.integers(-2, 5),
        if_busy=st.sampled_from(("reject", "queue", "queue", "interrupt", "roll_back")),
        priority=st.sampled_from((0, 0, 5)),
    )
    def start_run(self, person: str, thread: int, if_busy: str, priority: int) -> None:
        self._start(person, thread % len(self.threads) if thread >= 0 and self.threads else None, if_busy, priority)

    def _start(self, person: str, at: int | None, if_busy: str, priority: int) -> None:
        question = f"question {len(self.model.runs)}"
        expected = self.model.start(person, at, if_busy, question, priority)
        where = {} if at is None else {"thread_id": self.threads[at]}
        asked = {"agent": "engineer", "message": question, "if_busy": if_busy, "priority": priority, **where}
        answer = self.rpc(person, "start_run", org_id=self.org, **asked)
        self.expect("start_run", answer, expected)
        if "run_id" in answer:
            self.model.runs[-1].id = UUID(answer["run_id"])
            if at is None:
                self.threads.append(UUID(answer["thread_id"]))

    @precondition(has_runs)
    @rule(person=PERSON, number=NUMBER)
    def cancel_run(self, person: str, number: int) -> None:
        self._cancel(person, self.a_run(number, *(UNFINISHED if number % 3 else ())))

    def _cancel(self, person: str, run: Run) -> None:
        expected = self.model.cancel(person, run)
        self.expect("cancel_run", self.rpc(person, "cancel_run", run_id=run.id), expected)

    @precondition(has_runs)
    @rule(person=PERSON, number=NUMBER)
    def steer_run(self, person: str, number: int) -> None:
        self._steer(person, self.a_run(number, *(("running",) if number % 4 else ())))

    def _steer(self, person: str, run: Run) -> None:
        text = f"word {len(run.said)}"
        expected = self.model.steer(person, run, text)
        self.expect("steer_run", self.rpc(person, "steer_run", run_id=run.id, message=text), expected)

    @precondition(has_asked)
    @rule(person=st.sampled_from(("asker", "boss", "boss")), number=NUMBER, is_yes=st.booleans())
    def decide(self, person: str, number: int, is_yes: bool) -> None:
        """One thing that people are asked; or all of one run."""
        asked = [(run, call) for run in self.model.runs for call in run.calls if call.approval]
        waiting = [(run, call) for run, call in asked if call.approval == "pending"]
        among = waiting if waiting and number % 6 else asked
        run, call = among[-1 - number % len(among)]
        self._decide(person, run, call, is_apt=bool(number % 5), is_yes=is_yes)
        for other in [one for one in run.calls if one.approval == "pending"] if number % 2 else []:
            self._decide(person, run, other, is_apt=True, is_yes=is_yes)

    def _decide(self, person: str, run: Run, call: Call, *, is_apt: bool, is_yes: bool) -> None:
        is_answer = (call.effect == "pause") is is_apt
        verdict = "answer" if is_answer else "approve" if is_yes else "reject"
        expected = self.model.decide(person, run, call, verdict)
        decision = {"approval_id": str(call.id), "verdict": verdict, "note": "so"}
        answer = self.rpc(person, "decide", decisions=[decision])
        self.expect("decide", answer["results"][0], expected)

    @precondition(has_room)
    @precondition(has_runs)
    @rule(person=PERSON, number=NUMBER, despite_effects=st.booleans())
    def retry_run(self, person: str, number: int, despite_effects: bool) -> None:
        self._retry(person, self.a_run(number, "failed", "cancelled"), despite_effects=despite_effects)

    def _retry(self, person: str, old: Run, *, despite_effects: bool) -> None:
        expected = self.model.retry(person, old, despite_effects=despite_effects)
        answer = self.rpc(person, "retry_run", run_id=old.id, despite_effects=despite_effects)
        self.expect("retry_run", answer, expected)
        if "run_id" in answer:
            self.model.runs[-1].id = UUID(answer["run_id"])

    @precondition(has_runs)
    @rule(role=st.sampled_from(("developer", "developer", "viewer")))
    def the_asker_becomes(self, role: str) -> None:
        self._becomes(role)

    def _becomes(self, role: str) -> None:
        self.model.roles["asker"] = role
        self.doors.admin(f"update pam.members set role = '{role}' where user_id = %s", self.people["asker"])

    # Workers.

    @precondition(has_runs)
    @rule(number=NUMBER, turns=st.sampled_from((0, 0, 0, 0, 0, -1, 1)))
    def claim_run(self, number: int, turns: int) -> None:
        self._claim(self.a_run(number, *(("queued",) if number % 6 else ())), turns)

    def _claim(self, run: Run, turns: int = 0) -> None:
        turn = run.turn + turns
        expected = self.model.claim(run, turn)
        answer = self.doors.worker("claim_run", run_id=run.id, turn=turn, worker="w", lease_seconds=600)
        self.expect("claim_run", answer, expected)
        if expected == "ok":
            assert answer["fence"] == run.fence

    @precondition(has_queued)
    @rule()
    def claim_next(self) -> None:
        expected, run = self.model.claim_next()
        answer = self.doors.worker("claim_next", worker="w", lease_seconds=600)
        self.expect("claim_next", answer or {"refused": {"code": "nothing"}}, expected)
        if run is not None:
            assert (answer["run"]["id"], answer["fence"]) == (str(run.id), run.fence)

    @precondition(has_holds)
    @rule(is_late=st.booleans())
    def pulse_runs(self, is_late: bool) -> None:
        """The hearts of all workers; or of those alone whose holds are over, and who do not know it."""
        holds = [hold for hold in self.model.holds if not (is_late and self.model.is_current(hold))]
        if holds:
            self._pulse(holds)

    def _pulse(self, holds: list[Hold]) -> None:
        runs, fences = zip(*((hold.run.id, hold.fence) for hold in holds), strict=True)
        expected = sorted((str(run.id), reason) for run, reason in self.model.pulse(holds))
        answer = self.doors.worker("pulse_runs", runs=runs, fences=fences, lease_seconds=600)
        assert sorted((one["run_id"], one["reason"]) for one in answer) == expected
        for reason in {reason for _, reason in expected} or {"well"}:
            self.reached["pulse_runs", reason] += 1

    @precondition(has_holds)
    @rule(number=NUMBER, verb=st.sampled_from(("read_conversation", "append_events", "take_messages", "begin_step")))
    def look(self, number: int, verb: str) -> None:
        self._look(self.a_hold(number), verb)

    def _look(self, hold: Hold, verb: str) -> None:
        if verb in ("take_messages", "begin_step"):
            return self._take(hold, verb)
        given = {"events": []} if verb == "append_events" else {}
        return self.expect(verb, self.held(hold, verb, **given), self.model.look(hold))

    def _take(self, hold: Hold, verb: str = "take_messages") -> None:
        expected, words = self.model.take(hold)
        wanted = {"input_tokens": 9, "output_tokens": 999, "input_usd": STEP_USD, "output_usd": STEP_USD}
        answer = self.held(hold, verb, **(wanted if verb == "begin_step" else {}))
        self.expect(verb, answer, expected)
        if expected.startswith("ok"):
            heard = answer.get("messages", []) if isinstance(answer, dict) else answer
            assert [said["content"] for said in heard] == words
            assert verb == "take_messages" or words or answer["output_tokens"] == 999

    @precondition(has_holds)
    @rule(number=NUMBER, off=st.sampled_from((1, 1, 1, 0, 2)), tools=SOME_TOOLS)
    def record_step(self, number: int, off: int, tools: list[str]) -> None:
        self._record(self.a_hold(number), off, tools)

    def _record(self, hold: Hold, off: int, tools: list[str]) -> None:
        calls = [Call(uuid4(), tool) for tool in tools]
        position = hold.run.steps + off
        expected = self.model.record(hold, position, calls)
        rows = [
            {"id": str(call.id), "call_id": f"c{place}", "tool": call.tool, "arguments": {}, "effect": call.effect}
            for place, call in enumerate(calls)
        ]
        events = [
            {"type": "STEP_STARTED", "stepName": f"step {position}"},
            *({"type": "TOOL_CALL_START", "toolCallId": row["id"], "toolCallName": row["tool"]} for row in rows),
            {"type": "STEP_FINISHED", "stepName": f"step {position}"},
        ]
        made = step(position, cost_usd=str(STEP_USD))
        self.expect("record_step", self.held(hold, "record_step", step=made, calls=rows, events=events), expected)

    @precondition(has_calls)
    @rule(number=NUMBER, ceiling_usd=CEILING)
    def begin_call(self, number: int, ceiling_usd: str) -> None:
        self._begin(*self.a_call(number), ceiling_usd)

    def _begin(self, hold: Hold, call: Call, ceiling_usd: str) -> str:
        expected = self.model.begin(hold, call, Decimal(ceiling_usd))
        answer = self.held(hold, "begin_call", id=call.id, ceiling_usd=Decimal(ceiling_usd))
        asks = isinstance(answer, dict) and "ask" in answer
        self.expect("begin_call", {"refused": {"code": "ask"}} if asks else answer, expected)
        return expected.partition(":")[0]

    @precondition(has_calls)
    @rule(number=NUMBER, status=OUTCOME, cost_usd=CEILING, taints=st.booleans())
    def finish_call(self, number: int, status: str, cost_usd: str, taints: bool) -> None:
        self._finish_call(*self.a_call(number), status, cost_usd, taints=taints)

    def _finish_call(self, hold: Hold, call: Call, status: str, cost_usd: str, *, taints: bool) -> None:
        cost = min(Decimal(cost_usd), call.reserved_usd)
        expected = self.model.finish_call(hold, call, status, cost, taints=taints)
        events = [{"type": "TOOL_CALL_RESULT", "toolCallId": str(call.id), "content": "so"}]
        ended = {"status": status, "result": "so", "events": events, "cost_usd": cost}
        answer = self.held(hold, "finish_call", id=call.id, origin="a page" if taints else None, **ended)
        self.expect("finish_call", answer, expected)

    @precondition(has_calls)
    @rule(number=NUMBER, is_plural=st.booleans())
    def interrupt_run(self, number: int, is_plural: bool) -> None:
        hold, call = self.a_call(number)
        self._interrupt(hold, [one for one in hold.run.calls if one.may_be_asked][:2] if is_plural else [call])

    def _interrupt(self, hold: Hold, calls: list[Call]) -> None:
        if not calls or any(call.approval and call.status == "started" for call in calls):
            return  # what was agreed to is not asked about again
        expected = self.model.interrupt(hold, calls)
        events = [{"type": "RUN_FINISHED", "outcome": {"type": "interrupt", "interrupts": []}}]
        answer = self.held(hold, "interrupt_run", asks=[{"id": str(call.id)} for call in calls], events=events)
        self.expect("interrupt_run", answer, expected)

    @precondition(has_holds)
    @rule(
        number=NUMBER,
        how=st.sampled_from(("postpone", "postpone", "release", "succeeded", "succeeded", "failed", "cancelled")),
    )
    def let_go(self, number: int, how: str) -> None:
        self._let_go(self.a_hold(number), how)

    def _let_go(self, hold: Hold, how: str) -> None:
        match how:
            case "postpone":
                expected = self.model.postpone(hold)
                self.expect("postpone_run", self.held(hold, "postpone_run", seconds=600, events=[]), expected)
            case "release":
                expected = self.model.release(hold)
                self.expect("release_run", self.held(hold, "release_run"), expected)
            case _:
                expected = self.model.finish(hold, how)
                events = [{"type": "RUN_ERROR" if how == "failed" else "RUN_FINISHED"}]
                answer = self.held(hold, "finish_run", status=how, reason=how, events=events)
                self.expect("finish_run", answer, expected)

    @precondition(has_runs)
    @rule()
    def sweep_runs(self) -> None:
        expected = [{"run_id": str(run.id), "turn": turn} for run, turn in self.model.sweep()]
        assert self.doors.worker("sweep_runs") == expected
        self.reached["sweep_runs", "rings" if expected else "is silent"] += 1

    # Clocks.

    @precondition(has_runs)
    @rule(number=st.integers(0, 41))
    def time_passes(self, number: int) -> None:
        runs = self.model.runs
        fits = {
            "over": [run for run in runs if run.lease == "live"],
            "unheard": [run for run in runs if run.status == "queued"],
            "due": [run for run in runs if run.is_postponed and run.status == "queued"],
            "forgotten": [run for run in runs if run.status == "interrupted"],
            "tired": [run for run in runs if run.status == "running"],
            "late": [run for run in runs if run.is_unfinished],
        }
        kinds = [what for what, fit in fits.items() if fit]
        if kinds:
            what = kinds[number % len(kinds)]
            self._age(fits[what][number // 7 % len(fits[what])], what)
            if what == "late" and self.model.holds:
                self._pulse(self.model.holds)

    def _age(self, run: Run, what: str) -> None:
        change, told_of_it = CLOCKS[what]
        self.doors.admin(f"update {change} = %s", run.id)
        for name, value in told_of_it.items():
            setattr(run, name, value)
        self.reached[what, run.status] += 1

    # What must hold after each.

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        found = self.doors.runs(self.org)
        assert [row["id"] for row in found] == [run.id for run in self.model.runs]
        for row, run in zip(found, self.model.runs, strict=True):
            expected = run.row()
            wrong = {name: (row[name], value) for name, value in expected.items() if row[name] != value}
            assert not wrong, wrong  # what is there, and what the model says
            assert row["seqs"] == list(range(1, row["last_seq"] + 1)), "the log has no gap"
            assert run.is_unfinished or row["ends"], "the terminal event is the last"
        for thread in range(len(self.threads)):
            live = [run for run in self.model.unfinished(thread) if not run.is_waiting]
            assert len(live) == bool(self.model.unfinished(thread)), "one is live, and none waits for nothing"

    def teardown(self) -> None:
        """Everything comes to its end, and the seven invariants hold of it."""
        for run in self.model.runs:
            if run.is_unfinished:
                if run.lease == "live":
                    self._age(run, "over")
                expected = self.model.cancel("boss", run)
                self.expect("cancel_run", self.rpc("boss", "cancel_run", run_id=run.id), expected)
        self.the_database_is_as_the_model()
        breaches = self.doors.breaches()
        assert not breaches, breaches
        self.doors.forget(self.org)
