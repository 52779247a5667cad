"""Schemas that a model wrote: what could fetch, run for ever or unfold without end is refused before it is used."""

import json
import re
import time
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
            "names a definition of the schema itself",
            id="an address to fetch",
        ),
        pytest.param(
            {"type": "object", "$ref": "file:///etc/passwd"},
            "names a definition of the schema itself",
            id="a file to read",
        ),
        pytest.param(
            {"type": "object", "allOf": [{"$ref": "#/x"}], "x": {"type": 5}},
            "names a definition of the schema itself",
            id="a reference to what no meta-schema has seen",
        ),
        pytest.param(
            {"type": "object", "$ref": "#/$defs/a/x", "$defs": {"a": {"x": {"type": 5}}}},
            "names a definition of the schema itself",
            id="a reference into a definition",
        ),
        pytest.param(
            {"type": "object", "$ref": "#/$defs/%61", "$defs": {"%61": {}, "a": {"$ref": "#/$defs/%61"}}},
            "names a definition of the schema itself",
            id="a name that reads in two ways",
        ),
        pytest.param(
            {"type": "object", "properties": {"a": {"$schema": "http://json-schema.org/draft-03/schema#"}}},
            "Schemas are of Draft 2020-12",
            id="another draft inside",
        ),
        pytest.param(
            {"type": "object", "properties": {"a": {"uniqueItems": True}}},
            "uniqueItems is not taken",
            id="every item beside every other",
        ),
        pytest.param(
            {"type": "object", "unevaluatedProperties": {"type": "string"}},
            "unevaluatedProperties is not taken",
            id="what doubles at every level",
        ),
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
    assert answer_schema.checked(
        {"type": "object", "properties": {"pattern": {"type": "string"}, "$id": {}, "uniqueItems": {}}}
    )


def test_a_reference_to_a_definition_and_the_draft_s_own_name_are_taken() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "#/definitions/b-1"}},
        "$defs": {"a": {"type": "integer"}},
        "definitions": {"b-1": {"type": "string"}},
    }
    assert answer_schema.faults('{"a": 1, "b": "x"}', answer_schema.checked(schema)) == []
    assert len(answer_schema.faults('{"a": "x", "b": 1}', answer_schema.checked(schema))) == 2


@pytest.mark.parametrize(
    ("items", "answer"),
    [
        pytest.param({"allOf": [{}] * 400}, {"a": [1] * 2_000}, id="many parts and many values"),
        pytest.param({"type": "string"}, {"a": [[]] * 100_000}, id="very many values"),
        pytest.param({"anyOf": [{"minLength": 9}] * 900}, {"a": ["x" * 100_000]}, id="a long text and many parts"),
    ],
)
def test_an_answer_too_large_for_its_schema_is_told_at_once(items: dict[str, Any], answer: Any) -> None:
    schema = answer_schema.checked({"type": "object", "properties": {"a": {"items": items}}})
    began = time.process_time()
    (told,) = answer_schema.faults(json.dumps(answer), schema)
    assert "The answer is too large to be held against this schema" in told
    assert time.process_time() - began < 1


@pytest.mark.parametrize("number", ["9" * 4_000, "1e400", "-1e400"])
def test_a_number_that_cannot_be_reckoned_with_is_a_fault(number: str) -> None:
    schema = answer_schema.checked({"type": "object", "properties": {"a": {"multipleOf": 0.1}}})
    (told,) = answer_schema.faults(f'{{"a": {number}}}', schema)
    assert told.startswith("The answer cannot be held against the schema: ")


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
