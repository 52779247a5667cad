"""Mutations of SQL functions: a membership, fence, turn, lease or drift check taken out of one function's text."""

from infra.mutations.mutation import Target

_NEVER = "if false then"
_STRANGER = "if mine is null then"
_ASKER = "if coalesce(pam_private.role_in(run.org_id, run.user_id), 'viewer') < 'developer' then"

# function, what is taken away, its text, what takes its place
_RPCS = (
    (
        "set_member",
        "membership under the lock",
        f"set_member.user_id);\n  {_STRANGER}",
        f"set_member.user_id);\n  {_NEVER}",
    ),
    ("set_member", "role", "mine < 'admin' or ", ""),
    ("set_member", "no role above one's own", "set_member.role > mine or ", ""),
    ("set_member", "no member above oneself", " or coalesce(theirs, 'viewer') > mine", ""),
    (
        "set_member",
        "last owner",
        "if theirs = 'owner' and set_member.role < 'owner' and not exists",
        "if false and not exists",
    ),
    (
        "remove_member",
        "membership under the lock",
        f"remove_member.user_id);\n  {_STRANGER}",
        f"remove_member.user_id);\n  {_NEVER}",
    ),
    ("remove_member", "role", "(mine < 'admin' or theirs > mine)", "(theirs > mine)"),
    ("remove_member", "no member above oneself", "(mine < 'admin' or theirs > mine)", "(mine < 'admin')"),
    ("remove_member", "last owner", "if theirs = 'owner' and not exists", "if false and not exists"),
    ("import_agent", "membership", _STRANGER, _NEVER),
    ("import_agent", "role", "if mine < 'admin' then", _NEVER),
    ("start_run", "membership", _STRANGER, _NEVER),
    ("start_run", "role", "if mine < 'developer' then", _NEVER),
    ("start_run", "same key, other request", "if run.request_sha256 <> digest then", _NEVER),
    ("start_run", "cap of unfinished runs", ">= 50 then", ">= 500000 then"),
    ("start_run", "ceilings", "or (entry.value)::numeric > (ceilings -> entry.key)::numeric", ""),
    ("create_thread", "membership", _STRANGER, _NEVER),
    ("create_thread", "role", "if mine < 'developer' then", _NEVER),
    ("cancel_run", "membership", " or pam_private.role_in(run.org_id, me) is null", ""),
    ("cancel_run", "role", "if run.user_id <> me and pam_private.role_in(run.org_id, me) < 'admin' then", _NEVER),
    ("answer_question", "membership", " or pam_private.role_in(run.org_id, me) is null", ""),
    ("write_file", "membership", _STRANGER, _NEVER),
    ("write_file", "role", "if mine < 'developer' then", _NEVER),
)
_PRIVATE = (
    ("hold", "fence", "if current_fence is null or current_fence is distinct from hold.fence then", _NEVER),
    ("hold", "status", "if run.status <> 'running' then", _NEVER),
    (
        "hold",
        "asker",
        "if still_member and coalesce(pam_private.role_in(run.org_id, run.user_id), 'viewer') < 'developer' then",
        _NEVER,
    ),
    ("may_watch", "membership", "and r.org_id = any (pam_private.my_org_ids())", ""),
    ("may_watch", "shape of a topic", "if topic !~", "if false and topic !~"),
    ("my_org_ids", "person", "m.user_id = (select auth.uid()) and", ""),
    ("my_org_ids", "role", " and m.role >= lowest", ""),
    ("role_in", "person", " and m.user_id = person", ""),
    ("write_file", "path", "if fault is not null then", _NEVER),
    ("write_file", "version", "if coalesce(file.version, 0) is distinct from expected_version then", _NEVER),
    ("write_file", "once a call", "if call is not null then", _NEVER),
    ("end_run", "fence rises", "set fence = h.fence + 1, lease_until = null", "set lease_until = null"),
)
_WORKER = (
    ("claim_run", "turn", "if run.turn <> claim_run.turn then", _NEVER),
    ("claim_run", "status", "if run.status <> 'queued' then", _NEVER),
    ("claim_run", "cancelled", "if run.cancel_requested_at is not null then", _NEVER),
    ("claim_run", "asker", _ASKER, _NEVER),
    ("claim_run", "deadline", "if run.deadline_at <= clock_timestamp() then", _NEVER),
    ("claim_run", "attempts", "if run.attempt >= 5 then", _NEVER),
    ("claim_run", "fence rises", "set fence = h.fence + 1, worker", "set worker"),
    ("preview_message", "fence", " and h.fence = preview_message.fence", ""),
    ("preview_message", "allowance", " or m.sent < 50", " or true"),
    ("record_step", "order", "if (step ->> 'position')::int <> run.steps + 1 then", _NEVER),
    ("begin_call", "status", " and c.status in ('planned', 'started', 'answered')", ""),
    (
        "begin_call",
        "own run",
        "c.org_id = run.org_id and c.run_id = run.id and c.id = begin_call.id",
        "c.id = begin_call.id",
    ),
    ("finish_call", "status", " and c.status in ('planned', 'started', 'answered')", ""),
    (
        "finish_call",
        "own run",
        "c.org_id = run.org_id and c.run_id = run.id and c.id = finish_call.id",
        "c.id = finish_call.id",
    ),
    ("finish_run", "terminal event", "if finish_run.status not in ('succeeded', 'failed', 'cancelled')", "if false"),
    ("finish_run", "fence rises", "lease_until = null, fence = h.fence + 1", "lease_until = null"),
    ("interrupt_run", "fence rises", "set fence = h.fence + 1, lease_until = null", "set lease_until = null"),
    ("release_run", "fence rises", "lease_until = null, fence = h.fence + 1", "lease_until = null"),
    ("find_write", "organisation", "v.org_id = run.org_id and ", ""),
    ("sweep_runs", "fence rises", "set fence = h.fence + 1, lease_until = null", "set lease_until = null"),
    ("sweep_runs", "cancelled", "if run.cancel_requested_at is not null then", _NEVER),
    ("sweep_runs", "deadline", "elsif run.deadline_at < clock_timestamp() then", "elsif false then"),
    ("sweep_runs", "one at a time", "if not pg_try_advisory_xact_lock(hashtextextended('pam sweep', 0)) then", _NEVER),
)
_AGENT_SQL = (
    ("pam_private.bind", "fence", " and h.fence = bind.fence", ""),
    ("pam_private.bind", "status", " and r.status = 'running'", ""),
    ("pam_private.bind", "asker", _ASKER, _NEVER),
    ("pam_private.is_open", "drift", " and o.policies_sha256 = pam_private.policies_digest(t)", ""),
    ("pam_private.bound_uid", "own transaction", "where b.xid = pg_current_xact_id_if_assigned()", ""),
    ("pam.open_to_agent", "no view", "not in ('r', 'p')", "is null"),
    (
        "pam.open_to_agent",
        "row-level security",
        "if not (select c.relrowsecurity",
        "if false and not (select c.relrowsecurity",
    ),
    ("pam.open_to_agent", "platform schemas", "in ('pam', 'pam_worker',", "in ('pam_worker',"),
    ("pam.open_function_to_agent", "platform schemas", "in ('pam', 'pam_worker', 'pam_private',", "in ('pam_worker',"),
    ("pam.open_function_to_agent", "language", "not in ('sql', 'plpgsql')", "is null"),
    ("pam.open_function_to_agent", "kind", "own.prokind <> 'f' or ", ""),
    ("pam.open_function_to_agent", "no definer", "if own.prosecdef then", _NEVER),
    ("pam.open_function_to_agent", "not volatile", "if own.provolatile = 'v' then", _NEVER),
    (
        "pam_private.is_function_open",
        "drift",
        "and o.definition_sha256 = encode(sha256(convert_to(pg_catalog.pg_get_functiondef(p.oid), 'UTF8')), 'hex')",
        "",
    ),
    ("pam_private.is_function_open", "right", "has_function_privilege('pam_agent', p.oid, 'execute') and ", ""),
    (
        "pam_worker.describe_functions",
        "overloads",
        "q.pronamespace = p.pronamespace and q.proname = p.proname",
        "q.oid = p.oid",
    ),
)

_ORGANIZATIONS, _DOORS = "tests/database/test_organizations.py", "tests/database/test_doors.py"
_FILES, _VERBS, _DOORBELL, _LEASES = (
    f"tests/database/test_{name}.py" for name in ("files", "verbs", "doorbell", "leases")
)
_POLICIES, _BOUND, _OPEN = (f"tests/database/test_{name}.py" for name in ("policies", "bound_sql", "open_tables"))
_FUNCTIONS = "tests/database/test_open_functions.py"
_TESTS = {
    "pam.set_member": (_ORGANIZATIONS,),
    "pam.remove_member": (_ORGANIZATIONS,),
    "pam.import_agent": (_ORGANIZATIONS,),
    "pam.write_file": (_FILES,),
    "pam.open_to_agent": (_OPEN,),
    "pam_private.is_open": (_OPEN,),
    "pam.open_function_to_agent": (_FUNCTIONS,),
    "pam_private.is_function_open": (_FUNCTIONS,),
    "pam_worker.describe_functions": (_FUNCTIONS,),
    "pam": (_DOORS,),
    "pam_private.may_watch": (_POLICIES,),
    "pam_private.my_org_ids": (_POLICIES,),
    "pam_private.role_in": (_ORGANIZATIONS, _DOORS),
    "pam_private.write_file": (_FILES, _VERBS),
    "pam_private.hold": (_VERBS, _LEASES),
    "pam_private.end_run": (_DOORS, _VERBS, _LEASES, "tests/database/test_neighbours.py"),
    "pam_private": (_BOUND, "tests/database/test_neighbours.py"),
    "pam_worker.preview_message": (_DOORBELL, _VERBS),
    "pam_worker": (_VERBS, _LEASES, "tests/database/test_neighbours.py"),
}

_SWEEP = "pam_worker.sweep_runs"


def _target(title: str, function: str, what: str, old: str, new: str, times: int = 1) -> Target:
    """A target with the tests that watch over its function."""
    tests = _TESTS.get(function) or _TESTS[function.partition(".")[0]]
    return Target(title, function, what, old, new, tests, times)


def _targets(title: str, schema: str, rows: tuple[tuple[str, str, str, str], ...]) -> list[Target]:
    return [_target(title, f"{schema}{name}", what, old, new) for name, what, old, new in rows]


TARGETS = (
    *_targets("rpc", "pam.", _RPCS),
    *_targets("helper", "pam_private.", _PRIVATE),
    *_targets("verb", "pam_worker.", _WORKER),
    *_targets("bound SQL", "", _AGENT_SQL),
    # Asked before the lock and again under it: both must go for a stranger, or a live run, to slip through.
    *(
        _target("rpc", f"pam.{name}", "membership", _STRANGER, _NEVER, times=2)
        for name in ("set_member", "remove_member")
    ),
    _target(
        "verb",
        _SWEEP,
        "lease",
        "lease_until, '-infinity') < clock_timestamp()",
        "lease_until, 'infinity') > '-infinity'",
        times=2,
    ),
    _target(
        "verb", _SWEEP, "rung lately", "rung_at < clock_timestamp() - interval '10 s'", "rung_at is not null", times=2
    ),
    _target("verb", _SWEEP, "unanswered", "r.interrupted_at < clock_timestamp() - interval '7 days'", "true", times=2),
)
MUTATIONS = tuple(target.mutation() for target in TARGETS)
