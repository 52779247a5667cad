"""What a run is, without a database: a plain model that says of every verb how it must answer, and what is so afterwards.

An answer is `ok`, a refusal's code, or a SQLSTATE; what follows a colon tells apart what the database answers alike.
"""

from decimal import Decimal
from itertools import count

from tests.database.run_state import Call, Hold, Run

OLD, REVOKED = "PM002", "PM003"
RANKS = ("viewer", "developer", "admin", "owner")
MOST_ATTEMPTS, MOST_PAUSES = 5, 20
STEP_USD = Decimal("0.001000")


class Model:
    """An organisation's runs, its two people, and the workers' holds, old ones too."""

    def __init__(self, *, cap: int, max_cost_usd: Decimal) -> None:
        self.cap, self.max_cost_usd = cap, max_cost_usd
        self.roles = {"asker": "developer", "boss": "owner"}
        self.runs: list[Run] = []
        self.holds: list[Hold] = []
        self.threads = 0
        self._positions = count(1)

    # What the verbs stand on.

    def of_thread(self, thread: int) -> list[Run]:
        return [run for run in self.runs if run.thread == thread]

    def unfinished(self, thread: int) -> list[Run]:
        return [run for run in self.of_thread(thread) if run.is_unfinished]

    def is_current(self, hold: Hold) -> bool:
        return hold.run.fence == hold.fence and hold.run.status == "running"

    def _ranks(self, person: str, lowest: str) -> bool:
        return RANKS.index(self.roles[person]) >= RANKS.index(lowest)

    def _rules(self, person: str, run: Run) -> bool:
        """Whether the person may steer what the run's asker's rights are used for."""
        return self._ranks(person, "developer" if person == run.asker else "admin")

    def _fault(self, hold: Hold, *, still_member: bool = True) -> str | None:
        if not self.is_current(hold):
            return OLD
        return REVOKED if still_member and not self._ranks(hold.run.asker, "developer") else None

    def _new(self, asker: str, thread: int, question: str, priority: int) -> Run:
        tainted = any(run.is_tainted for run in self.of_thread(thread))
        run = Run(asker, thread, priority, [(next(self._positions), question)], is_tainted=tainted)
        self.runs.append(run)
        return run

    def _let_go(self, run: Run) -> None:
        run.fence, run.lease = run.fence + 1, None

    def _requeue(self, run: Run, *, attempt: int) -> None:
        run.status, run.turn, run.attempt, run.is_unheard = "queued", run.turn + 1, attempt, False

    def _end(self, run: Run, status: str, reason: str | None) -> None:
        for call in run.calls:
            if call.status == "started":
                call.cost_usd = max(call.cost_usd, call.reserved_usd)
            call.reserved_usd = Decimal(0)
            if call.is_open or call.status == "waiting":
                call.status = "unknown" if call.is_begun else "refused"
            if call.approval == "pending":
                call.approval = "withdrawn"
        run.status, run.reason = status, reason
        self._let_go(run)
        self._follow(run.thread)

    def _follow(self, thread: int) -> None:
        waiting = [run for run in self.unfinished(thread) if run.is_waiting]
        if not waiting or len(waiting) < len(self.unfinished(thread)):
            return
        run = waiting[0]
        run.is_waiting = run.is_late = run.is_unheard = False
        run.is_tainted = run.is_tainted or any(one.is_tainted for one in self.of_thread(thread))
        run.said = [(next(self._positions), text) for _, text in run.said]

    # What people do.

    def start(self, person: str, thread: int | None, if_busy: str, question: str, priority: int) -> str:
        if not self._ranks(person, "developer"):
            return "forbidden"
        met = self.unfinished(thread) if thread is not None else []
        if met and if_busy == "reject":
            return "busy"
        gives_way = bool(met) and if_busy in ("interrupt", "roll_back")
        if gives_way and any(run.asker != person for run in met) and not self._ranks(person, "admin"):
            return "forbidden"
        if thread is None:
            self.threads += 1
        run = self._new(person, self.threads - 1 if thread is None else thread, question, priority)
        run.is_waiting = bool(met)
        for one in sorted(met, key=lambda one: not one.is_waiting) if gives_way else ():
            one.is_rolled_back = one.is_rolled_back or if_busy == "roll_back"
            one.is_cancelling = True
            if one.lease != "live":
                self._end(one, "cancelled", "cancelled")
        return f"ok: {if_busy if met else 'at once'}"

    def cancel(self, person: str, run: Run) -> str:
        if person != run.asker and not self._ranks(person, "admin"):
            return "forbidden"
        is_held = run.status == "running" and run.lease == "live"
        if not run.is_unfinished or (run.is_cancelling and is_held):
            return "conflict"
        run.is_cancelling = True
        if is_held:
            return "ok: later"
        self._end(run, "cancelled", "cancelled")
        return "ok: at once"

    def pause(self, person: str, run: Run) -> str:
        if fault := self._unpausable(person, run):
            return fault
        run.is_paused = True
        return "ok"

    def resume(self, person: str, run: Run) -> str:
        if fault := self._unpausable(person, run):
            return fault
        if not run.is_paused:
            return "conflict: it does not rest"
        run.is_paused = run.is_unheard = False
        if run.status == "queued" and not run.is_waiting:
            run.turn += 1
        return "ok"

    def _unpausable(self, person: str, run: Run) -> str | None:
        if not self._rules(person, run):
            return "forbidden"
        return None if run.is_unfinished and not run.is_cancelling else "conflict"

    def steer(self, person: str, run: Run, text: str) -> str:
        if not self._rules(person, run):
            return "forbidden"
        if not run.is_unfinished or run.is_cancelling:
            return "conflict"
        run.said.append((next(self._positions), text))
        return "ok"

    def decide(self, person: str, run: Run, call: Call, verdict: str) -> str:
        if not self._rules(person, run) or not self._ranks(person, call.needs_role):
            return "forbidden"
        if call.approval != "pending":
            return "conflict"
        if (verdict == "answer") is not (call.effect == "pause"):
            return "invalid"
        call.approval = {"approve": "approved", "reject": "rejected", "answer": "answered"}[verdict]
        call.status = "answered"
        if any(one.approval == "pending" for one in run.calls):
            return "ok: others wait"
        self._requeue(run, attempt=0)
        if run.is_forgotten:  # the clock stood still for that week
            run.is_forgotten = run.is_late = False
        return f"ok: {verdict}"

    def retry(self, person: str, old: Run, *, despite_effects: bool) -> str:
        if not self._rules(person, old) or not self._ranks(old.asker, "developer"):
            return "forbidden"
        if old.status not in ("failed", "cancelled"):
            return "conflict: it has not failed"
        lasting = [
            call
            for call in old.calls
            if call.effect not in ("read", "pause")
            and (call.status == "succeeded" or (call.status == "unknown" and call.is_begun))
        ]
        if lasting and not despite_effects:
            return "conflict: effects"
        if self.unfinished(old.thread):
            return "busy"
        old.retried_by = self._new(old.asker, old.thread, min(old.said)[1], old.priority)
        return "ok"

    # What workers do.

    def claim(self, run: Run, turn: int) -> str:
        if turn != run.turn:
            return "old_turn"
        if run.status != "queued":
            return "not_queued"
        if run.is_waiting:
            return "waiting"
        if run.is_paused:
            return "paused"
        for ends, reason in (
            (not self._ranks(run.asker, "developer"), "access_revoked"),
            (run.is_late, "deadline"),
            (run.attempt >= MOST_ATTEMPTS, "attempts"),
        ):
            if ends:
                self._end(run, "failed", reason)
                return f"ended: {reason}"
        if self._is_full():
            return "full"
        run.fence, run.lease, run.status, run.attempt = run.fence + 1, "live", "running", run.attempt + 1
        assert run.fence not in {hold.fence for hold in self.holds if hold.run is run}, "one holder a fence"
        self.holds.append(Hold(run, run.fence))
        return "ok"

    def _is_full(self) -> bool:
        return sum(run.status == "running" for run in self.runs) >= self.cap

    def claim_next(self) -> tuple[str, Run | None]:
        if self._is_full():
            return "nothing: full", None
        while ready := self.ready():
            if self.claim(ready[0], ready[0].turn) == "ok":
                return "ok", ready[0]
        return "nothing", None

    def ready(self) -> list[Run]:
        """What a worker may be given, the most pressing first."""
        runs = [
            run
            for run in self.runs
            if run.status == "queued" and not (run.is_waiting or run.is_paused or run.is_postponed)
        ]
        return sorted(runs, key=lambda run: (-run.priority, self.runs.index(run)))

    def pulse(self, holds: list[Hold]) -> list[tuple[Run, str]]:
        """Who must stop, and why; whoever else holds a run holds it on, also after its lease was over."""
        told = []
        for hold in holds:
            run = hold.run
            if not self.is_current(hold):
                told.append((run, "fence_lost"))
                continue
            run.lease = "live"
            for stops, reason in (
                (run.is_cancelling, "cancelled"),
                (run.is_paused, "paused"),
                (run.is_late, "deadline"),
                (not self._ranks(run.asker, "developer"), "access_revoked"),
            ):
                if stops:
                    told.append((run, reason))
                    break
        return told

    def look(self, hold: Hold) -> str:
        return self._fault(hold) or "ok"

    def take(self, hold: Hold) -> tuple[str, list[str]]:
        if fault := self._fault(hold):
            return fault, []
        run, first = hold.run, min(hold.run.said)[0]
        fresh = [(at, text) for at, text in sorted(run.said) if at > run.seen and at > first]
        for said in fresh:
            run.seen = next(self._positions)
            run.said[run.said.index(said)] = (run.seen, said[1])
        return "ok: words" if fresh else "ok", [text for _, text in fresh]

    def record(self, hold: Hold, position: int, calls: list[Call]) -> str:
        if fault := self._fault(hold):
            return fault
        run = hold.run
        if position != run.steps + 1:
            return f"{OLD}: position"
        run.steps, run.attempt, run.answered_at = run.steps + 1, 0, next(self._positions)
        run.step_usd += STEP_USD
        run.calls += calls
        return "ok"

    def begin(self, hold: Hold, call: Call, ceiling_usd: Decimal) -> str:
        if fault := self._fault(hold):
            return fault
        if not call.is_open:
            return f"{OLD}: over"
        reserved = sum((c.reserved_usd for c in hold.run.calls if c.status == "started" and c is not call), Decimal(0))
        if ceiling_usd and hold.run.cost_usd + ceiling_usd + reserved > self.max_cost_usd:
            return "budget"
        is_asked = call.effect == "irreversible" or (call.effect == "external" and hold.run.is_tainted)
        if is_asked or self._is_doubtful(hold.run, call):
            if call.approval is None:
                return "ask"
            if call.approval != "approved":
                return "not_agreed"
        call.status, call.reserved_usd, call.is_begun = "started", ceiling_usd, True
        return "ok: agreed" if call.approval == "approved" else "ok"

    def _is_doubtful(self, run: Run, call: Call) -> bool:
        """Whether the same was done before in this thread, and nobody knows whether it took effect."""
        if call.effect in ("read", "pause"):
            return False
        before = [one for other in self.of_thread(run.thread) for one in other.calls if one is not call]
        return any(one.status == "unknown" and one.tool == call.tool for one in before)

    def finish_call(self, hold: Hold, call: Call, status: str, cost_usd: Decimal, *, taints: bool) -> str:
        if fault := self._fault(hold):
            return fault
        if not call.is_open:
            return f"{OLD}: over"
        call.cost_usd = max(cost_usd, call.reserved_usd) if status == "unknown" else cost_usd
        call.status, call.reserved_usd = status, Decimal(0)
        hold.run.is_tainted = hold.run.is_tainted or taints
        return "ok"

    def interrupt(self, hold: Hold, calls: list[Call]) -> str:
        if fault := self._fault(hold):
            return fault
        run = hold.run
        if run.is_cancelling:
            self._end(run, "cancelled", "cancelled")
            return "ok: cancelled"
        if any(call.status not in ("planned", "started") for call in calls):
            return f"{OLD}: over"
        for call in calls:
            call.status, call.approval = "waiting", "pending"
        run.status = "interrupted"
        self._let_go(run)
        return "ok"

    def postpone(self, hold: Hold) -> str:
        if fault := self._fault(hold):
            return fault
        run = hold.run
        if run.is_cancelling:
            self._end(run, "cancelled", "cancelled")
            return "ok: cancelled"
        if run.pauses >= MOST_PAUSES:
            return "limit"
        self._requeue(run, attempt=max(run.attempt - 1, 0))
        self._let_go(run)
        run.pauses, run.is_postponed = run.pauses + 1, True
        return "ok"

    def release(self, hold: Hold) -> str:
        if fault := self._fault(hold, still_member=False):
            return fault
        if hold.run.is_cancelling:
            self._end(hold.run, "cancelled", "cancelled")
            return "ok: cancelled"
        self._requeue(hold.run, attempt=max(hold.run.attempt - 1, 0))
        self._let_go(hold.run)
        return "ok"

    def finish(self, hold: Hold, status: str) -> str:
        if fault := self._fault(hold, still_member=False):
            return fault
        run, first = hold.run, min(hold.run.said)[0]
        known = min(run.seen, run.answered_at or 0)
        if status == "succeeded" and any(at > known and at > first for at, _ in run.said):
            return "steered: taken, not answered" if max(run.said)[0] <= run.seen else "steered"
        self._end(run, status, status)
        return f"ok: {status}"

    def sweep(self) -> list[tuple[Run, int]]:
        """Whom it rings for: (run, turn)."""
        rung = []
        # Who held it and when it rang is as old as the sweep's first look; the rest is as it is by then.
        for run, lease, is_unheard in [
            (r, r.lease, r.is_unheard) for r in self.runs if _is_due(r, r.lease, r.is_unheard)
        ]:
            if not _is_due(run, lease, is_unheard):
                continue
            run.lost += run.status == "running"
            if run.is_cancelling:
                self._end(run, "cancelled", "cancelled")
            elif run.status == "interrupted":
                self._end(run, "failed", "unanswered")
            elif run.is_late:
                self._end(run, "failed", "deadline")
            else:
                if run.status == "running":
                    self._requeue(run, attempt=run.attempt)
                    self._let_go(run)
                run.is_unheard = False
                rung.append((run, run.turn))
        return rung


def _is_due(run: Run, lease: str | None, is_unheard: bool) -> bool:
    match run.status:
        case "running":
            return lease != "live"
        case "interrupted":
            return run.is_forgotten or run.is_cancelling
        case "queued":
            return not run.is_paused and (is_unheard or run.is_late)
    return False
