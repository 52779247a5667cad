"""Mutations of the Redis tools: who a key belongs to, once a call, and what an organisation may hold."""

from infra.mutations.mutation import edits

_SPACE, _STEPS = "workers/tools/redis_space.py", "workers/tools/redis_steps.py"
_GET, _SET = "workers/tools/redis_get.py", "workers/tools/redis_set.py"
_TOOLS, _ATTACKS = "tests/tools/test_redis.py", "tests/attacks/test_redis.py"

_ROWS = (
    ("organisation", _SPACE, 'return f"pam:{org_id}:values:{key}"', 'return f"pam:values:{key}"', _ATTACKS),
    ("organisation of marks", _SPACE, 'f"pam:{org_id}:calls:{call_id}"]', 'f"pam:calls:{call_id}"]', _ATTACKS),
    ("organisation of the ledger", _SPACE, 'f"pam:{org_id}:{ledger}"', 'f"pam:{ledger}"', _ATTACKS),
    ("once a call", _STEPS, "if seen then return seen end", "", _TOOLS),
    ("key cap", _STEPS, "if held == 0 and redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[8])", "if false", _ATTACKS),
    ("byte cap", _STEPS, "if grows > 0 and used + grows > tonumber(ARGV[9])", "if false", _ATTACKS),
    ("room of the queue", _STEPS, "taken * 100 >= most * ARGV[12]", "false", _ATTACKS),
    ("marks are held too", _STEPS, "note(mark, mark_bytes, ARGV[7] * 1000)", "", _ATTACKS),
    ("room comes back", _STEPS, "for _, entry in ipairs(over) do forget(entry) end", "over = {}", _ATTACKS),
    ("ledger has an end", _STEPS, "for place = 3, 6 do redis.call('EXPIRE', KEYS[place], ARGV[10]) end", "", _TOOLS),
    (
        "whole numbers",
        _STEPS,
        "if ARGV[1] == 'increment' and old and not string.match(old, '^-?%d+$')",
        "if false",
        _TOOLS,
    ),
    ("what is over is not listed", _SPACE, "if seconds >= 0]", "]", _ATTACKS),
    (
        "seal of a cursor",
        _SPACE,
        "if not hmac.compare_digest(seal, self._seal(org_id, prefix, last)):",
        "if False:",
        _ATTACKS,
    ),
    (
        "cursor, organisation",
        _SPACE,
        "[str(org_id).encode(), prefix.encode(), last]",
        "[prefix.encode(), last]",
        _ATTACKS,
    ),
    (
        "cursor, prefix",
        _SPACE,
        "[str(org_id).encode(), prefix.encode(), last]",
        "[str(org_id).encode(), last]",
        _ATTACKS,
    ),
    ("end of a prefix", _STEPS, "'[' .. ARGV[1] .. '\\\\255'", "'+'", _TOOLS),
    ("key length", _GET, "len(key) > MAX_KEY_CHARACTERS", "False", _ATTACKS),
    ("printable keys", _GET, "if not key.isprintable():", "if False:", _ATTACKS),
    ("composed keys", _GET, 'if key != unicodedata.normalize("NFC", key):', "if False:", _ATTACKS),
    ("value size", _SET, 'if len(value.encode(errors="replace")) > MAX_VALUE_BYTES:', "if False:", _ATTACKS),
    ("time to live", _SET, "ge=1, le=MAX_SECONDS", "ge=-(10**40)", _ATTACKS),
    ("step of a counter", _SET, "        ge=-(2**53),\n        le=2**53,\n", "", _ATTACKS),
)
MUTATIONS = edits("Redis", _ROWS)
