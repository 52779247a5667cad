"""Mutations of Python: one guard's text, found exactly once, is replaced in a copy of the tree."""

from infra.mutations.mutation import Edit, Mutation, edits_of

_GUARD = "workers/tools/sql_guard.py"
_PATH = "workers/tools/workspace_path.py"
_CALLER = "functions/caller.py"
_SIGNATURE = "functions/signature.py"

_SQL_GUARD = (
    ("length", "if len(sql) > MAX_CHARACTERS:", "if False:"),
    ("brackets", "if len(levels) - 1 > MAX_BRACKETS:", "if False:"),
    ("chains", "if total > MAX_CHAIN:", "if False:"),
    ("one statement", "if len(tree.stmts) != 1:", "if not tree.stmts:"),
    ("only SELECT", "if not isinstance(statement, pg.SelectStmt):", "if False:"),
    ("known nodes", "if kind not in _NODES | self._more_nodes:", "if False:"),
    ("parameters", "if count > MAX_PARAMETERS or len(self.parameters) != count:", "if False:"),
    ("tables", "self.table(node, ctes)", "pass"),
    ("functions", "self._function(node)", "pass"),
    ("functions in FROM", "self._function_in_from(node)", "pass"),
    ("functions by a dot", "self._column(node)", "pass"),
    ("functions by a field", "self._field(node)", "pass"),
    ("types", "self._type(node)", "pass"),
    ("operators", 'self._builtin_only(node.name, "operator", OPERATORS)', "pass"),
    ("operators of subqueries", 'self._builtin_only(node.oper_name, "operator", OPERATORS)', "pass"),
    ("operators of ORDER BY", 'self._builtin_only(node.use_op, "operator", OPERATORS)', "pass"),
    ("collations", 'self._builtin_only(node.collname, "collation")', "pass"),
    ("sampling", 'self._builtin_only(node.method, "sampling method", _SAMPLING)', "pass"),
    ("session values", "not in CLOCK_VALUES:", "is None:"),
    ("databases", "if table.catalogname:", "if False:"),
    ("closed schemas", "if schema is not None and CLOSED_SCHEMAS.match(schema.lower()):", "if False:"),
    ("catalogs", 'if schema is None and name.lower().startswith("pg_"):', "if False:"),
    ("list of functions", "if name not in self._functions:", "if False:"),
    ("excess", "fault = excess(name, call.args)", "fault = None"),
    ("opened functions", 'elif len(names) != 2 or ".".join(names) not in self._opened_functions:', "elif False:"),
    ("columns of functions", "if name not in self._function_columns.get(qualifier, {name}):", "if False:"),
    ("field names", "if name not in OUTPUT_COLUMNS:", "if False:"),
    ("list of types", "if not known or node.setof:", "if False:"),
    ("length of types", 'if names[-1] != "interval" and any(', "if False and any("),
    ("foreign schemas", "if foreign or (", "if ("),
)
_WORKSPACE_PATH = (
    ("whole rule", "    if why:", "    if False:"),
    ("length", "if len(path) > MAX_CHARACTERS:", "if False:"),
    ("control characters", "if _CONTROL.search(path):", "if False:"),
    ("absolute paths", 'if path[0] in "/~" or ', "if "),
    ("drives", ' or re.match(r"[A-Za-z]:", path):', ":"),
    ("dots", 'if "." in parts or ".." in parts:', "if False:"),
    ("empty parts", 'if "" in parts:', "if False:"),
    ("composed form", 'if path != unicodedata.normalize("NFC", path):', "if False:"),
    ("surrogates", "if any(0xD800 <= ord(letter) <= 0xDFFF for letter in path):", "if False:"),
)
_TOKENS = (
    ("audience", 'options={"require"', 'options={"verify_aud": False, "require"'),
    ("issuer", 'options={"require"', 'options={"verify_iss": False, "require"'),
    ("expiry", 'options={"require"', 'options={"verify_exp": False, "require"'),
    ("signature", 'options={"require"', 'options={"verify_signature": False, "require"'),
    ("required claims", '"require": ["exp", "sub", "aud", "iss"]', '"require": []'),
    ("role", 'if claims.get("role") != "authenticated":', "if False:"),
    ("leeway", "LEEWAY_SECONDS = 5", "LEEWAY_SECONDS = 5000"),
    ("length", "if not token.isascii() or not 0 < len(token) <= MAX_TOKEN_CHARACTERS:", "if False:"),
    ("key server asked once a minute", "(600 if kid in self._keys else 60)", "(600 if kid in self._keys else -1)"),
    ("keys grow old", "self._clock() - self._read_at < 3600", "True"),
    ("an absent key server is no forged key", "if self._is_away:\n            raise", "if False:\n            raise"),
    ("kind of key", "algorithm is None", "False"),
    ("use of key", 'published.get("use", "sig") != "sig"', "False"),
)
_WEBHOOKS = (
    ("signature", "if not any(hmac.compare_digest(expected, one) for one in given):", "if False:"),
    ("time", "if abs(self._clock() - int(sent_at)) > TOLERANCE_SECONDS:", "if False:"),
    ("body", "sent_at.encode(), body)", 'sent_at.encode(), b"")'),
    ("id", "(message_id.encode(", '("".encode('),
)
_MODELS, _CANCEL, _TAKEOVER = (
    "tests/agent/test_bad_models.py",
    "tests/agent/test_cancel.py",
    "tests/faults/test_takeover.py",
)
_LOOP, _EXECUTION, _HEART = "workers/agent/loop.py", "workers/agent/execution.py", "workers/agent/heart.py"
_LIMITS = "workers/agent/limits.py"
# file, what, text, instead, where it must be noticed and by which tests of it
_AGENT = (
    (_LOOP, "grant", "context.granted(claim.agent, tools)", "tools", (_MODELS,), "grant"),
    (_LOOP, "leaving between steps", "if self._leaving.is_set():", "if False:", (_TAKEOVER,), "told_to_leave"),
    (
        _LOOP,
        "answer paid once",
        "decision = self._left_behind(transcript, conversation.finish)",
        "decision = None",
        (_TAKEOVER,),
        "",
    ),
    (
        _EXECUTION,
        "intent before effect",
        "begun = await tool_calls.begin(self._hold, call, ceiling_usd=prepared.ceiling_usd)",
        "begun = tool_calls.Begun(None)",
        ("tests/tools", _TAKEOVER),
        "repeat or wherever or lost",
    ),
    (
        _EXECUTION,
        "repeat is told",
        "is_repeat = call.status is CallStatus.STARTED",
        "is_repeat = False",
        ("tests/tools", _TAKEOVER),
        "repeat or wherever or lost",
    ),
    (
        _EXECUTION,
        "unknown outcome",
        "if is_repeat and prepared.effect is not CallEffect.READ and not",
        "if False and not",
        ("tests/agent/test_execution.py",),
        "lost_effect",
    ),
    (
        _EXECUTION,
        "a lost effect that may not run again",
        "if call.status is CallStatus.STARTED and call.effect is not",
        "if False and call.effect is not",
        ("tests/agent/test_execution.py",),
        "let_run_again",
    ),
    (
        _EXECUTION,
        "a lost effect is not asked about anew",
        "            if is_repeat and prepared.effect is not CallEffect.READ:",
        "            if False:",
        ("tests/agent/test_execution.py",),
        "let_run_again",
    ),
    (
        _EXECUTION,
        "arguments",
        "arguments = tool.arguments.model_validate(planning.given(call))",
        "arguments = tool.arguments.model_construct(**planning.given(call))",
        (_MODELS,),
        "does_not_fit",
    ),
    (
        _EXECUTION,
        "time limit of a tool",
        "asyncio.timeout(tool.timeout_seconds):",
        "asyncio.timeout(None):",
        ("tests/agent/test_execution.py",),
        "nobody_saw",
    ),
    (_LIMITS, "steps", "if run.steps >= run.max_steps:", "if False:", (_MODELS,), "steps"),
    (_LIMITS, "tokens", "if tokens_left < LEAST_OUTPUT_TOKENS:", "if False:", (_MODELS,), "token_limit"),
    (_LIMITS, "money", "if affordable < LEAST_OUTPUT_TOKENS:", "if False:", (_MODELS,), "money"),
    (
        _LIMITS,
        "length of an answer",
        "min(MAX_OUTPUT_TOKENS, tokens_left, affordable)",
        "MAX_OUTPUT_TOKENS",
        ("tests/agent/test_execution.py",),
        "no_longer",
    ),
    (_HEART, "halts", "            halted.set_result(why)", "            pass", (_CANCEL,), "middle"),
)
_BOUND = (
    ("read only", "set transaction read only; ", ""),
    ("role", "; set local role pam_agent", ""),
    ("row cap", " limit {limits.max_rows + 1}", ""),
    ("row size", "if any(len(row) > limits.max_row_characters for row in rows):", "if False:"),
    ("time limit", "set local statement_timeout = '{self._limits.statement_seconds}s';", ""),
    ("no counts of hidden rows", "return query_plan.told(plan[0][0][0])", "return str(plan[0][0][0])"),
    ("rolled back", 'b"rollback; select pg_advisory', 'b"commit; select pg_advisory'),
)
_FOLLOWER = (
    ("doubled events", "                if seq > self._last:", "                if True:"),
    ("gaps", 'message["first"] > self._last + 1 or ', ""),
    (
        "reads on after a cut",
        "        async for event in self._catch_up():  # what was said",
        "        for event in ():  # what was said",
    ),
)


_SQL_TEXT = (
    ("NUL", 'if "\\0" in sql:', "if False:"),
    ("long operators", "if _LONG_OPERATOR.search(sql):", "if False:"),
)


MUTATIONS = (
    *edits_of("SQL text", "workers/tools/sql_text.py", _SQL_TEXT, "tests/tools/test_sql_guard.py"),
    *edits_of("SQL guard", _GUARD, _SQL_GUARD, "tests/tools/test_sql_guard.py"),
    *edits_of("workspace path", _PATH, _WORKSPACE_PATH, "tests/tools/test_files.py"),
    *edits_of("token", _CALLER, _TOKENS, "tests/functions/test_caller.py"),
    *edits_of("webhook", _SIGNATURE, _WEBHOOKS, "tests/functions/test_hooks.py"),
    *edits_of(
        "bound SQL",
        "workers/tools/bound_sql.py",
        _BOUND,
        "tests/tools/test_database_query.py",
        "tests/database/test_bound_sql.py",
    ),
    *edits_of("follower", "infra/cli/live.py", _FOLLOWER, "tests/cli/test_follower.py"),
    *(
        Mutation(f"agent: {what}", Edit(file, old, new), (*tests, *(("-k", words) if words else ())))
        for file, what, old, new, tests, words in _AGENT
    ),
)
