"""Mutations of what runs share: the worker's heart, whose run is next, and the messages of one conversation."""

from infra.mutations.mutation import edits, targets

_NEVER = "if false then"
_MODELS = "workers/model/chain.py"
_LEASES, _FAIRNESS, _TALK = (f"tests/database/test_{name}.py" for name in ("leases", "fairness", "conversations"))
_VERBS, _WRITES = "tests/database/test_verbs.py", "tests/attacks/test_sql_writes.py"

_HEART = (
    ("pam_worker.pulse_runs", "fence told", "when h.fence is distinct from held.fence then", "when false then"),
    ("pam_worker.pulse_runs", "fence of a lease", " and l.fence = held.fence", ""),
    ("pam_worker.pulse_runs", "locked heads", "for no key update of l skip locked", "for no key update of l"),
    (
        "pam_worker.pulse_runs",
        "lock beside a write",
        "for no key update of l skip locked",
        "for update of l skip locked",
        _WRITES,
    ),
    ("pam_worker.pulse_runs", "cancelled", "when r.cancel_requested_at is not null then", "when false then"),
    ("pam_worker.pulse_runs", "deadline", "when r.deadline_at <= moment then", "when false then"),
    (
        "pam_worker.pulse_runs",
        "asker",
        "coalesce(pam_private.role_in(r.org_id, r.user_id), 'viewer') < 'developer'",
        "false",
        _VERBS,
    ),
)
_NEXT = (
    ("pam_private.is_full", "own organisation", "where r.org_id = org and r.status", "where r.status"),
    ("pam_private.is_full", "under way", "and r.status = 'running'", ""),
    ("pam_private.waiting_organizations", "round the circle", "if following is null and not is_round then", _NEVER),
    ("pam_worker.claim_run", "cap", "if pam_private.is_full(run.org_id) then", _NEVER),
    (
        "pam_worker.claim_run",
        "cap without a race",
        "perform pg_advisory_xact_lock(hashtextextended('pam claims of ' || run.org_id, 0));",
        "",
    ),
    (
        "pam_worker.claim_next",
        "fewest under way first",
        "order by (select count(*) from pam.runs r where r.org_id = w.org_id and r.status = 'running'), random()",
        "order by w.org_id",
    ),
    (
        "pam_worker.claim_next",
        "priority and age",
        "order by r.priority desc, r.created_at limit 1",
        "order by r.id limit 1",
    ),
    (
        "pam_worker.claim_next",
        "newer code's runs",
        "and r.code_format <= claim_next.code_format",
        "",
    ),
    ("pam_worker.claim_next", "what is in hand", "for update of h skip locked", "for update of h"),
    (
        "pam_worker.claim_next",
        "what only ends is passed over",
        "exit when claim -> 'refused' ->> 'code' <> 'ended'",
        "exit when true",
    ),
)
_AWAY = "tests/agent/test_model_away.py"
_POSTPONED = (
    ("pam_worker.postpone_run", "cancelled meanwhile", "if run.cancel_requested_at is not null then", _NEVER, _VERBS),
)
_CHAIN = (
    ("the breaker is asked", _MODELS, "if wait := await self._wait(model.name):", "if False:"),
    ("the breaker is told", _MODELS, "await self._breaker.failed(None, model.name)", "pass"),
    ("an answer forgives", _MODELS, "await self._breaker.succeeded(None, name)", "pass"),
    ("a wrong request stays wrong", _MODELS, "                if not is_away(failure):", "                if False:"),
    (
        "previews of a process",
        "workers/agent/preview.py",
        "        if self._meter.is_spent():",
        "        if False:",
        "tests/agent/test_preview.py",
    ),
    (
        "previews at once",
        "workers/agent/preview.py",
        "async with self._meter.places:",
        "if True:",
        "tests/agent/test_preview.py",
    ),
    (
        "effects end first",
        "workers/agent/turn.py",
        "loop.between_effects() if halt is Halt.PAUSED else nullcontext()",
        "nullcontext()",
        "tests/agent/test_pause.py",
    ),
    (
        "a run rests",
        "workers/agent/turn.py",
        "case Halt.PAUSED:",
        "case Halt.PAUSED if False:",
        "tests/agent/test_pause.py",
    ),
    ("a run waits", "workers/agent/loop.py", "            if is_away(failure):", "            if False:", _AWAY),
)
_CONVERSATION = (
    ("pam.start_run", "one live run a thread", "if found and start_run.if_busy = 'reject' then", _NEVER),
    ("pam.start_run", "another's run", "and r.user_id <> me) and mine < 'admin' then", "and false) then"),
    ("pam.start_run", "manner of a key", "else concat(start_run.if_busy, start_run.priority) end", "else '' end"),
    ("pam.start_run", "priority", "or start_run.priority not between -10 and 10 then", "or false then"),
    ("pam.steer_run", "membership", " or pam_private.role_in(run.org_id, me) is null", ""),
    (
        "pam.steer_run",
        "role",
        "if pam_private.role_in(run.org_id, me) < (case",
        "if false and pam_private.role_in(run.org_id, me) < (case",
    ),
    (
        "pam.steer_run",
        "a run that is over",
        "if run.status not in ('queued', 'running', 'interrupted') or run.cancel_requested_at is not null then",
        _NEVER,
    ),
    ("pam.steer_run", "a job's call", "if run.task is not null then", _NEVER),
    ("pam.steer_run", "count of messages", ">= 100 then", ">= 100000 then"),
    (
        "pam_private.let_next_follow",
        "one at a time",
        "and r.status in ('queued', 'running', 'interrupted') and r.after_run is null) then return; end if",
        "and false) then return; end if",
    ),
    (
        "pam_private.let_next_follow",
        "in their order",
        "order by r.created_at, r.id limit 1",
        "order by r.created_at desc limit 1",
    ),
    (
        "pam_private.let_next_follow",
        "a clock of its own",
        "deadline_at = clock_timestamp() +",
        "deadline_at = r.deadline_at +",
    ),
    (
        "pam_private.give_way",
        "what nobody holds ends at once",
        "if not exists (select from pam_private.run_heads",
        "if false and not exists (select from pam_private.run_heads",
    ),
    ("pam_private.give_way", "rolled back", "if rolls_back then", _NEVER),
    (
        "pam_private.ring",
        "what waits does not ring",
        "if new.after_run is not null or",
        "if",
    ),
    ("pam_worker.claim_run", "what waits behind another", "if run.after_run is not null then", _NEVER),
    (
        "pam_private.take_messages",
        "own run",
        "where m.org_id = run.org_id and m.run_id = run.id and m.role = 'user' and m.position > run.seen_position",
        "where m.role = 'user' and m.position > run.seen_position",
    ),
    ("pam_private.take_messages", "only what is new", "and m.position > run.seen_position\n", "\n"),
    ("pam_private.take_messages", "where it is read", "set position = default", "set step = m.step"),
    ("pam_worker.finish_run", "said while it thought", "least(run.seen_position, (select", "greatest(0, (select"),
    ("pam_worker.finish_run", "taken, not answered", "> least(run.seen_position", "> greatest(run.seen_position"),
    (
        "pam_worker.finish_run",
        "words come first",
        "if finish_run.status = 'succeeded' and run.task is null and exists (",
        "if false and exists (",
    ),
    ("pam_worker.read_conversation", "what waits", "and not (o.status = 'queued' and o.after_run is not null)", ""),
    ("pam_worker.read_conversation", "rolled back", " and not o.is_rolled_back", ""),
)
_REST = (
    ("pam_private.pausable", "membership", " or pam_private.role_in(run.org_id, me) is null", ""),
    (
        "pam_private.pausable",
        "role",
        "elsif pam_private.role_in(run.org_id, me) < (case",
        "elsif false and pam_private.role_in(run.org_id, me) < (case",
    ),
    (
        "pam_private.pausable",
        "what is over",
        "elsif run.status not in ('queued', 'running', 'interrupted') or run.cancel_requested_at is not null then",
        "elsif false then",
    ),
    ("pam_private.let_rest", "jobs", "perform pam_private.let_rest(begotten, person);", ""),
    ("pam_private.let_go_on", "jobs", "perform pam_private.let_go_on(begotten);", ""),
    ("pam_private.let_go_on", "the clock", "r.deadline_at + (clock_timestamp() - r.paused_at)", "r.deadline_at"),
    ("pam_private.let_go_on", "the bell", "then 1 else 0 end", "then 0 else 0 end"),
    (
        "pam_private.start_job",
        "a resting parent",
        "case when parent.ended_at is null then parent.paused_at end",
        "null",
    ),
    ("pam_worker.claim_next", "what rests", "and r.paused_at is null and (r.due_at", "and (r.due_at"),
    ("pam_worker.claim_run", "what rests", "if run.paused_at is not null then", _NEVER),
    ("pam_worker.sweep_runs", "what rests", "else r.paused_at is null and (", "else ("),
    ("pam_worker.pulse_runs", "what rests", "when r.paused_at is not null then 'paused'", ""),
    ("pam_worker.release_run", "cancelled", "if run.cancel_requested_at is not null then", _NEVER),
)
_PARKED = (
    (
        "pam_worker.sweep_runs",
        "who was lost",
        "if run.status = 'running' then\n      perform",
        "if false then\n      perform",
    ),
    ("pam_private.losses", "the newest", "order by e.seq desc limit run.attempt", ""),
    ("pam.retry_run", "membership", " or pam_private.role_in(old.org_id, me) is null", ""),
    (
        "pam.retry_run",
        "role",
        "if pam_private.role_in(old.org_id, me) < (case",
        "if false and pam_private.role_in(old.org_id, me) < (case",
    ),
    (
        "pam.retry_run",
        "asker",
        "if coalesce(pam_private.role_in(old.org_id, old.user_id), 'viewer') < 'developer'",
        "if false",
    ),
    ("pam.retry_run", "what has not failed", "if old.status not in ('failed', 'cancelled') then", _NEVER),
    ("pam.retry_run", "a job's call", "old.task is not null or ", ""),
    (
        "pam.retry_run",
        "a job's run",
        " or exists (select from pam.jobs j where j.org_id = old.org_id and j.run_id = old.id)",
        "",
    ),
    (
        "pam.retry_run",
        "effects",
        "if effects is not null and retry_run.despite_effects is distinct from true then",
        _NEVER,
    ),
    ("pam.retry_run", "unknown effects", " or (t.status = 'unknown' and t.started_at is not null)", ""),
    ("pam.retry_run", "cap of unfinished runs", ">= 50 then", ">= 500000 then"),
    (
        "pam.retry_run",
        "one live run a thread",
        "if exists (select from pam.runs r where",
        "if false and exists (select from pam.runs r where",
    ),
    (
        "pam.retry_run",
        "an admin's token",
        "case when old.user_id = me then coalesce(auth.jwt(), '{}') else '{}' end",
        "coalesce(auth.jwt(), '{}')",
    ),
    ("pam.retry_run", "the asker's run", "a.version, old.user_id,", "a.version, me,"),
)
_MACHINE = (
    ("pam_private.hold", "fence", "if current_fence is null or current_fence is distinct from hold.fence then", _NEVER),
    ("pam_private.hold", "asker", "if still_member and coalesce(", "if false and coalesce("),
    ("pam_worker.claim_run", "turn", "if run.turn <> claim_run.turn then", _NEVER),
    ("pam_worker.claim_run", "attempts", "if run.attempt >= 5 then", _NEVER),
    ("pam_worker.claim_run", "fence rises", "set fence = h.fence + 1, worker", "set worker"),
    (
        "pam_worker.finish_run",
        "words come first",
        "if finish_run.status = 'succeeded' and run.task is null and exists (",
        "if false and exists (",
    ),
    ("pam_worker.finish_run", "taken, not answered", "> least(run.seen_position", "> greatest(run.seen_position"),
    ("pam_worker.sweep_runs", "fence rises", "set fence = h.fence + 1, lease_until = null", "set lease_until = null"),
    ("pam_worker.pulse_runs", "fence of a lease", " and l.fence = held.fence", ""),
    ("pam_private.go_on", "all of them", "if run.status <> 'interrupted' or exists (", "if false and exists ("),
    (
        "pam_private.let_next_follow",
        "in their order",
        "order by r.created_at, r.id limit 1",
        "order by r.created_at desc limit 1",
    ),
    ("pam_private.end_run", "what nobody saw is charged", "cost_usd = r.cost_usd + unseen", "cost_usd = r.cost_usd"),
)

TARGETS = (
    *targets("heart", _HEART, _LEASES),
    *targets("next", _NEXT, _FAIRNESS),
    *targets("conversation", _CONVERSATION, _TALK),
    *targets("pause", _POSTPONED),
    *targets("rest", _REST, ("tests/database/test_pause.py", "tests/database/test_run_machine.py")),
    *targets("parked", _PARKED, "tests/database/test_parked.py"),
    *targets("machine", _MACHINE, "tests/database/test_run_machine.py"),
)
MUTATIONS = (
    *(target.mutation() for target in TARGETS),
    *edits("models", _CHAIN, "tests/model/test_chain.py"),
)
