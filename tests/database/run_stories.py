"""Parts of stories that chance alone seldom writes to their end: many verbs in a row, each held against the model as ever."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.database.run_machine import CAP, CEILING, NUMBER, OUTCOME, PERSON, SOME_TOOLS, RunMachine
from tests.database.run_state import UNFINISHED, Hold, Run


class RunStories(RunMachine):
    """The machine with what usually comes together; whatever else happens in between is up to chance."""

    def has_runs(self) -> bool:
        return bool(self.model.runs)

    def a_good_hold(self, number: int, asker: str = "") -> Hold | None:
        """One that stands, of a run of this asker; if there is none a worker takes the next run."""
        for _ in range(2):
            if good := [hold for hold in self.good_holds() if asker in ("", hold.run.asker)]:
                return good[-1 - number % len(good)]
            self.claim_next()
        return None

    @precondition(has_runs)
    @rule(person=PERSON, number=NUMBER, is_over=st.booleans())
    def pause_run(self, person: str, number: int, is_over: bool) -> None:
        resting = [run for run in self.model.runs if run.is_paused and run.is_unfinished]
        if is_over and resting:
            return self._pause(person, resting[number % len(resting)], "resume")
        return self._pause(
            person, self.a_run(number, *(UNFINISHED if number % 3 else ())), "resume" if is_over else "pause"
        )

    def _pause(self, person: str, run: Run, verb: str) -> None:
        expected = (self.model.pause if verb == "pause" else self.model.resume)(person, run)
        self.expect(f"{verb}_run", self.rpc(person, f"{verb}_run", run_id=run.id), expected)

    @precondition(has_runs)
    @rule(tools=SOME_TOOLS, number=NUMBER, status=OUTCOME, ceiling_usd=CEILING)
    def work(self, tools: list[str], number: int, status: str, ceiling_usd: str) -> None:
        """What a worker does that nobody disturbs: it takes a run, hears what was said, thinks, and calls its tools."""
        if number % 2:
            self.claim_next()
        if (hold := self.a_good_hold(number // 2)) is None:
            return
        self._take(hold, "begin_step")
        if not any(call.is_open for call in hold.run.calls):
            self._record(hold, 1, tools)
        asks = []
        for call in [call for call in hold.run.calls if call.is_open][: 1 + number // 4]:
            match self._begin(hold, call, ceiling_usd):
                case "ok" if call.tool != "ask_person" or call.approval:
                    self._finish_call(hold, call, status, ceiling_usd, taints=call.effect == "read" and number % 2 == 0)
                case "not_agreed":
                    self._finish_call(hold, call, "refused", "0", taints=False)
                case "ask" | "ok":
                    asks.append(call)
        for call in [call for call in hold.run.calls if not call.is_open][
            : number % 4 == 1
        ]:  # it comes late, with what is over
            self._begin(hold, call, "0")
            self._finish_call(hold, call, "failed", "0", taints=False)
            self._interrupt(hold, [call])
        if number % 3:
            self._interrupt(hold, [call for call in asks if call.may_be_asked])

    @precondition(has_runs)
    @rule(
        number=NUMBER,
        person=PERSON,
        tool=st.sampled_from(("redis_get", "redis_set")),
        end=st.sampled_from(("failed", "cancelled")),
    )
    def try_again(self, number: int, person: str, tool: str, end: str) -> None:
        """A run fails after it did something, perhaps; it is asked again, and then again by one who says that it may."""
        if (hold := self.a_good_hold(number)) is None:
            return
        self._record(hold, 1, [tool])
        for call in hold.run.calls[-1:]:
            self._begin(hold, call, "0")
            if number % 3:
                self._finish_call(hold, call, "succeeded" if number % 2 else "unknown", "0", taints=False)
        self._let_go(hold, end)
        for despite_effects in (False, True):
            self._retry(person, hold.run, despite_effects=despite_effects)

    @precondition(has_runs)
    @rule(number=NUMBER)
    def spend(self, number: int) -> None:
        """Three calls side by side, of which two may cost what they might."""
        if (hold := self.a_good_hold(number)) is None:
            return
        before = len(hold.run.calls)
        self._record(hold, 1, ["redis_get"] * 3)
        for call in hold.run.calls[before:]:
            self._begin(hold, call, "0.2")
        for call in hold.run.calls[before : before + number % 3]:
            self._finish_call(hold, call, "unknown" if number % 2 else "succeeded", "0.2", taints=False)

    @precondition(has_runs)
    @rule(number=NUMBER)
    def crowd(self, number: int) -> None:
        """More runs than may be under way: workers take what they can, and one asks for a run by name."""
        while len(self.model.ready()) <= CAP and self.has_room():
            self._start("boss", None, "reject", 0)
        for _ in range(CAP):
            self.claim_next()
        self._claim(self.a_run(number, "queued"))

    @precondition(has_runs)
    @rule(number=NUMBER, times=st.sampled_from((1, 2, 5)))
    def lose_workers(self, number: int, times: int) -> None:
        """One worker after another takes a run and falls silent."""
        run = self.a_run(number, "queued")
        for _ in range(times):
            self._claim(run)
            if run.status != "running" or run.lease != "live":
                return
            self._age(run, "over")
            if late := [hold for hold in self.model.holds if hold.run is run and not self.model.is_current(hold)]:
                self._pulse(late)  # the heart of one who was lost before keeps nobody's lease
            self.sweep_runs()
        if times == 5:
            self._claim(run)

    @precondition(has_runs)
    @rule(number=NUMBER, comes_back=st.booleans())
    def shut_out(self, number: int, comes_back: bool) -> None:
        """The asker loses their place while a worker works for them, and the worker tries everything."""
        if (hold := self.a_good_hold(number, "asker")) is None:
            return
        self._becomes("viewer")
        for verb in ("read_conversation", "append_events", "take_messages", "begin_step"):
            self._look(hold, verb)
        self._record(hold, 1, [])
        for call in hold.run.calls[:1]:
            self._begin(hold, call, "0")
            self._finish_call(hold, call, "succeeded", "0", taints=False)
            self._interrupt(hold, [call])
        self._let_go(hold, "postpone")
        self._pulse(self.model.holds)
        if comes_back:
            self._becomes("developer")
        elif number % 2:
            self._let_go(hold, "failed")
        else:
            self._let_go(hold, "release")
            self._claim(hold.run)

    @precondition(has_runs)
    @rule(number=NUMBER, is_due=st.booleans(), is_tired=st.sampled_from((False, False, True)))
    def model_is_away(self, number: int, is_due: bool, is_tired: bool) -> None:
        """A run waits for its model, which comes back or does not."""
        if (hold := self.a_good_hold(number)) is None:
            return
        if is_tired:
            self._age(hold.run, "tired")
        self._let_go(hold, "postpone")
        if hold.run.status == "queued":
            self.claim_next()
            if is_due:
                self._age(hold.run, "due")
                self.claim_next()

    @precondition(has_runs)
    @rule(number=NUMBER, thinks_first=st.booleans())
    def hear_out(self, number: int, thinks_first: bool) -> None:
        """Somebody speaks to a run that is about to end well: it takes the words, answers them, and only then ends."""
        if (hold := self.a_good_hold(number)) is None:
            return
        if thinks_first:
            self._record(hold, 1, [])
        self._steer("boss", hold.run)
        self._let_go(hold, "succeeded")
        self._take(hold)
        if thinks_first:
            self._let_go(hold, "succeeded")
        if number % 2:
            self._record(hold, 1, [])
            self._let_go(hold, "succeeded")

    @precondition(has_runs)
    @rule(number=NUMBER, how=st.sampled_from(("postpone", "interrupt", "release", "succeeded", "cancelled", "is lost")))
    def stop_in_the_middle(self, number: int, how: str) -> None:
        """Somebody cancels a run that a worker holds, which hears of it late."""
        if (hold := self.a_good_hold(number)) is None:
            return
        self._record(hold, 1, ["redis_get"])
        self._cancel("boss", hold.run)
        self._steer("boss", hold.run)
        match how:
            case "interrupt":
                self._interrupt(hold, hold.run.calls[-1:])
            case "is lost":
                self._age(hold.run, "over")
                self.sweep_runs()
            case _:
                self._pulse(self.model.holds)
                self._let_go(hold, how)
                self._claim(hold.run)

    @precondition(has_runs)
    @rule(number=NUMBER, verdicts=st.lists(st.booleans(), min_size=2, max_size=2), ceiling_usd=CEILING)
    def ask_people(self, number: int, verdicts: list[bool], ceiling_usd: str) -> None:
        """A run waits for people to decide on two calls, one after the other, and goes on with what they said."""
        if (hold := self.a_good_hold(number)) is None:
            return
        before = len(hold.run.calls)
        self._record(hold, 1, ["api_call", "websocket_send", "ask_person"])
        if not (calls := hold.run.calls[before + number % 2 :][:2]):
            return  # the asker has lost their place
        self._interrupt(hold, calls)
        if number % 5 == 4 and hold.run.status == "interrupted":
            self._age(hold.run, "late")
        for call, is_yes in zip(calls, verdicts, strict=True):
            if call.approval == "pending":
                if number % 4 == 3:
                    self._decide("boss", hold.run, call, is_apt=False, is_yes=is_yes)
                self._decide("boss", hold.run, call, is_apt=True, is_yes=is_yes)
        self._claim(hold.run)
        again = self.model.holds[-1]
        for call in calls:
            if again.run is hold.run and self._begin(again, call, ceiling_usd) == "ok" and number % 3:
                self._finish_call(again, call, "unknown", "0", taints=number % 3 == 1)
