"""Mutations of the command line: what a person is shown before deciding, what .env may say, and the list of hosts."""

# ruff: noqa: E501 - one mutation, one line

from infra.mutations.mutation import edits

_TEXT, _DECISIONS, _REVIEW = "infra/cli/plain_text.py", "infra/cli/decisions.py", "infra/cli/review.py"
_SETTING, _PERSON, _HOSTS = "infra/cli/setting.py", "infra/cli/person.py", "infra/cli/hosts.py"
_DOCTOR = "infra/cli/doctor_hosted.py"
_VIEW, _ENV = ("tests/cli/test_view.py",), ("tests/cli/test_setting.py",)
_APPROVE = ("tests/cli/test_approvals.py", "-k", "terminal or decided_and_watched")
_BATCH, _MANY = ("tests/cli/test_approvals.py", "-k", "large_batch"), ("tests/cli/test_person.py",)
_LIST = ("tests/cli/test_hosts.py", "-k", "repeated or developer")
_WELL = ("tests/cli/test_doctor.py", "-k", "worker_starts")

# what is taken away, file, its text, what takes its place, who notices
MUTATIONS = edits(
    "command line",
    (
        ("escapes are taken out", _TEXT, '_NO_TEXT.sub("", text.replace(', '"".join(text.replace(', _VIEW),
        ("C1 is taken out", _TEXT, r"\x7f-\x9f", r"\x7f", _VIEW),
        ("the direction is taken out", _TEXT, r"\u2028-\u202e", "", _VIEW),
        ("isolates are taken out", _TEXT, r"\u2066-\u2069", "", _VIEW),
        ("marks without width are taken out", _TEXT, r"\u200b-\u200f", "", _VIEW),
        ("no markup", _TEXT, "return escape(plain(text))", "return plain(text)", _VIEW),
        ("no markup that comes together", _TEXT, "return escape(plain(text))", "return plain(escape(text))", _VIEW),
        ("what is hidden is named", _TEXT, 'return _NO_TEXT.sub(lambda found: f"\\\\u{ord(found[0]):04x}", told)', "return told", _VIEW),
        ("an error is plain", "infra/cli/console.py", "{plain(str(error))}", "{error}", _VIEW),
        ("a commit's title is plain", _REVIEW, "plain(given or _title(paths))", "(given or _title(paths))", _VIEW),
        ("a question is plain", _REVIEW, 'plain(text or "")', '(text or "")', _VIEW),
        ("first shown, then decided", _DECISIONS, "        for row in waiting:\n", "        for row in ():\n", _APPROVE),
        ("arguments to their end", _DECISIONS, 'as_json(row["arguments"], indent=2)', 'as_json(row["arguments"], indent=2)[:200]', _APPROVE),
        ("hidden arguments are named", _DECISIONS, 'as_json(row["arguments"], indent=2)', 'plain(json.dumps(row["arguments"], ensure_ascii=False, indent=2))', _APPROVE),
        ("why", _DECISIONS, "plain(f\"why: {row['why']}\")", '"why:"', _APPROVE),
        ("what it would do", _DECISIONS, '    if row["shown"]:', "    if False:", _APPROVE),
        ("what it would do is plain", _DECISIONS, 'plain(row["shown"])', 'row["shown"]', _APPROVE),
        ("edited arguments are shown", _DECISIONS, "        if edited is not None:\n", "        if False:\n", _APPROVE),
        ("a person is asked", _DECISIONS, "if not is_sure and not agreed(", "if not is_sure and False and not agreed(", _APPROVE),
        ("an edit is for one call", _DECISIONS, "if arguments is not None and len(waiting) != 1:", "if False:", _APPROVE),
        ("every run of a batch", _DECISIONS, "runs |= {", "runs = {", _BATCH),
        ("the newest that are over", _DECISIONS, 'order="created_at", limit=_MAX_OVER', "limit=_MAX_OVER", _BATCH),
        (".env is names and values", _SETTING, "if not sign or not name.strip().isidentifier():", "if False:", _ENV),
        (".env has a sign", _SETTING, "if not sign or not name", "if not name", _ENV),
        (".env has names", _SETTING, "if not sign or not name.strip().isidentifier():", "if not sign:", _ENV),
        (".env stands below", _SETTING, '{**read_dotenv(Path.cwd() / ".env"), **os.environ}', '{**os.environ, **read_dotenv(Path.cwd() / ".env")}', _ENV),
        ("a comment is no value", _SETTING, 'value.partition(" #")[0].rstrip()', "value", _ENV),
        ("an organisation of one's own", _SETTING, 'if wanted not in {row["id"] for row in found}:', "if False:", _ENV),
        ("one of several organisations", _SETTING, "if len(found) > 1 and self.stack is None:", "if False:", _ENV),
        ("a refusal is no absence", _HOSTS, 'if refusal.code != "not_found":', "if False:", _LIST),
        ("absence is no refusal", _HOSTS, 'if refusal.code != "not_found":', "if True:", _LIST),
        ("ports are shown", _HOSTS, 'if row["port"] == _STANDARD_PORT else', "if row else", _LIST),
        ("a refusal is one", _PERSON, 'if isinstance(answer, dict) and "refused" in answer:', "if False:", _LIST),
        ("page after page", _PERSON, "if not rows:  #", "if rows:  #", _MANY),
        ("pages in order", _PERSON, ".order(by).limit(PAGE_ROWS)", ".limit(PAGE_ROWS)", _MANY),
        ("the newest first", _PERSON, "query.order(order, desc=True)", "query.order(order)", _MANY),
        ("one key", _DOCTOR, "    if keys and file:", "    if False:", _WELL),
        ("no folder lies open", _DOCTOR, 'if folder and (_kms_keys(env) or env.get("PAM_KEY_FILE", "").strip()):', "if folder:", _WELL),
    ),
)  # fmt: skip
