"""Mutations of the path of a tool call: each of its steps, and each condition of an approval, taken out alone."""

from infra.mutations.mutation import Edit, Mutation, Target

_NEVER = "if false then"
_POLICIES, _APPROVALS = ("tests/database/test_consent.py",), ("tests/database/test_approvals.py",)
_PATH = ("tests/agent/test_consent.py",)

# function, what is taken away, its text, what takes its place, who notices
_FUNCTIONS = (
    ("pam.set_policy", "membership", "if mine is null then", _NEVER, _POLICIES),
    ("pam.set_policy", "role", "mine < 'admin' or set_policy.role > mine", "set_policy.role > mine", _POLICIES),
    ("pam.set_policy", "none above one's own role", " or set_policy.role > mine", "", _POLICIES),
    ("pam.reset_policy", "membership", "if mine is null then", _NEVER, _POLICIES),
    ("pam.reset_policy", "role", "mine < 'admin' or reset_policy.role > mine", "reset_policy.role > mine", _POLICIES),
    ("pam.reset_policy", "none above one's own role", " or reset_policy.role > mine", "", _POLICIES),
    (
        "pam.read_policy",
        "membership",
        "role_in(read_policy.org_id, auth.uid()) is null",
        "role_in(null, null) is not null",
        _POLICIES,
    ),
    ("pam_private.policy_of", "organisation", "p.org_id = org and ", "", _POLICIES),
    (
        "pam_private.policy_of",
        "viewers use nothing",
        "coalesce(policy_of.role >= 'developer', false)",
        "true",
        _POLICIES,
    ),
    ("pam_private.policy_of", "irreversible asks", "when policy_of.effect = 'irreversible' or (", "when (", _POLICIES),
    (
        "pam_private.policy_of",
        "outward asks after untrusted",
        "in ('external', 'irreversible') then 'ask'",
        "in ('external', 'irreversible') then 'never'",
        _POLICIES,
    ),
    (
        "pam_private.policy_of",
        "a tool's own row first",
        "order by p.tool = '*' limit 1",
        "order by p.tool <> '*' limit 1",
        _POLICIES,
    ),
    (
        "pam_worker.begin_call",
        "the card's grant",
        "if not (coalesce(definition -> 'tools', '[]') ? call.tool",
        "if false and not (coalesce(definition -> 'tools', '[]') ? call.tool",
        _POLICIES,
    ),
    (
        "pam_worker.begin_call",
        "the role's policy",
        "if call.effect <> 'pause' and not policy.is_allowed then",
        _NEVER,
        _PATH,
    ),
    (
        "pam_worker.begin_call",
        "the budget",
        "if begin_call.ceiling_usd > 0 and",
        "if false and begin_call.ceiling_usd > 0 and",
        _POLICIES,
    ),
    (
        "pam_worker.begin_call",
        "what others reserved",
        " and c.status = 'started' and c.id <> call.id",
        " and false",
        _POLICIES,
    ),
    ("pam_worker.begin_call", "consent", "if needed <> 'never' then", _NEVER, _PATH),
    ("pam_worker.begin_call", "taint", "when run.tainted_at is not null then", "when false then", _PATH),
    (
        "pam_worker.begin_call",
        "an approval must be there",
        "    if not found then\n      return jsonb_build_object('ask'",
        "    if false then\n      return jsonb_build_object('ask'",
        _PATH,
    ),
    ("pam_worker.begin_call", "its time", " or asked.expires_at <= clock_timestamp()", "", _APPROVALS),
    (
        "pam_worker.begin_call",
        "its arguments",
        "or asked.arguments_sha256 <> pam_private.arguments_digest(coalesce(asked.edited_arguments, call.arguments))",
        "",
        _APPROVALS,
    ),
    (
        "pam_worker.begin_call",
        "its four eyes",
        "or (needed = 'four_eyes' and asked.decided_by = run.user_id)",
        "",
        _APPROVALS,
    ),
    (
        "pam_worker.begin_call",
        "its approver's role",
        "or coalesce(pam_private.role_in(run.org_id, asked.decided_by), 'viewer')"
        " < greatest(policy.decided_by, asked.needs_role)",
        "",
        _APPROVALS,
    ),
    ("pam_worker.begin_call", "looking ahead starts nothing", "if begin_call.only_ask then", _NEVER, _PATH),
    (
        "pam_worker.begin_call",
        "audit",
        "perform pam_private.record(run.org_id, run.user_id, 'tool.' || call.tool, true",
        "perform (select 1) where 'x' = concat('tool.' || call.tool, true",
        ("tests/database/test_verbs.py",),
    ),
    ("pam_worker.finish_call", "audit of a refusal", "if finish_call.status = 'refused' then", _NEVER, _PATH),
    (
        "pam_worker.finish_call",
        "taint",
        "case when finish_call.origin is not null then clock_timestamp() end",
        "null",
        _POLICIES,
    ),
    (
        "pam_worker.finish_call",
        "an unseen bill",
        "case when finish_call.status = 'unknown' then greatest(finish_call.cost_usd, call.reserved_usd)"
        " else finish_call.cost_usd end",
        "finish_call.cost_usd",
        _POLICIES,
    ),
    (
        "pam_worker.finish_call",
        "what was set aside is released",
        "cost_usd = spent, reserved_usd = 0",
        "cost_usd = spent",
        _POLICIES,
    ),
    ("pam_worker.read_output", "conversation", " and r.thread_id = run.thread_id", "", _POLICIES),
    (
        "pam_worker.interrupt_run",
        "how many",
        "if jsonb_array_length(asks) not between 1 and 200 then",
        _NEVER,
        _APPROVALS,
    ),
    ("pam_private.decision_fault", "membership", "if role is null then", _NEVER, _APPROVALS),
    (
        "pam_private.decision_fault",
        "asker or admin",
        "if role < (case when person = asked.asker_id",
        "if false and role < (case when person = asked.asker_id",
        ("tests/database/test_doors.py", "tests/database/test_approvals.py"),
    ),
    ("pam_private.decision_fault", "the policy's role", "if role < asked.needs_role then", _NEVER, _APPROVALS),
    (
        "pam_private.decision_fault",
        "four eyes",
        "if asked.is_four_eyes and person = asked.asker_id then",
        _NEVER,
        _APPROVALS,
    ),
    ("pam_private.decide", "entitlement", "if fault is not null then", _NEVER, _APPROVALS),
    ("pam_private.decide", "once", "if asked.status <> 'pending' then", _NEVER, _APPROVALS),
    ("pam_private.decide", "in time", "if asked.expires_at <= clock_timestamp() then", _NEVER, _APPROVALS),
    (
        "pam_private.decide",
        "a known verdict",
        "if verdict is null or verdict <> all (case",
        "if false and verdict <> all (case",
        _APPROVALS,
    ),
    ("pam_private.decide", "length of a note", "if char_length(words) > 20000 or", "if", _APPROVALS),
    ("pam_private.decide", "edited arguments are an object", "or jsonb_typeof(edited) <> 'object' ", "", _APPROVALS),
    (
        "pam_private.go_on",
        "all decided",
        " or exists (\n    select from pam.approvals a"
        " where a.org_id = run.org_id and a.run_id = run.id and a.status = 'pending')",
        "",
        _APPROVALS,
    ),
    ("pam.make_decision_link", "entitlement", "if fault is not null then", _NEVER, _APPROVALS),
    (
        "pam_private.find_link",
        "signature",
        "if claim is null or sha256",
        "if claim is null or false and sha256",
        _APPROVALS,
    ),
    ("pam_private.find_link", "single use", "elsif link.used_at is not null then", "elsif false then", _APPROVALS),
    (
        "pam_private.find_link",
        "its time",
        "elsif link.expires_at <= clock_timestamp() then",
        "elsif false then",
        _APPROVALS,
    ),
    (
        "pam_worker.sweep_approvals",
        "expiry",
        "and a.kind = 'approval' and a.status = 'pending' and a.expires_at <= clock_timestamp()",
        "and false",
        _APPROVALS,
    ),
)
_EXECUTION = "workers/agent/execution.py"
_SOURCES = (
    (
        "a call behind one that waits keeps its place",
        _EXECUTION,
        "self._look_ahead if asks else self._settle",
        "self._settle",
    ),
    ("a declined call", _EXECUTION, "if call.is_declined:", "if False:"),
    ("an edit does not widen", _EXECUTION, "if effect is not call.effect:", "if False:"),
    (
        "edited arguments",
        "workers/kernel/ledger/tool_calls.py",
        "return self.arguments if edited is None else edited",
        "return self.arguments",
    ),
    ("what was agreed comes back", _EXECUTION, "is_repeat=is_repeat, agreed=begun.agreed)", "is_repeat=is_repeat)"),
    ("origin is recorded", _EXECUTION, "origin=plain(result.origin) if result.origin else None,", "origin=None,"),
    ("content from outside is marked", "workers/agent/context.py", "if call.origin is None:", "if True:"),
    ("cost is recorded", _EXECUTION, "cost_usd=result.cost_usd,", "cost_usd=Decimal(0),"),
    ("a cut result is kept", _EXECUTION, "output=output,", "output=None,"),
    ("results have a size", _EXECUTION, "if len(text) <= MAX_RESULT_CHARACTERS:", "if True:"),
    (
        "calls of one tool at once",
        "workers/agent/slots.py",
        "asyncio.Semaphore(tool.max_parallel)",
        "asyncio.Semaphore(99)",
    ),
    ("showing has no effect", _EXECUTION, "run=show), effect=CallEffect.READ)", "run=show))"),
)

TARGETS = tuple(Target("path", function, what, old, new, tests) for function, what, old, new, tests in _FUNCTIONS)
MUTATIONS = (
    *(target.mutation() for target in TARGETS),
    *(Mutation(f"path: {what}", Edit(file, old, new), _PATH) for what, file, old, new in _SOURCES),
)
