"""Mutations of schema changes: each guard of a migration, each condition of its approval, each step of its trial."""

# ruff: noqa: E501 - a mutation a line reads best

from infra.mutations.mutation import edits, targets

_NEVER = "if false then"
_GUARD = ("tests/attacks/test_migrations.py", "-k", "reaches_too_far or guard_itself")
_LINT = ("tests/attacks/test_migrations.py", "-k", "hides or acknowledged or agents or without_a_rule")
_APPROVALS = ("tests/attacks/test_migration_approvals.py",)
_TRIALS = ("tests/attacks/test_migration_trials.py",)
_TOOL = ("tests/tools/test_supabase_migrate.py",)
_OPERATOR = ("tests/tools/test_operator.py",)

_FUNCTIONS = (
    ("pam_private.change_stands", "the text", "is distinct from (new.org_id", "is null and null = (new.org_id", _APPROVALS),
    ("pam_private.agreement_fault", "trust", "if not pam_private.may_change_schema(change.org_id) then", _NEVER, _APPROVALS),
    (
        "pam_private.agreement_fault", "an approval",
        "asked.status::text <> 'approved' or ",
        "",
        _APPROVALS,
    ),
    ("pam_private.agreement_fault", "what was seen", "if not asked.facts @> ", "if false and not asked.facts @> ", _APPROVALS),
    (
        "pam_private.agreement_fault", "in time",
        " or asked.decided_at < clock_timestamp() - interval '1 hour'", "", _APPROVALS,
    ),
    ("pam_private.agreement_fault", "the approver's role", "'viewer') < 'admin' then", "'viewer') < 'viewer' then", _APPROVALS),
    ("pam_private.agreement_fault", "four eyes", "if asked.is_four_eyes and ", "if false and ", _APPROVALS),
    ("pam_worker.approve_change", "only a checked one", "if found_change.status <> 'checked' then", _NEVER, _APPROVALS),
    (
        "pam_worker.approve_change", "this text",
        "found_change.sql_sha256 is distinct from approve_change.sql_sha256", "false", _APPROVALS,
    ),
    (
        "pam_worker.approve_change", "its own organisation's",
        "where c.org_id = run.org_id and c.id = approve_change.change for update",
        "where c.id = approve_change.change for update", _APPROVALS,
    ),
    (
        "pam_worker.read_change", "its own organisation's",
        "c.org_id = run.org_id and c.id = read_change.change", "c.id = read_change.change", _APPROVALS,
    ),
    (
        "pam_worker.request_check", "its own organisation's",
        "where c.org_id = run.org_id and c.id = request_check.change for update",
        "where c.id = request_check.change for update", _APPROVALS,
    ),
    *(
        (f"pam_worker.{verb}", "trust", "if not pam_private.may_change_schema(run.org_id) then", _NEVER, _APPROVALS)
        for verb in ("schema_state", "propose_change", "request_check", "read_change")
    ),
    ("pam_worker.request_check", "an operator lives", "if not pam_private.is_operator_alive() then", _NEVER, _TOOL),
    ("pam_worker.propose_change", "once a call", "if found then return to_jsonb(change); end if;", "", _TOOL),
    ("pam_private.take_change", "rows are for admins", ">= 'admin',", ">= 'viewer',", _TRIALS),
    (
        "pam_private.begin_apply", "the approval once more",
        "coalesce(pam_private.agreement_fault(found_change), to_jsonb(found_change))", "to_jsonb(found_change)", _APPROVALS,
    ),
)  # fmt: skip

_NAMES, _STATEMENTS, _BODY = "workers/tools/schema_names.py", "workers/tools/schema_statements.py", "workers/tools/function_body.py"  # fmt: skip
_TABLES, _CHANGE, _REACH = (
    "workers/tools/schema_tables.py",
    "workers/tools/schema_guard.py",
    "workers/tools/schema_reach.py",
)
_OWNER = "infra/owner"
_SOURCES = (
    ("closed schemas", _NAMES, "    if is_closed(schema):\n        raise ChangeRefused(\n            f\"The {what}", "    if False:\n        raise ChangeRefused(\n            f\"The {what}", _GUARD),
    ("closed schemas by name", _NAMES, "    if is_closed(name):", "    if False:", _GUARD),
    ("temporary tables", _NAMES, 'if table.relpersistence == "t":', "if False:", _GUARD),
    ("catalogues without a schema", _NAMES, 'if len(names) == 1 and names[-1].lower().startswith("pg_"):', "if False:", _GUARD),
    ("roles of the list", _NAMES, "elif role.roletype != pg.ROLESPEC_CSTRING or role.rolename not in ROLES:", "elif False:", _GUARD),
    ("grants to public", _NAMES, "            if not may_be_public:", "            if False:", _GUARD),
    ("names of mirrors", _NAMES, "if name.lower().startswith(MIRROR.strip()):", "if False:", _GUARD),
    ("calls by a dot", _NAMES, "if _CALLED_BY_DOT.match(name.lower()):", "if False:", _GUARD),
    ("functions of the list", _NAMES, "if name in (_PURE if is_executed else _STORED):", "if True:", _GUARD),
    ("functions of the platform", _NAMES, "if schema is not None and is_closed(schema):", "if False:", _GUARD),
    ("the team's functions while it is tried", _NAMES, "    if is_executed:\n        raise ChangeRefused(\n            f\"The function {shown} is the team's own", "    if False:\n        raise ChangeRefused(\n            f\"The function {shown} is the team's own", _GUARD),
    ("statements of the list", _STATEMENTS, "    if rule is None:\n", "    if rule is None and kind == 'DoStmt':\n        return Judged(kind)\n    if rule is None:\n", _GUARD),
    ("cascades", _STATEMENTS, "if behavior == pg.DROP_CASCADE:", "if False:", _GUARD),
    ("cascades of columns", _TABLES, "if change.behavior == pg.DROP_CASCADE:", "if False:", _GUARD),
    ("changes of a table of the list", _TABLES, "if kind not in _CHANGES:", "if False:", _GUARD),
    ("objects of the list", _STATEMENTS, "    if kind not in _GRANTED or ", "    if ", _GUARD),
    ("grant option", _STATEMENTS, "(node.is_grant and node.grant_option)", "False", _GUARD),
    ("default privileges", _STATEMENTS, "if node.action.is_grant:", "if False:", _GUARD),
    ("languages", _STATEMENTS, 'if language not in ("sql", "plpgsql"):', "if False:", _GUARD),
    ("settings of functions", _STATEMENTS, 'if setting.name != "search_path" or ', "if ", _GUARD),
    ("extensions of the list", _STATEMENTS, "if node.extname not in EXTENSIONS:", "if False:", _GUARD),
    ("the schema of extensions", _STATEMENTS, 'if options != {"schema": "extensions"}:', "if False:", _GUARD),
    ("whole schemas announced", _STATEMENTS, "if thing.pubobjtype != pg.PUBLICATIONOBJ_TABLE:", "if False:", _GUARD),
    ("owners of sequences", _STATEMENTS, '                own_name(parts[:-1], "table")', "                pass", _GUARD),
    ("EXECUTE in bodies", _BODY, "if token.is_word(*_NEVER):", "if False:", _GUARD),
    ("commands in bodies", _BODY, "if token.word in _COMMANDS:", "if False:", _GUARD),
    ("calls in bodies", _BODY, "            _check_called(tokens, place)", "            pass", _GUARD),
    ("schemas in bodies", _BODY, "            _check_schema(tokens, place)", "            pass", _GUARD),
    ("Unicode-escaped names in bodies", _BODY, 'if kind in ("UIDENT", "USCONST"):', "if False:", _GUARD),
    ("statements of bodies in SQL", _BODY, "elif not isinstance(statement, _SQL):", "elif False:", _GUARD),
    ("length", _CHANGE, "if len(sql) > MAX_CHARACTERS:", "if False:", _GUARD),
    ("brackets", _CHANGE, "if len(levels) > MAX_BRACKETS:", "if False:", _GUARD),
    ("count of statements", _CHANGE, "if len(tree.stmts) > MAX_STATEMENTS:", "if False:", _GUARD),
    ("single statements alone", _CHANGE, "if singles and len(singles) != len(found):", "if False:", _GUARD),
    ("functions beside rows", _CHANGE, "if statement.writes or (statement.reads_rows and ", "if False and (statement.reads_rows and ", _GUARD),
    ("always true", "workers/tools/schema_lint.py", "        if _is_true(part):", "        if False:", _LINT),
    ("user_metadata", "workers/tools/schema_lint.py", 'if "user_metadata" in text:', "if False:", _LINT),
    ("errors stand in the way", f"{_OWNER}/check.py", "    if open_rules:", "    if False:", _LINT),
    ("only what is new is found", f"{_OWNER}/check.py", "if key not in faults]", "]", _TRIALS),
    ("tables that close", f"{_OWNER}/catalogue_lint.py", "        if with_pam:", "        if False:", _LINT),
    ("acknowledgements are shown", "workers/tools/migration_report.py", "for rule, reason in change.acknowledged.items():", "for rule, reason in ():", _LINT),
    ("the operator's own guard", f"{_OWNER}/check.py", 'statements = check_change(change["sql"])', "statements = check_change('comment on table public.tasks is null')", _TRIALS),
    ("rolled back", f"{_OWNER}/check.py", "connection.transaction(force_rollback=True)", "connection.transaction()", _TRIALS),
    ("rows of others", f"{_OWNER}/check.py", "if not may_read_rows and ", "if False and ", _TRIALS),
    ("one statement", f"{_OWNER}/trial.py", "await cursor.execute(statement.encode(), [], binary=True)", "await cursor.execute(statement.encode())", _TRIALS),
    ("triggers", f"{_OWNER}/trial.py", "    if row:\n", "    if False:\n", _TRIALS),
    ("views in front of triggers", f"{_OWNER}/trial.py", 'if kind and kind[0] not in ("r", "p"):', "if False:", _TRIALS),
    ("cap of rows", f"{_OWNER}/trial.py", "if changed is not None and changed > limits.max_rows:", "if False:", _TRIALS),
    ("lock timeout", f"{_OWNER}/trial.py", '("lock_timeout", f"{limits.lock_seconds * 1000:.0f}ms"),', "", _TRIALS),
    ("statement timeout", f"{_OWNER}/trial.py", "seconds = min(limits.statement_seconds, left)", "seconds = left", _TRIALS),
    ("deadline of the whole", f"{_OWNER}/trial.py", "seconds = min(limits.statement_seconds, left)", "seconds = limits.statement_seconds", _TRIALS),
    ("words of no row", f"{_OWNER}/trial.py", 'case _ if state.startswith(("22", "P0", "38", "39", "XX")):', "case _ if False:", _TRIALS),
    ("drift", f"{_OWNER}/application.py", 'if not is_same and now.digest(history) != answer["base"]:', "if False:", _APPROVALS),
    ("history in the digest", f"{_OWNER}/snapshot.py", "json.dumps([told, history or []])", "json.dumps([told, []])", _APPROVALS),
    ("a failed index goes", f"{_OWNER}/application.py", "left = await asyncio.shield(_take_back(", "left = '' and await asyncio.shield(_take_back(", _TRIALS),
    ("what a stopped operator made goes", f"{_OWNER}/application.py", "    except BaseException as error:\n        if isinstance(error, psycopg.errors.D", "    except psycopg.Error as error:\n        if isinstance(error, psycopg.errors.D", _TRIALS),
    ("what a killed operator made goes", f"{_OWNER}/application.py", 'if begun and (left := await _take_back(dsn, key, begun["own"])):', "if begun and (left := ''):", _TRIALS),
    ("only an attempt's own indexes go", f"{_OWNER}/application.py", "[index for index in made if index in own]", "made", _TRIALS),
    ("a rebuild is compared", f"{_OWNER}/rebuild.py", "        if other:", "        if False:", _TOOL),
    ("one rebuilt schema is kept", f"{_OWNER}/rebuild.py", "await self._drop(server, old)", "pass", _OPERATOR),
    ("a rebuild that went wrong goes", f"{_OWNER}/rebuild.py", "                await self._drop(server, name)\n            raise", "                pass\n            raise", _OPERATOR),
    ("a server that died is replaced", f"{_OWNER}/rebuild.py", "if self._server is not None and self._server.child.process.returncode is None:", "if self._server is not None:", _OPERATOR),
    ("a folder in use stays", f"{_OWNER}/rebuild.py", "            if lock.try_exclusive():", "            if True:", _OPERATOR),
    ("what breaks the operator fails", f"{_OWNER}/process.py", "except Exception as error:  # a change that breaks the op", "except ZeroDivisionError as error:  # a change that breaks the op", _OPERATOR),
    ("a new pause after a success", f"{_OWNER}/service.py", "pause = FIRST_PAUSE_SECONDS if operator.was_ready else pause", "pass", _OPERATOR),
    ("the guard's refusals are audited", "workers/tools/supabase_migrate.py", "raise ToolRefused(refusal.sentence)", "raise ToolRetry(refusal.sentence)", _GUARD),
    ("consent was given", "workers/tools/supabase_migrate.py", 'if agreed is None or agreed.get("change") != str(args.change):', "if agreed is None:", _APPROVALS),
    ("shown whole or not at all", "workers/tools/supabase_migrate.py", "if is_cut(change) or len(text) > MAX_SHOWN_CHARACTERS:", "if is_cut(change):", _APPROVALS),
    ("a cut report is put to nobody", "workers/tools/supabase_migrate.py", "if is_cut(change) or len(text)", "if len(text)", _APPROVALS),
    ("a line that is cut is said to be", f"{_OWNER}/difference.py", "is_cut=(told_schema, told_access) != (schema, access)", "is_cut=len(schema) > MAX_LINES or len(access) > MAX_LINES", _APPROVALS),
    ("checked before asked", "workers/tools/supabase_migrate.py", "elif change.status is not ChangeStatus.CHECKED:", "elif False:", _TRIALS),
)  # fmt: skip

TARGETS = targets("schema change", _FUNCTIONS)
MUTATIONS = (
    *(target.mutation() for target in TARGETS),
    *edits("schema change", _SOURCES),
)
