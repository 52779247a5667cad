"""Mutations of jobs and schedules: each bound, each once-only, and each thing a job inherits, taken out alone."""

from infra.mutations.mutation import Edit, Mutation, edits, targets

_JOBS = ("tests/attacks/test_jobs.py", "tests/attacks/test_sweeps.py")
_CRON, _RUNS = ("tests/kernel/test_cron.py",), ("tests/agent/test_jobs.py",)
_START, _ADVANCE, _SUBMIT = "pam_private.start_job", "pam_worker.advance_schedule", "pam_worker.submit_job"
_FAULT, _CANCEL, _RETRY = "pam_private.job_fault", "pam_private.cancel_job", "pam_private.retry_job"

# function, what is taken away, its text, what takes its place
_FUNCTIONS = (
    (_START, "the person's role", "'viewer') < 'developer' then return", "'viewer') < 'viewer' then return"),
    (_START, "the card by now, for a tool", "else tools ? job.task end", "else true end"),
    (
        _START,
        "the card by now, for the agent",
        "job.agent_version) <@ tools",
        "job.agent_version) <@ '[\"celery_task\"]' or true",
    ),
    (_START, "what the submitter had read", "end, job.tainted_at, job.taint,", "end, null, null,"),
    (_START, "the token's end", " and job.claims_until > clock_timestamp()", ""),
    ("pam_private.is_safe_to_repeat", "effects", "c.effect not in ('read', 'pause')", "c.effect = 'pause'"),
    (
        "pam_private.is_safe_to_repeat",
        "unknown outcomes",
        "not in ('planned', 'failed',",
        "not in ('unknown', 'planned', 'failed',",
    ),
    ("pam_private.follow_run", "attempts", "job.attempt < job.max_attempts and ", ""),
    (
        "pam_private.follow_run",
        "where a result comes from",
        "result_origin = new.taint, ended_at",
        "result_origin = null, ended_at",
    ),
    ("pam_worker.sweep_jobs", "room for the person", "limit greatest(40 -", "limit greatest(4000 -"),
    ("pam_worker.sweep_jobs", "one job's fault is its own", "why := 'internal';", "raise;"),
    (_ADVANCE, "the time it was due", "schedule.next_at is distinct from advance_schedule.due_at or ", ""),
    (_ADVANCE, "not before its time", " or schedule.next_at > clock_timestamp() then", " then"),
    (_ADVANCE, "a minute between", "schedule.next_at + interval '1 minute' or", "'-infinity'::timestamptz or"),
    (
        _ADVANCE,
        "missed times stay missed",
        "or advance_schedule.next_at < clock_timestamp() - interval '1 minute' then",
        "then",
    ),
    (_ADVANCE, "the person's role", "'viewer') < 'developer' then", "'viewer') < 'viewer' then"),
    (_ADVANCE, "the job before", "j.id = schedule.last_job_id and", "false and"),
    (_FAULT, "size", " or octet_length((job -> 'arguments')::text) > 65536", ""),
    (_FAULT, "the agent's own arguments", "where k.name <> 'message')", "where false)"),
    (_FAULT, "the card", "task <> 'agent' and not tools ? task", "false"),
    (_FAULT, "depth", "if depth > 5 then", "if depth > 50 then"),
    (_FAULT, "open jobs", ">= 10000 then", ">= 1000000 then"),
    ("pam_private.due_fault", "a year", "interval '366 days'", "interval '36600 years'"),
    ("pam_private.has_begun", "recorded intent", " and c.status = 'started'", ""),
    ("pam_private.has_begun", "its own tool", "and c.tool = 'celery_task' ", ""),
    ("pam_private.has_begun", "its own run", "c.run_id = run.id and ", ""),
    (_SUBMIT, "submissions of a run", ">= 100 then", ">= 100000 then"),
    (_SUBMIT, "active schedules", ">= 200 then", ">= 200000 then"),
    ("pam_worker.read_job", "organisation", "j.org_id = run.org_id and j.id = read_job.job)", "j.id = read_job.job)"),
    ("pam_worker.list_jobs", "whose names they are", "j.user_id <> run.user_id as is_foreign", "false as is_foreign"),
    (_CANCEL, "whose job it is", "if job.user_id <> person and", "if false and"),
    (_CANCEL, "an ended job", "if job.status in ('succeeded', 'failed', 'cancelled') then", "if false then"),
    (_RETRY, "whose job it is", "if job.user_id <> person then", "if false then"),
    (_RETRY, "once per call", "if job.retried_by_call = call then", "if false then"),
    (
        _RETRY,
        "what may have taken effect",
        "if call is not null and not coalesce((select",
        "if false and not coalesce((select",
    ),
    (_RETRY, "depth", "if greatest(job.depth, depth) > 5 then", "if false then"),
    ("pam.cancel_job", "membership", "pam_private.role_in(cancel_job.org_id, me) is null", "false"),
    ("pam.retry_job", "membership", "if mine is null then", "if false then"),
)
TARGETS = targets("check taken out of", _FUNCTIONS, _JOBS)
_KERNEL, _SWEEPS, _TOOL = "workers/kernel/cron.py", "workers/kernel/sweeps.py", "workers/tools/celery_task.py"
_DATA = '"Result:", job.result]), origin=origin)'
_TIMES = (
    ("a second pass of an hour", _KERNEL, "if moment > after:", "if True:", _CRON),
    ("five fields", _KERNEL, " or len(cron.split()) != 5", "", _JOBS),
    ("an expression's length", _KERNEL, "len(cron) > _MAX_CHARACTERS or ", "", _JOBS),
    ("a time zone's form", _KERNEL, "if not _ZONE.fullmatch(name):", "if False:", _JOBS),
)
_SWEEP = (
    ("a part that breaks", _SWEEPS, "    except Exception as error:", "    except KeyError as error:", _JOBS),
    ("a zone unknown", _SWEEPS, "except cron.NoSuchSchedule as error:", "except KeyError as error:", _CRON),
)
_CALLS = (
    ("arguments checked", _TOOL, "known.model_validate(arguments)", "str(arguments)", _JOBS),
    ("a result is data", _TOOL, _DATA, '"Result:", job.result]))', _JOBS),
)
MUTATIONS: tuple[Mutation, ...] = (
    *(target.mutation() for target in TARGETS),
    *edits("cron", _TIMES),
    *edits("sweep", _SWEEP),
    *edits("celery_task", _CALLS),
    Mutation(
        "a job's failed call fails its run",
        Edit("workers/agent/task.py", "if call.status is CallStatus.SUCCEEDED:", "if True:"),
        _RUNS,
    ),
)
