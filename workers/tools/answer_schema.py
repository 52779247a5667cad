"""A JSON schema that a model wrote, bounded before it is used, and an answer held against it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_SCHEMA_CHARACTERS = 20_000
MAX_DEPTH = 16
MAX_NODES = 5_000
MAX_FAULTS = 10
# Patterns can be made to run for ever, and addresses to be fetched.
_CLOSED = ("pattern", "patternProperties", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$id", "$anchor")


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
    if isinstance(ref := node.get("$ref"), str):
        if ref in open_refs:
            raise SchemaRefused("The schema refers to itself: unfold it as deep as you need.")
        _walk(_target(ref, root), root, depth - 1, (*open_refs, ref), left)
    for child in node.values():
        _walk(child, root, depth - 1, open_refs, left)


def _is_property(node: dict[str, Any], name: str) -> bool:
    """Whether a closed word is a property's name here: its value is a schema then, and no text."""
    return name != "patternProperties" and isinstance(node[name], dict)


def _target(ref: str, root: dict[str, Any]) -> Any:
    if not ref.startswith("#/"):
        raise SchemaRefused('A reference stays within the schema: "#/$defs/name".')
    node: Any = root
    for part in ref[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or part not in node:
            raise SchemaRefused(f"The schema refers to {ref[:80]}, which is not in it.")
        node = node[part]
    return node


def faults(text: str, schema: dict[str, Any]) -> list[str]:
    """What is wrong with an answer, a sentence each; empty when it fits."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        answer = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return [f"The answer is no JSON: {str(error)[:200]}."]
    try:
        found = Draft202012Validator(schema, registry=Registry()).iter_errors(answer)
        return list(_told(found))
    except RecursionError:
        return ["The answer is nested too deep."]


def _told(errors: Any) -> Iterator[str]:
    for number, error in enumerate(errors):
        if number == MAX_FAULTS:
            return
        yield f"{error.json_path}: {error.message[:300]}"


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
