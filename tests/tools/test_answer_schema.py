"""Schemas that a model wrote: what could fetch, run for ever or unfold without end is refused before it is used."""

import json
import re
from typing import Any

import pytest

from workers.tools import answer_schema
from workers.tools.answer_schema import SchemaRefused

DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 20} for n in range(4)} | {"d4": {}}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        pytest.param({}, "describes an object", id="no object"),
        pytest.param({"type": "array"}, "describes an object", id="a list"),
        pytest.param(
            {"type": "object", "properties": {"a": {"type": "fish"}}}, "This is no JSON schema", id="no schema"
        ),
        pytest.param(
            {"type": "object", "$ref": "https://evil.example/s.json"},
            "stays within the schema",
            id="an address to fetch",
        ),
        pytest.param({"type": "object", "$ref": "file:///etc/passwd"}, "stays within the schema", id="a file to read"),
        pytest.param(
            {"type": "object", "$id": "https://evil.example/"}, "$id is not taken", id="a base of another address"
        ),
        pytest.param({"type": "object", "$ref": "#/$defs/absent"}, "which is not in it", id="a reference to nothing"),
        pytest.param(
            {"type": "object", "$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
            "refers to itself",
            id="a circle",
        ),
        pytest.param(
            {"type": "object", "$ref": "#/$defs/d0", "$defs": DOUBLING},
            "unfolds to too much",
            id="references that double",
        ),
        pytest.param(
            {"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}},
            "pattern is not taken",
            id="a pattern that runs for ever",
        ),
        pytest.param(
            {"type": "object", "patternProperties": {"(a+)+$": {}}},
            "patternProperties is not taken",
            id="a pattern of names",
        ),
        pytest.param({"type": "object", "description": "x" * 20_001}, "is longer than", id="too long"),
        pytest.param(
            json.loads('{"type":"object","not":' + '{"not":' * 60 + "{}" + "}" * 61),
            "nested deeper than",
            id="too deep",
        ),
        pytest.param({"type": "object", "$dynamicRef": "#x"}, "$dynamicRef is not taken", id="a reference that moves"),
    ],
)
def test_a_schema_that_could_do_harm_is_refused(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(SchemaRefused, match=re.escape(told)):
        answer_schema.checked(schema)


def test_a_property_may_be_named_like_a_word_of_schemas() -> None:
    assert answer_schema.checked({"type": "object", "properties": {"pattern": {"type": "string"}, "$id": {}}})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('{"a": 1}', []),
        ('{"a": "x"}', ["$.a: 'x' is not of type 'integer'"]),
        ("{}", ["$: 'a' is a required property"]),
        ('{"a": NaN}', ["The answer is no JSON: NaN is no number of JSON."]),
    ],
)
def test_an_answer_is_held_against_its_schema(answer: str, told: list[str]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert answer_schema.faults(answer, answer_schema.checked(schema)) == told
