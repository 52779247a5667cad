"""Mutations of openai_api_call: what it may cost, what is allowed, what a schema may hold, what a failure tells."""

from infra.mutations.mutation import edits

_TESTS = (
    "tests/tools/test_openai_api_call.py",
    "tests/tools/test_structured_answers.py",
    "tests/tools/test_provider_failures.py",
)
_SCHEMAS = ("tests/tools/test_answer_schema.py",)
_TOOL, _SCHEMA = "workers/tools/openai_api_call.py", "workers/tools/answer_schema.py"
_API, _RETRY = "workers/model/openai_api.py", "workers/model/retry.py"

_ROWS = (
    ("ceiling", _TOOL, "    ceiling_usd=ceiling_usd,\n", ""),
    ("what a person sees", _TOOL, "    show=show,\n", ""),
    (
        "a schema that a person sees",
        _TOOL,
        '*(f"{each.role}: {each.content}" for each in args.messages), *shape]',
        '*(f"{each.role}: {each.content}" for each in args.messages)]',
    ),
    ("settings that a person sees", _TOOL, "for name in _SETTINGS[args.action]}", "for name in ()}"),
    ("effect", _TOOL, "effect=CallEffect.EXTERNAL", "effect=CallEffect.READ"),
    ("allowed models", _TOOL, "if name not in api.models:", "if False:"),
    ("breaker asked", _TOOL, "if wait > 0:", "if False:"),
    ("breaker told", _TOOL, "await breaker.failed(context.org_id, api.provider)", "pass"),
    ("cost of a failure", _TOOL, "cost_usd=spent + failure.cost_usd,", "cost_usd=spent,"),
    ("cost of a repair", _TOOL, "spent += said.cost_usd", "spent = said.cost_usd"),
    ("whose words a refusal repeats", _TOOL, 'origin=f"model {model}" if words else None)', "origin=None)"),
    ("whose words a fault repeats", _TOOL, 'cost_usd=spent, origin=f"model {model}")', "cost_usd=spent)"),
    ("whose words a failure repeats", _TOOL, "origin=failure.origin)", "origin=None)"),
    ("words of the server", _API, 'f"model {name}" if failure.is_quoting else None', "None"),
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
    ("a recording overwritten unseen", _TOOL, "if found and args.version is None:", "if False:"),
    ("a recording of another version", _TOOL, "if args.version is not None and args.version != found:", "if False:"),
    ("validation", _SCHEMA, "return list(_told(found))", "return []"),
    ("length of a schema", _SCHEMA, "if len(json.dumps(told)) > MAX_SCHEMA_CHARACTERS:", "if False:"),
    ("depth of a schema", _SCHEMA, "if depth == 0:", "if False:"),
    ("doubling references", _SCHEMA, "if left[0] < 0:", "if False:"),
    ("circles", _SCHEMA, "if ref in open_refs:", "if False:"),
    (
        "foreign references",
        _SCHEMA,
        """    if not told:
        raise SchemaRefused('A reference names""",
        """    if not told:
        return {}
    if not told:
        raise SchemaRefused('A reference names""",
    ),
    ("another draft", _SCHEMA, "and draft != _DRAFT:", "and False:"),
    ("work of a validation", _SCHEMA, "if values > most:", "if False:"),
    (
        "texts weigh",
        _SCHEMA,
        "_count(answer) + len(text) // _CHARACTERS_A_VALUE, MAX",
        "_count(answer), MAX",
    ),
    ("items compared", _SCHEMA, '"unevaluatedProperties", "uniqueItems",\n', '"unevaluatedProperties",\n'),
    ("parts evaluated twice", _SCHEMA, '_NO_PROPERTIES = ("patternProperties", ', "_NO_PROPERTIES = () and ("),
    (
        "numbers too large",
        _SCHEMA,
        "except (TypeError, ValueError, ArithmeticError) as error:",
        "except EOFError as error:",
    ),
    (
        "validation beside the loop",
        _TOOL,
        "await asyncio.to_thread(answer_schema.faults, said.text, schema)",
        "answer_schema.faults(said.text, schema)",
    ),
    ("patterns", _SCHEMA, '    "pattern", "patternProperties", "$dynamicRef"', '    "$dynamicRef"'),
    ("only objects", _SCHEMA, 'if told.get("type") != "object":', "if False:"),
    ("attempts", _RETRY, "or self._failed >= self._retries.max_attempts ", ""),
    (
        "lost answers are not repeated",
        _API,
        "if is_lost or pause_seconds is None:",
        "if pause_seconds is None:",
    ),
    ("cost of a lost answer", _API, "cost_usd=billed_usd if is_lost else _FREE", "cost_usd=_FREE"),
    ("cost of a malformed answer", _API, "most_usd if isinstance(failure, MalformedAnswer) else lost_usd", "lost_usd"),
    (
        "cost of a strange answer",
        _API,
        "raise ModelApiFailed(sentence, is_away=True, cost_usd=cost_usd)",
        "raise ModelApiFailed(sentence, is_away=True)",
    ),
    ("usage of a strange answer", _API, "return counts if len(counts) == len(names) else None", "return None"),
    ("negative usage", _API, " and each >= 0)", ")"),
    ("an answer that broke off", "workers/model/openai_wire.py", "if _CUT in str(error.__cause__):", "if False:"),
    ("a recording that is none", _API, ' or kind.startswith(("application/json", "text/")):', ":"),
    (
        "unknown shapes",
        _API,
        "except (AttributeError, TypeError, ValueError, KeyError, IndexError):",
        "except IndexError:",
    ),
)
MUTATIONS = edits("provider", ((*row, _SCHEMAS if row[1] == _SCHEMA else _TESTS) for row in _ROWS))
