"""Mutations of openai_api_call: what it may cost, what is allowed, what a schema may hold, what a failure tells."""

from infra.mutations.mutation import Edit, Mutation

_TESTS = ("tests/tools/test_openai_api_call.py",)
_SCHEMAS = ("tests/tools/test_answer_schema.py",)
_TOOL, _SCHEMA, _API = (
    "workers/tools/openai_api_call.py",
    "workers/tools/answer_schema.py",
    "workers/model/openai_api.py",
)

_ROWS = (
    ("ceiling", _TOOL, "    ceiling_usd=ceiling_usd,\n", ""),
    ("what a person sees", _TOOL, "    show=show,\n", ""),
    ("effect", _TOOL, "effect=CallEffect.EXTERNAL", "effect=CallEffect.READ"),
    ("allowed models", _TOOL, "if name not in api.models:", "if False:"),
    ("breaker asked", _TOOL, "if wait > 0:", "if False:"),
    ("breaker told", _TOOL, "await breaker.failed(context.org_id, api.provider)", "pass"),
    ("cost of a failure", _TOOL, "cost_usd=spent + failure.cost_usd)", "cost_usd=spent)"),
    ("cost of a repair", _TOOL, "spent += said.cost_usd", "spent = said.cost_usd"),
    ("one repair", _TOOL, "for _ in range(2):", "for _ in range(3):"),
    (
        "refusals",
        _TOOL,
        'tail = ""\n    if said.is_refused:',
        'tail = ""\n    if False:',
    ),
    (
        "length of a recording",
        _TOOL,
        "if file.size_bytes > args.max_minutes * 60 * _LEAST_BYTES_A_SECOND:",
        "if False:",
    ),
    ("what belongs to an action", _TOOL, "if odd := given - needs - may:", "if odd := set():"),
    ("validation", _SCHEMA, "return list(_told(found))", "return []"),
    ("length of a schema", _SCHEMA, "if len(json.dumps(told)) > MAX_SCHEMA_CHARACTERS:", "if False:"),
    ("depth of a schema", _SCHEMA, "if depth == 0:", "if False:"),
    ("doubling references", _SCHEMA, "if left[0] < 0:", "if False:"),
    ("circles", _SCHEMA, "if ref in open_refs:", "if False:"),
    ("foreign references", _SCHEMA, 'if not ref.startswith("#/"):', "if False:"),
    ("patterns", _SCHEMA, '_CLOSED = ("pattern", "patternProperties", ', "_CLOSED = ("),
    ("only objects", _SCHEMA, 'if told.get("type") != "object":', "if False:"),
    ("attempts", _API, "is_over = attempt >= self._max_attempts or ", "is_over = "),
    (
        "lost answers are not repeated",
        _API,
        "if is_lost or not failure.is_transient or is_over:",
        "if not failure.is_transient or is_over:",
    ),
    ("cost of a lost answer", _API, "cost_usd=lost_usd if is_lost else _FREE", "cost_usd=_FREE"),
    (
        "unknown shapes",
        _API,
        "except (AttributeError, TypeError, ValueError, KeyError, IndexError):",
        "except IndexError:",
    ),
)
MUTATIONS = tuple(
    Mutation(f"provider: {what}", Edit(file, old, new), _SCHEMAS if file == _SCHEMA else _TESTS)
    for what, file, old, new in _ROWS
)
