"""A JSON schema that a model wrote, bounded before it is used, and an answer held against it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_SCHEMA_CHARACTERS = 20_000
MAX_DEPTH = 16
MAX_NODES = 5_000
MAX_FAULTS = 10
MAX_WORK = 500_000  # parts of the schema times values of the answer: some 3 s of one core
_CHARACTERS_A_VALUE = 100  # a long text weighs as several values: each fault found repeats it
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
# A definition of the root by a plain name: what else a reference can reach, no meta-schema has seen.
_REFERENCE = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]+)")
# Patterns can be made to run for ever, addresses to be fetched; the last compare every item with every other.
_CLOSED = (
    "pattern", "patternProperties", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$id", "$anchor",
    "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
)  # fmt: skip
_NO_PROPERTIES = ("patternProperties", "unevaluatedItems", "unevaluatedProperties")


class SchemaRefused(Exception):
    """The schema cannot be used; the sentence says why."""


def checked(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, if it is one of Draft 2020-12 within bounds. Raises SchemaRefused."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    told = dict(schema)
    if len(json.dumps(told)) > MAX_SCHEMA_CHARACTERS:
        raise SchemaRefused(f"The schema is longer than {MAX_SCHEMA_CHARACTERS:,} characters.")
    if told.get("type") != "object":
        raise SchemaRefused('The schema describes an object: give it "type": "object".')
    _walk(told, told, MAX_DEPTH, (), [MAX_NODES])
    try:
        Draft202012Validator.check_schema(told)
    except SchemaError as error:
        raise SchemaRefused(f"This is no JSON schema of Draft 2020-12: {error.message[:200]}.") from None
    except RecursionError:
        raise SchemaRefused("The schema is nested too deep.") from None
    return told


def _walk(node: Any, root: dict[str, Any], depth: int, open_refs: tuple[str, ...], left: list[int]) -> None:
    """Go through the schema as a validator would, references included: a chain of them can double at every link."""
    left[0] -= 1
    if left[0] < 0:
        raise SchemaRefused("The schema unfolds to too much: use fewer references.")
    if depth == 0:
        raise SchemaRefused(f"The schema is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(node, list):
        for child in node:
            _walk(child, root, depth - 1, open_refs, left)
    if not isinstance(node, dict):
        return
    if closed := next((name for name in _CLOSED if name in node and not _is_property(node, name)), None):
        raise SchemaRefused(f"{closed} is not taken here: say it in words, or by type, enum and length.")
    if isinstance(draft := node.get("$schema"), str) and draft != _DRAFT:
        raise SchemaRefused(f'Schemas are of Draft 2020-12: leave "$schema" out, or say {_DRAFT}.')
    if isinstance(ref := node.get("$ref"), str):
        if ref in open_refs:
            raise SchemaRefused("The schema refers to itself: unfold it as deep as you need.")
        _walk(_target(ref, root), root, depth - 1, (*open_refs, ref), left)
    for child in node.values():
        _walk(child, root, depth - 1, open_refs, left)


def _is_property(node: dict[str, Any], name: str) -> bool:
    """Whether a closed word is a property's name here: its value is a schema then, and no text."""
    return name not in _NO_PROPERTIES and isinstance(node[name], dict)


def _target(ref: str, root: dict[str, Any]) -> Any:
    told = _REFERENCE.fullmatch(ref)
    if not told:
        raise SchemaRefused('A reference names a definition of the schema itself: "#/$defs/name".')
    definitions = root.get(told[1])
    if not isinstance(definitions, dict) or told[2] not in definitions:
        raise SchemaRefused(f"The schema refers to {ref[:80]}, which is not in it.")
    return definitions[told[2]]


def faults(text: str, schema: dict[str, Any]) -> list[str]:
    """What is wrong with an answer to a checked schema, a sentence each; empty when it fits. Takes up to seconds."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        answer = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return [f"The answer is no JSON: {str(error)[:200]}."]
    left = [MAX_NODES]
    _walk(schema, schema, MAX_DEPTH, (), left)
    values, most = _count(answer) + len(text) // _CHARACTERS_A_VALUE, MAX_WORK // (MAX_NODES - left[0])
    if values > most:
        return [f"The answer is too large to be held against this schema: {values:,} values, of {most:,} at most."]
    try:
        found = Draft202012Validator(schema, registry=Registry()).iter_errors(answer)
        return list(_told(found))
    except RecursionError:
        return ["The answer is nested too deep."]
    except (TypeError, ValueError, ArithmeticError) as error:
        return [f"The answer cannot be held against the schema: {str(error)[:200]}."]


def _count(answer: Any) -> int:
    count, open_values = 0, [answer]
    while open_values:
        count += 1
        match open_values.pop():
            case dict() as members:
                open_values += members.values()
            case list() as items:
                open_values += items
    return count


def _told(errors: Any) -> Iterator[str]:
    for number, error in enumerate(errors):
        if number == MAX_FAULTS:
            return
        yield f"{error.json_path}: {error.message[:300]}"


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
