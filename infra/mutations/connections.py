"""Mutations of connections: each check of who, where, which version and whose turn, and each binding of what is sealed."""

# ruff: noqa: E501 - one mutation, one line

from infra.mutations.mutation import Edit, Mutation, Target

_NEVER = "if false then"
_HERE = "tests/attacks/connections"
_READ_BACK, _ELSEWHERE = (f"{_HERE}/test_secrets_read_back.py",), (f"{_HERE}/test_secrets_elsewhere.py",)
_SEALING, _KEYS, _TOKENS = (f"{_HERE}/test_sealing.py",), (f"{_HERE}/test_keys.py",), (f"{_HERE}/test_tokens.py",)
_LOGS = ("tests/logs/test_connected_logs.py",)
_WAYS, _ENVELOPE = ("tests/outbound/test_connections.py",), ("tests/kernel/test_envelope.py",)
_STRANGER = "if mine is null then"
_ADMIN = "if mine < 'admin' then"

# function, what is taken away, its text, what takes its place, who notices
_FUNCTIONS = (
    *(
        (f"pam.{verb}_connection", what, old, _NEVER, _ELSEWHERE)
        for verb in ("add", "rotate", "remove")
        for what, old in (("membership", _STRANGER), ("role", _ADMIN))
    ),
    ("pam.add_connection", "terms and deposit", "if fault is not null then", _NEVER, _ELSEWHERE),
    ("pam.add_connection", "how many", ">= 200 then", ">= 200000 then", _ELSEWHERE),
    ("pam.add_connection", "one after another", "pam connections of ' || add_connection.org_id::text", "' || random()::text", _ELSEWHERE),
    ("pam.add_connection", "expiry", "when add_connection.expires_at <= now()", "when false", _ELSEWHERE),
    ("pam.rotate_connection", "version", "if rotate_connection.version is distinct from connection.version + 1 then", _NEVER, _READ_BACK),
    ("pam.rotate_connection", "the old token goes", "token_sealed = null, token_expires_at = null,", "", _TOKENS),
    ("pam_private.connection_fault", "kinds", "kind is null or not kind = any", "kind is null or false and not kind = any", _ELSEWHERE),
    ("pam_private.connection_fault", "hosts are names", "or h !~", "or h ~ '^$' and h !~", _ELSEWHERE),
    ("pam_private.connection_fault", "how many hosts", "not between 1 and 20", "not between 1 and 2000", _ELSEWHERE),
    ("pam_private.connection_fault", "known settings", "where k not in (select word from allowed)", "where false", _ELSEWHERE),
    ("pam_private.connection_fault", "printable settings", r"or s.value #>> '{}' !~ '^[\x20-\x7e]+$'", "", _ELSEWHERE),
    ("pam_private.connection_fault", "header or query", "(settings ? 'header') = (settings ? 'query')", "false", _ELSEWHERE),
    ("pam_private.connection_fault", "headers that frame", "or settings ->> 'header' ~*", "or false and settings ->> 'header' ~*", _ELSEWHERE),
    ("pam_private.connection_fault", "parameters", "when settings ->> 'query' !~", "when false and settings ->> 'query' !~", _ELSEWHERE),
    ("pam_private.connection_fault", "user names", "coalesce(settings ->> 'username', ':') ~ ':'", "false", _ELSEWHERE),
    ("pam_private.connection_fault", "token_url", "!~ '^(https://", "!~ '^.*$|^(https://", _ELSEWHERE),
    ("pam_private.connection_fault", "scopes", "settings @? '$.scopes", "false and settings @? '$.scopes", _ELSEWHERE),
    ("pam_private.deposit_fault", "outer form", "if substring(given from 1 for 5) <>", "if false and substring(given from 1 for 5) <>", _SEALING),
    ("pam_private.deposit_fault", "the key that is out", "  if not found then", "  if false then", _SEALING),
    ("pam_private.connection_fault", "logs of one project", "!~ '^[a-z0-9]{20}$'", "!~ '.'", _ELSEWHERE),
    ("pam_private.connection_fault", "a project's one host", "hosts <> array['api.supabase.com']", "false", _ELSEWHERE),
    ("pam_private.connection_fault", "one log group", "!~ '^[A-Za-z0-9_/.#-]+$'", "!~ '.'", _ELSEWHERE),
    ("pam_private.connection_fault", "a region's one host", "when kind = 'aws_access_key' and hosts <>", "when false and hosts <>", _ELSEWHERE),
    ("pam_worker.connection_terms", "organisation", "c.org_id = run.org_id and c.name = connection_terms.name", "c.name = connection_terms.name", _LOGS),
    ("pam_worker.open_connection", "begun call", "and c.run_id = run.id and c.id = open_connection.call and c.status = 'started'", "", _ELSEWHERE),
    ("pam_worker.open_connection", "call of this run", "and c.run_id = run.id and c.id = open_connection.call", "and c.id = open_connection.call", _ELSEWHERE),
    ("pam_worker.open_connection", "call has begun", " and c.status = 'started'", "", _ELSEWHERE),
    ("pam_worker.open_connection", "organisation", "c.org_id = run.org_id and c.name = open_connection.name", "c.name = open_connection.name", _ELSEWHERE),
    ("pam_worker.open_connection", "host", "when open_connection.host is null or not open_connection.host = any (connection.hosts)", "when false", _ELSEWHERE),
    ("pam_worker.open_connection", "expiry", "when connection.expires_at <= now()", "when false", _ELSEWHERE),
    ("pam_worker.open_connection", "audit", "perform pam_private.record(run.org_id, run.user_id, 'connection.use', refusal is null,", "perform (refusal is null,", _ELSEWHERE),
    ("pam_worker.open_connection", "last use", "set last_used_at = clock_timestamp()", "set last_used_at = c.last_used_at", _WAYS),
    ("pam_worker.note_connection_fault", "audit", "perform pam_private.record(", "perform (", _SEALING),
    ("pam_worker.lease_token", "organisation", "s.org_id = run.org_id and s.connection_id = lease_token.connection and c.version", "s.connection_id = lease_token.connection and c.version", _ELSEWHERE),
    ("pam_worker.lease_token", "version", " and c.version = lease_token.version", "", _TOKENS),
    ("pam_worker.lease_token", "one at a time", "secret.lease_until > clock_timestamp()", "false", _TOKENS),
    ("pam_worker.lease_token", "a turn ends", "secret.lease_until > clock_timestamp()", "true", _TOKENS),
    ("pam_worker.lease_token", "thirty seconds", "clock_timestamp() + interval '30 s' then", "clock_timestamp() then", _WAYS),
    ("pam_worker.keep_token", "turn", " and s.lease = keep_token.lease", "", _TOKENS),
    ("pam_worker.keep_token", "version", " and c.version = keep_token.version", "", _TOKENS),
    ("pam_worker.keep_token", "refresh tokens only", "(keep_token.sealed is null or c.kind = 'oauth2_refresh')", "true", _TOKENS),
    ("pam_worker.keep_token", "a day", "least(greatest(keep_token.seconds, 1), 86400)", "keep_token.seconds * 100", _TOKENS),
    ("pam_worker.yield_token", "turn", " and s.lease = yield_token.lease", "", _TOKENS),
    ("pam_worker.drop_token", "organisation", "s.org_id = run.org_id and ", "", _ELSEWHERE),
    ("pam_worker.drop_token", "a newer token stays", " and s.token_number = drop_token.number", "", _WAYS),
    ("pam_private.drop_sealing_keys", "what is still needed", "where k.retired_at is not null", "where true", _WAYS),
    ("pam_private.drop_sealing_keys", "what is not needed", "where k.retired_at is not null", "where false", _WAYS),
    ("pam_worker.sweep_connections", "what cannot be opened", "(s.deposit is not null and c.fault is null)", "s.deposit is not null", _SEALING),
    ("pam_worker.sweep_connections", "older keys", " or s.key_id <> sweep_connections.key_id", "", _WAYS),
)  # fmt: skip

_SEAL, _FILE, _KMS = "workers/kernel/envelope.py", "workers/kernel/key_file.py", "workers/kernel/kms.py"
_VAULT, _LEDGER = "workers/kernel/vault.py", "workers/kernel/ledger/connections.py"
_ROOM, _OAUTH = "workers/outbound/connections.py", "workers/outbound/oauth.py"
# what is taken away, file, its text, what takes its place, who notices
_SOURCES = (
    ("the context is bound", _SEAL, "+ head + context_bytes(context)", "+ head", (*_SEALING, "-k", "no_other_place or no_token")),
    ("the head is bound", _SEAL, 'return len(head).to_bytes(4, "big") + head + context', "return b'' + context", (*_SEALING, "-k", "by_itself")),
    ("the version is known", _SEAL, "if sealed[len(MAGIC) : len(MAGIC) + 1] != bytes([VERSION]):", "if False:", (*_SEALING, "-k", "version")),
    ("a data key is used once", _SEAL, "key, self._key = self._key, None", "key = self._key", (*_SEALING, "-k", "nonce")),
    ("unwrapped keys are forgotten", _SEAL, "if known is not None and now - known[0] < self._cache_seconds:", "if known is not None:", (*_ENVELOPE, "-k", "remembered")),
    ("unwrapped keys are few", _SEAL, "len(self._unwrapped) > self._cache_keys", "False", (*_ENVELOPE, "-k", "remembered")),
    ("the key file is its owner's alone", _FILE, "or held.st_mode & 0o077", "", (*_KEYS, "-k", "others_may_touch")),
    ("the key file is no link", _FILE, "os.O_RDONLY | os.O_NOFOLLOW |", "os.O_RDONLY |", (*_KEYS, "-k", "link")),
    ("the key file is a file", _FILE, "not stat.S_ISREG(held.st_mode) or ", "", (*_KEYS, "-k", "link")),
    ("the key file is read again", _FILE, "self._read is None or self._read[0] != mark", "self._read is None", (*_ENVELOPE, "-k", "new_key")),
    ("the key file is made once", _FILE, "os.link(half, file)", "half.replace(file)", (*_ENVELOPE, "-k", "made_once")),
    ("the key file keeps its mode", _FILE, "os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)", "os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)", (*_ENVELOPE, "-k", "made_once")),
    ("only keys of the settings", _KMS, "if key_id not in await self._known():", "if False:", (*_KEYS, "-k", "settings_do_not_name")),
    ("no data key in a log", _KMS, "logging.getLogger(name).setLevel(logging.WARNING)", "logging.getLogger(name)", (*_KEYS, "-k", "debug_log")),
    ("a deposit is for its terms", _VAULT, "if whole.told() != terms.told():", "if False:", (*_SEALING, "-k", "deposit")),
    ("a secret is one line", _VAULT, "if not value.isprintable() or value != value.strip():", "if False:", (*_ELSEWHERE, "-k", "line_end")),
    ("a secret is ASCII", _VAULT, "if kind is not ConnectionKind.BASIC and not self.secret.isascii():", "if False:", (*_ELSEWHERE, "-k", "line_end")),
    ("what was given stays out of errors", _VAULT, "rotate the connection\") from None\n        return checked", "rotate the connection\")\n        return checked", (*_READ_BACK, "-k", "traceback")),
    ("a bad deposit is told", _VAULT, "await connections.settle_fault(self._gateway, found, str(fault))", "pass", (*_SEALING, "-k", "damaged_deposit")),
    ("a foreign public key is left alone", _VAULT, "or not await self.envelope.ring.opens(out.key_id)", "", (*_KEYS, "-k", "older_keys")),
    ("terms are bound", _LEDGER, '"connection": str(self.id), "terms": digest}', '"connection": str(self.id)}', (*_SEALING, "-k", "changed_in_the_row or rotation")),
    ("the organisation is bound", _LEDGER, 'include=set(ConnectionTerms.model_fields))', 'include=set(ConnectionTerms.model_fields) - {"org_id"})', (*_SEALING, "-k", "another_organisation")),
    ("one fetch at a time", _ROOM, "return await self._unbroken(vault, hold, found, place, lease)\n", "return await self._fetched(vault, hold, found, place, lease)\n", (*_TOKENS, "-k", "cancelled")),
    ("the newest refresh token", _ROOM, 'secret = await vault.opened(place.sealed or b"", found)', "secret = await vault.secret_of(found)", (*_TOKENS, "-k", "opened_early")),
    ("a changed refresh token is kept", _ROOM, "sealed = for_secret.seal(changed.to_bytes()) if changed else None", "sealed = None", (*_TOKENS, "-k", "refresh_token")),
    ("a machine's secret stays", _ROOM, "if found.kind is not ConnectionKind.OAUTH2_REFRESH or ", "if ", (*_TOKENS, "-k", "machines_client_secret")),
    ("asked anew once a call", _ROOM, "if served is None or served.is_second:", "if served is None:", (*_WAYS, "-k", "refused_is_fetched")),
    ("what reads logs is for logs", _ROOM, "            if found.leads_to_logs:", "            if False:", _LOGS),
    ("logs by what reads logs", _ROOM, "            if not found.leads_to_logs:", "            if False:", _LOGS),
    ("a token of logs stays at its host", "workers/tools/connected_logs.py", "return (host, port) == (home.host, home.port)", "return True", _LOGS),
    ("a secret that its logs hold", "workers/logs/cloudwatch.py", "message.replace(secret, REDACTED) if secret else message", "message", _LOGS),
    ("a fetch ends", _ROOM, "asyncio.timeout(FETCH_SECONDS)", "asyncio.timeout(99)", (*_TOKENS, "-k", "never_answers")),
    ("waiting ends", _ROOM, "asyncio.timeout(WAIT_SECONDS), turn", "asyncio.timeout(99), turn", (*_TOKENS, "-k", "for_ever")),
    ("no redirect", _OAUTH, "max_redirects=0", "max_redirects=5", (*_TOKENS, "-k", "redirect")),
    ("no large answer", _OAUTH, "if not answer.is_whole:", "if False:", (*_TOKENS, "-k", "unpacks")),
    ("only known words", _OAUTH, "if word in _ERRORS else", "if word else", (*_TOKENS, "-k", "echoes")),
    ("only bearer tokens", _OAUTH, 'if not isinstance(kind, str) or kind.lower() != "bearer":', "if not isinstance(kind, str):", (*_TOKENS, "-k", "forged")),
    ("only words are tokens", _OAUTH, "if not _is_word(token) or not (", "if not (", (*_TOKENS, "-k", "header")),
    ("only live tokens", _OAUTH, "if isinstance(seconds, bool) or ", "if ", (*_TOKENS, "-k", "ended_already")),
    ("form-encoded names", _OAUTH, 'f"{quote_plus(settings[\'client_id\'])}:', 'f"{settings[\'client_id\']}:', (*_WAYS, "-k", "client_credentials")),
)  # fmt: skip

TARGETS = tuple(Target("connection", function, what, old, new, tests) for function, what, old, new, tests in _FUNCTIONS)
MUTATIONS = (
    *(target.mutation() for target in TARGETS),
    *(Mutation(f"connection: {what}", Edit(file, old, new), tests) for what, file, old, new, tests in _SOURCES),
)
