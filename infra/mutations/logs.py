"""Mutations of the search of logs: whose lines are shown, what becomes of secrets, what enters a foreign query."""

from infra.mutations.mutation import Mutation, edits, without

_STORES = ("tests/logs",)
_ATTACKS = ("tests/attacks/test_logs.py",)
_SECRETS, _STATISTICS = ("tests/attacks/test_log_secrets.py",), ("tests/attacks/test_statements.py",)
_MATCHING, _LOCAL = "workers/logs/matching.py", "workers/logs/local_store.py"
_CLOUDWATCH, _SUPABASE, _QUERY = "workers/logs/cloudwatch.py", "workers/logs/supabase_logs.py", "workers/logs/query.py"
_REDACTION, _LINES, _MOMENTS = "workers/logs/redaction.py", "workers/logs/lines.py", "workers/logs/moments.py"
_TELEMETRY, _TOOL = "workers/kernel/telemetry.py", "workers/tools/log_search.py"

_ROWS = (
    (
        "organisation of a line",
        _MATCHING,
        'if query.org_id is not None and line.fields.get("org_id") != str(query.org_id):',
        "if False:",
        _STORES,
    ),
    ("range", _MATCHING, "if not query.range.since <= line.at < query.range.until:", "if False:", _STORES),
    ("level", _MATCHING, "if query.level and (", "if False and (", _STORES),
    ("text", _MATCHING, "if query.text and not _says(", "if False and not _says(", _STORES),
    ("fields", _MATCHING, "return all(_holds(condition, line.fields)", "return all(True", _STORES),
    ("organisation of a query", _CLOUDWATCH, "if query.org_id else []", "if False else []", _STORES),
    ("safe words", _QUERY, 'r"[A-Za-z0-9_]{2,60}"', 'r".{2,60}"', _ATTACKS),
    ("safe values", _CLOUDWATCH, "        and _VALUE.fullmatch(condition.value)\n", "", _ATTACKS),
    ("safe fields", _CLOUDWATCH, "        and _FIELD.fullmatch(condition.field)\n", "", _ATTACKS),
    ("safe correlation", _CLOUDWATCH, " and _VALUE.fullmatch(query.correlation_id):", ":", _ATTACKS),
    ("group names", _CLOUDWATCH, "if not _GROUP.fullmatch(place.log_group):", "if False:", _ATTACKS),
    ("regions", _CLOUDWATCH, "if not _REGION.fullmatch(place.region):", "if False:", _ATTACKS),
    ("deadline", _CLOUDWATCH, "if time.monotonic() + pause > ends_at:", "if False:", _STORES),
    ("project names", _SUPABASE, "if not _REF.fullmatch(project_ref):", "if False:", _STORES),
    ("source names", _SUPABASE, "if source not in SOURCES:", "if False:", _STORES),
    ("files of ours alone", _LOCAL, "if FILES.fullmatch(path.name)]", "if path.is_file()]", _STORES),
    ("links", _LOCAL, " | os.O_NOFOLLOW", "", _ATTACKS),
    ("regular files", _LOCAL, "if stat.S_ISREG(os.fstat(file).st_mode):", "if True:", _ATTACKS),
    ("bytes read", _LOCAL, "if self._bytes_left < 0 or ", "if ", _STORES),
    ("seconds read", _LOCAL, " or time.monotonic() > self._ends_at:", ":", _STORES),
    ("long lines", _LOCAL, "            if length <= self._max_line_bytes:\n", "            if True:\n", _STORES),
    ("half a line", _LOCAL, "if not is_end and length", "if length", _STORES),
    ("redaction of a line", _LINES, "clean = redacted(fields)", "clean = fields", _SECRETS),
    ("deep lines", _LINES, "if _is_deep(fields, _MAX_DEPTH):", "if False:", _ATTACKS),
    ("shapes of secrets", _REDACTION, "text = _SHAPES.sub(REDACTED, text)", "pass", _SECRETS),
    ("connection strings", _REDACTION, 'text = _USERINFO.sub(rf"\\1{REDACTED}@", text)', "pass", _SECRETS),
    ("bearers", _REDACTION, 'text = _BEARER.sub(rf"\\1\\2{REDACTED}", text)', "pass", _SECRETS),
    ("assigned secrets", _REDACTION, 'return _ASSIGNED.sub(rf"\\1{REDACTED}", text)', "return text", _SECRETS),
    ("names of secrets", _REDACTION, "is_secret = bool(_NAMES.search(name))", "is_secret = False", _SECRETS),
    ("cursor of a listing", _QUERY, "is_ours = digest == query.digest and ", "is_ours = ", _STORES),
    ("range of a cursor", _QUERY, "if not is_ours or not is_range:", "if not is_ours:", _ATTACKS),
    ("days of a search", _MOMENTS, "if ends - begins > timedelta(days=MAX_DAYS):", "if False:", _STORES),
    ("length of words", _MOMENTS, "if len(words) > MAX_CHARACTERS:", "if False:", _STORES),
    ("forged lines", _TELEMETRY, "handler.setFormatter(_JsonLine(process))", "pass", _ATTACKS),
    ("forged ends", _TELEMETRY, "sys.excepthook = _broke", "pass", _ATTACKS),
    ("forged ends of threads", _TELEMETRY, "threading.excepthook = lambda", "_ = lambda", _ATTACKS),
    ("forged warnings", _TELEMETRY, "logging.captureWarnings(True)", "pass", _ATTACKS),
    ("names of fields", _TOOL, "Field(pattern=FIELD)", "Field()", _ATTACKS),
    ("lines are data", _TOOL, 'origin=f"log {args.store}" if page.lines else None', "origin=None", _ATTACKS),
)
_VERB = "pam_worker.read_statements"
_STATEMENTS = (
    ("trust", "where t.org_id = run.org_id) then", "where true) then"),
    ("order", "if sorting is null then", "if false then"),
    ("utility statements", r"""and s.told ~* '^\(*\s*(select|insert|update|delete|merge|with|values|table)\M'""", ""),
    ("comments", r"'/\*.*?\*/', ' ', 'g'", "'^$', ' ', 'g'"),
)
MUTATIONS = (
    *edits("logs", _ROWS),
    *(Mutation(f"statements: {what}", without(_VERB, old, new), _STATISTICS) for what, old, new in _STATEMENTS),
)
