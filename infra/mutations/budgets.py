"""Mutations of budgets over many runs, and of what a cancelled run takes with it."""

from infra.mutations.mutation import edits, targets

_NEVER = "if false then"
_LOOP = "workers/agent/loop.py"
_ALLOWANCE, _RETRY = "workers/model/protocol.py", "workers/model/retry.py"
_RUNS = "tests/agent/test_budgets.py"
_MODEL = ("tests/model/test_allowance.py", "tests/model/test_retry.py")

_BUDGETS = (
    (
        "pam_private.room",
        "the lock of a budget",
        "order by b.id for no key update;",
        ";",
    ),
    (
        "pam_private.room",
        "whose budget",
        "where b.org_id = run.org_id and (b.user_id is null or b.user_id = run.user_id);",
        "where b.org_id = run.org_id;",
    ),
    ("pam_private.room", "a run and its jobs", "if run.root_run is not null or exists", "if false and exists"),
    ("pam_private.room", "its own is no other's", "filter (where r.id <> run.id), 0) as held_usd", ", 0) as held_usd"),
    (
        "pam_private.budget_use",
        "whose use",
        "where u.org_id = budget.org_id and (budget.user_id is null or u.user_id = budget.user_id)",
        "where u.org_id = budget.org_id",
    ),
    ("pam_private.budget_use", "period", "and u.day >= pam_private.period_start(budget.period)", ""),
    (
        "pam_private.budget_use",
        "its own is no other's",
        "filter (where r.id is distinct from except_run) as held_usd",
        "as held_usd",
    ),
    ("pam_private.budget_use", "what calls hold", "coalesce(calls.cost_usd, 0)", "0"),
    (
        "pam_private.ceiling_fault",
        "what is shared",
        "if ceiling_usd > shared.max_usd - shared.used_usd",
        "if false and ceiling_usd > shared.max_usd - shared.used_usd",
    ),
    ("pam_worker.begin_step", "used up", "if unheld < least_output then", _NEVER),
    ("pam_worker.begin_step", "held", "elsif allowed < least_output then", "elsif false then"),
    (
        "pam_worker.begin_step",
        "what others hold",
        "shared.max_usd - shared.used_usd - shared.held_usd - begin_step.input_usd",
        "shared.max_usd - shared.used_usd - begin_step.input_usd",
    ),
    (
        "pam_worker.begin_step",
        "tokens",
        "shared.max_tokens - shared.used_tokens - shared.held_tokens - begin_step.input_tokens",
        "begin_step.output_tokens",
    ),
    ("pam_worker.begin_step", "steps", "or shared.used_steps + shared.held_steps >= shared.max_steps then", "then"),
    ("pam_worker.begin_step", "time", "or shared.used_seconds >= shared.max_seconds then", "then"),
    (
        "pam_private.room",
        "steps of the first",
        "o.max_tokens::numeric, o.max_steps::numeric,",
        "o.max_tokens::numeric, null::numeric,",
    ),
    (
        "pam_private.keep_time",
        "kept",
        "new.worked_seconds := old.worked_seconds + coalesce",
        "new.worked_seconds := old.worked_seconds + 0 * coalesce",
    ),
    (
        "pam_private.keep_time",
        "while it waits",
        "case when new.status = 'running' then clock_timestamp() end",
        "clock_timestamp()",
    ),
    ("pam_private.count_usage", "time", "seconds = u.seconds + excluded.seconds", "seconds = excluded.seconds"),
    ("pam_private.budget_use", "time under way", "used.seconds + working.seconds", "used.seconds"),
    ("pam_private.out_of_time", "whose", "and (s.user_id is null or s.user_id = h.user_id)", ""),
    ("pam_private.out_of_time", "spent", "and u.seconds >= b.max_seconds", "and false"),
    (
        "pam_private.out_of_time",
        "the first run's",
        "or exists (select from over t where",
        "or exists (select from over t where false and",
    ),
    ("pam_worker.pulse_runs", "time", "when held.run_id = any(late) then 'budget'", ""),
    ("pam_worker.begin_step", "reserved", "if is_shared then", _NEVER),
    ("pam_worker.begin_step", "words first", "if pam_private.has_words(run) then", _NEVER),
    ("pam_private.release_reserved", "released", "new.reserved_tokens := 0;", ""),
    ("pam_private.count_usage", "added", "cost_usd = u.cost_usd + excluded.cost_usd", "cost_usd = excluded.cost_usd"),
    ("pam_private.start_job", "the first run", "coalesce(parent.root_run, parent.id)", "null"),
    ("pam.set_budget", "role", "if mine < 'admin' then", _NEVER),
    (
        "pam.set_budget",
        "member",
        "if set_budget.user_id is not null and pam_private.role_in",
        "if false and pam_private.role_in",
    ),
    ("pam.set_budget", "membership", "if mine is null then", _NEVER),
    ("pam.read_budgets", "membership", "if mine is null then", _NEVER),
    ("pam.read_budgets", "whose", "and (b.user_id is null or b.user_id = me or mine >= 'admin')", ""),
)
_FREE = (
    ("pam_worker.finish_call", "words", "not pam_private.has_words(run) and", ""),
    ("pam_worker.finish_call", "budgets", " and not pam_private.shares_budget(run)", ""),
    ("pam_private.shares_budget", "a job's run", "run.root_run is not null", "false"),
    (
        "pam_private.shares_budget",
        "jobs",
        "or exists (select from pam.runs r",
        "or false and exists (select from pam.runs r",
    ),
)
_CANCELLED = (
    ("pam_private.cancel_begotten", "its own", "and j.submitted_by_run = new.id", "and false"),
    ("pam_worker.submit_job", "nothing more", "if run.cancel_requested_at is not null then", _NEVER),
)
_PATH = (
    ("out of time", "workers/agent/turn.py", "case Halt.BUDGET:", "case Halt.BUDGET if False:", _RUNS),
    (
        "all calls are free",
        _LOOP,
        "self._is_free = all(call.is_free for call in carried.ended)",
        "self._is_free = True",
        _RUNS,
    ),
    ("held is waited for", _LOOP, 'if refusal.code == "held":', "if False:", _RUNS),
    ("once more is reserved", _LOOP, "if failure.lacks_allowance and", "if False and", _RUNS),
    ("reserved is all", _LOOP, "is_all=begun.is_reserved", "is_all=False", _RUNS),
    ("lost tokens", _ALLOWANCE, "left = min(left, tokens - self.input_tokens)", "pass"),
    ("lost money", _ALLOWANCE, "left = min(left, int(affordable))", "pass"),
    ("broken attempts", _RETRY, "if pause_seconds is None or left is None:", "if pause_seconds is None:"),
)

TARGETS = (
    *targets("budgets", _BUDGETS, "tests/database/test_budgets.py"),
    *targets("budgets", _FREE, "tests/database/test_budgets.py"),
    *targets("cancelled", _CANCELLED, "tests/database/test_jobs.py"),
)
MUTATIONS = (*(target.mutation() for target in TARGETS), *edits("budgets", _PATH, _MODEL))
