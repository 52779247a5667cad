"""Agent cards: the given card as it is, both forms, and every fault named by its line."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.kernel.cards import MAX_BYTES, CardLimits, CardRefused, parse_card, read_card

HERE = Path(__file__).parent
GIVEN = HERE / "given_card.md"
OURS = HERE.parents[1] / "workers" / "agent" / "backend_engineer.md"
TOOLS = (
    "file_read", "file_write", "file_list", "database_query", "supabase_migrate", "api_call",
    "openai_api_call", "log_search", "code_execution", "redis_set",
    "redis_get", "celery_task", "websocket_send",
)  # fmt: skip

CARD = """\
# Small Agent

## Agent Details
- **Name**: Small
- **Type**: Test agent
- **Version**: 1.2.3
- **Description**: Does little.

## Expertise
- **Little**: Very little

## Available Tools
- **Files**:
  - `file_read`: Read

## System Prompt
Do little.

## House Rules
Stay small.
"""

FRONT = """\
---
name: small-agent
type: Test agent
version: 1.2.3-rc.1
description: Does little.
expertise:
  Little: Very little
tools: [file_read, api_call]
conduct: [ask_person]
limits:
  max_steps: 20
  max_cost_usd: 0.50
model: some-model
---

Do little.

## A heading of the prompt
- and no more
"""

# (what is broken, from, to, line, a part of the reason)
BROKEN = [
    ("no title", "# Small Agent", "", 1, "title is missing"),
    ("two titles", "Stay small.", "# Another", 20, "second `#` title"),
    ("text before the sections", "# Small Agent\n", "# Small Agent\nhello", 2, "outside a section"),
    ("a section missing", "## Expertise", "## Expertize", 9, "rename `## Expertize`"),
    ("no section like it", "## System Prompt\nDo little.\n", "", 1, "`## System Prompt` is missing; add it"),
    ("an empty section", "Do little.", "", 16, "`## System Prompt` is empty"),
    ("a section twice", "## House Rules", "## Expertise", 19, "given twice; merge"),
    ("no name", "- **Name**: Small\n", "", 3, "`name` is missing"),
    ("a name with spaces", "**Name**: Small", "**Name**: Very Small", 4, "may hold letters"),
    ("an empty type", "**Type**: Test agent", "**Type**:  ", 5, "not a detail"),
    ("a short version", "1.2.3", "1.2", 6, "not semantic"),
    ("a version with zeros", "1.2.3", "01.2.3", 6, "not semantic"),
    ("a version with foreign digits", "1.2.3", "1.2.3٣", 6, "not semantic"),
    ("an unknown detail", "**Type**", "**Typ**", 5, "did you mean type?"),
    ("a detail twice", "- **Type**", "- **Name**: Other\n- **Type**", 5, "given twice"),
    ("a detail out of form", "- **Type**: Test agent", "Type: Test agent", 5, "not a detail"),
    ("a limit that is no number", "little.\n\n## Exp", "x\n- **Max steps**: x\n\n## Exp", 8, "`max_steps`"),
    ("a limit below zero", "little.\n\n## Exp", "x\n- **Max cost USD**: -1\n\n## Exp", 8, "greater than 0"),
    ("an endless limit", "little.\n\n## Exp", "x\n- **Max cost USD**: inf\n\n## Exp", 8, "finite"),
    ("expertise out of form", "- **Little**: Very little", "Very little", 10, "not a field of expertise"),
    ("expertise twice", "Very little\n", "Very little\n- **Little**: More\n", 11, "given twice"),
    ("an unknown tool", "`file_read`", "`file_reed`", 14, "did you mean file_read?"),
    ("a tool twice", "`: Read\n", "`: Read\n  - `file_read`: Again\n", 15, "listed twice"),
    ("conduct among the tools", "`file_read`", "`ask_person`", 14, "granted by the card's conduct"),
    ("a tool out of form", "`file_read`", "file_read", 14, "not a tool"),
    ("no tool", "  - `file_read`: Read\n", "", 12, "lists no tool"),
    ("an open fence", "Stay small.\n", "```\n## Expertise", 21, "not closed"),
    ("a NUL byte", "Stay small.", "Stay\0small.", 20, "NUL"),
    ("bytes that are no text", "Stay small.", "Stay \udcff small.", 20, "UTF-8"),
]  # fmt: skip

BROKEN_FRONT = [
    ("an unclosed head", "model: some-model\n---\n", "model: some-model\n", 1, "not closed"),
    ("broken YAML", "type: Test agent", "type: [Test", 4, "not valid YAML"),
    ("an unknown key", "model:", "modle:", 13, "did you mean model?"),
    ("a key twice", "model:", "name:", 13, "given twice"),
    ("a list twice", "conduct: [ask_person]", "tools: []", 9, "`tools` is given twice"),
    ("an anchor", "Test agent", "&a Test agent", 3, "anchors"),
    ("an alias", "Test agent", "*a", 3, "anchors"),
    ("a bomb", "type: Test agent", 'type: &a ["x"]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]', 3, "anchors"),
    ("a tag", "Test agent", "!!python/object/apply:os.system [id]", 3, "tags"),
    ("deep nesting", "Test agent", "[" * 5000 + "]" * 5000, 3, "too deep"),
    ("no mapping", FRONT[4 : FRONT.index("---\n\n")], "- a\n", 2, "no mapping"),
    ("a list for a text", "Test agent", "[a]", 3, "not a text"),
    ("an unknown tool", "api_call]", "api_cal]", 8, "did you mean api_call?"),
    ("a tool twice", "api_call]", "file_read]", 8, "listed twice"),
    ("tools as a text", "[file_read, api_call]", "file_read", 8, "not a list"),
    ("no tools", "tools: [file_read, api_call]\n", "", 2, "`tools` is missing"),
    ("unknown conduct", "[ask_person]", "[ask_persons]", 9, "did you mean ask_person?"),
    ("expertise twice", "  Little: Very little", "  Little: a\n  Little: b", 8, "`Little` is given twice"),
    ("a text for a mapping", "\n  Little: Very little", " little", 6, "not a mapping"),
    ("an unknown limit", "max_steps", "max_step", 11, "did you mean max_steps?"),
    ("a limit of zero", "20", "0", 11, "greater than 0"),
    ("a bad version", "1.2.3-rc.1", "1.2.3-", 4, "not semantic"),
    ("an empty description", "Does little.", '""', 5, "is empty"),
    ("no prompt", FRONT[FRONT.index("\nDo little") :], "\n", 14, "prompt is empty"),
]  # fmt: skip


def parse(text: str) -> object:
    return parse_card(text.encode("utf-8", "surrogateescape"), path="card.md", known_tools=TOOLS)


def test_the_given_card_is_taken_exactly_as_it_is() -> None:
    content = GIVEN.read_bytes()
    assert hashlib.sha256(content).hexdigest() == ("ef965424276463bc9a3f6e156d2087f706dc9a46ff93b9e57ff68c57f351564c")
    card = read_card(GIVEN, known_tools=TOOLS)
    assert (card.name, card.type, card.version) == (
        "BackendEngineer",
        "Specialized Backend Development Agent",
        "1.0.0",
    )
    assert card.description.startswith("You are a backend engineer who specializes")
    assert [title for title, _ in card.expertise][:2] == ["Backend Development", "API Design"]
    assert card.tools == TOOLS
    assert card.tool_notes["redis_get"] == "Retrieve cached data and temporary storage"
    assert card.system_prompt.startswith("You are a backend developer who builds robust")
    assert list(card.sections) == [
        "Core Responsibilities", "Technical Stack", "Security Guidelines", "PAM Agent Management",
        "Development Standards", "Operational Procedures", "Quality Assurance",
    ]  # fmt: skip
    assert card.sections["Quality Assurance"].endswith("for critical paths")
    assert card.conduct_tools == {"ask_person"}
    assert card.limits.max_steps is None
    assert card.source.encode() == content
    assert card.source_sha256 == hashlib.sha256(content).hexdigest()


def test_our_own_card_has_the_given_cards_tools_and_asks_when_unsure() -> None:
    ours, given_card = read_card(OURS, known_tools=TOOLS), read_card(GIVEN, known_tools=TOOLS)
    assert ours.name == given_card.name
    assert ours.tools == given_card.tools
    assert ours.conduct_tools == {"ask_person"}
    assert len(ours.source) < 1.5 * len(given_card.source)


def test_instructions_are_the_prompt_then_duties_and_rules_always_the_same() -> None:
    text = read_card(GIVEN, known_tools=TOOLS).instructions()
    assert text == read_card(GIVEN, known_tools=TOOLS).instructions()
    assert text.index("You are a backend developer") == 0 < text.index("## Core Responsibilities\n1. **API")
    assert text.index("## Core Responsibilities") < text.index("## Security Guidelines")
    assert "Technical Stack" not in text
    for path in (GIVEN, OURS):
        assert "openai" not in read_card(path, known_tools=TOOLS).instructions().lower().replace("openai_api", "")


def test_a_definition_is_plain_json_with_the_limits_as_numbers() -> None:
    definition = parse_card(FRONT.encode(), path="x", known_tools=TOOLS).definition()
    assert json.loads(json.dumps(definition)) == definition
    assert definition["limits"] == {"max_steps": 20, "max_cost_usd": 0.5}
    assert (definition["conduct_tools"], definition["tools"]) == (["ask_person"], ["file_read", "api_call"])
    assert definition["instructions"].startswith("Do little.")
    assert parse_card(CARD.encode(), path="x", known_tools=TOOLS).definition()["limits"] == {}


def test_front_matter_makes_the_same_kind_of_card() -> None:
    card = parse_card(FRONT.replace("\n", "\r\n").encode(), path="card.md", known_tools=TOOLS)
    assert (card.name, card.version, card.model) == ("small-agent", "1.2.3-rc.1", "some-model")
    assert card.expertise == (("Little", "Very little"),)
    assert card.tools == ("file_read", "api_call")
    assert (card.limits.max_steps, str(card.limits.max_cost_usd)) == (20, "0.50")
    assert card.conduct_tools == {"ask_person"}
    assert card.system_prompt == "Do little.\n\n## A heading of the prompt\n- and no more" == card.instructions()
    noted = FRONT.replace("[file_read, api_call]", "{file_read: to read}")
    assert parse_card(noted.encode(), path="x", known_tools=TOOLS).tool_notes == {"file_read": "to read"}


@pytest.mark.parametrize(
    ("text", "granted"),
    [
        ("Ask for clarification if needed.", True),
        ("If unsure,\nask the person.", True),
        ("Never ask for clarification.", False),
        ("Do not ask the person anything.", False),
        ("Task for clarification of butter.", False),
        ("Guess.", False),
    ],
)
def test_a_markdown_card_grants_questions_by_what_it_says(text: str, granted: bool) -> None:
    for old in ("Do little.", "Stay small."):
        card = parse_card(CARD.replace(old, text).encode(), path="x", known_tools=TOOLS)
        assert card.conduct_tools == ({"ask_person"} if granted else frozenset())


def test_a_front_matter_card_grants_questions_by_its_key_only() -> None:
    text = FRONT.replace("conduct: [ask_person]\n", "").replace("Do little.", "Ask for clarification.")
    assert parse_card(text.encode(), path="x", known_tools=TOOLS).conduct_tools == frozenset()
    titled = CARD.replace("House Rules", "Clarification")
    assert parse_card(titled.encode(), path="x", known_tools=TOOLS).conduct_tools == {"ask_person"}


def test_a_byte_order_mark_is_no_fault_and_stays_in_the_source() -> None:
    card = parse_card(b"\xef\xbb\xbf" + FRONT.encode(), path="x", known_tools=TOOLS)
    assert (card.name, card.source[0]) == ("small-agent", "\ufeff")


def test_headings_inside_code_fences_are_text() -> None:
    fenced = CARD.replace("Stay small.", "````\n```\n## Expertise\n# x\n````\nafter")
    card = parse_card(fenced.encode(), path="x", known_tools=TOOLS)
    assert card.sections == {"House Rules": "````\n```\n## Expertise\n# x\n````\nafter"}


def test_a_card_cannot_be_changed() -> None:
    card = parse_card(CARD.encode(), path="x", known_tools=TOOLS)
    with pytest.raises(ValidationError):
        card.name = "Other"


@pytest.mark.parametrize(
    ("card", "old", "new", "line", "reason"),
    [pytest.param(CARD, *case[1:], id=case[0]) for case in BROKEN]
    + [pytest.param(FRONT, *case[1:], id=f"front matter: {case[0]}") for case in BROKEN_FRONT],
)
def test_a_broken_card_is_refused_with_its_line_and_reason(
    card: str, old: str, new: str, line: int, reason: str
) -> None:
    assert old in card
    with pytest.raises(CardRefused) as refused:
        parse(card.replace(old, new, 1))
    matching = [problem for problem in refused.value.problems if reason in problem.reason]
    assert [problem.line for problem in matching] == [line], str(refused.value)
    assert f"card.md:{line}: {matching[0].reason}" in str(refused.value).split("\n")


def test_all_faults_are_named_at_once_in_order_of_lines() -> None:
    text = CARD.replace("1.2.3", "one").replace("file_read", "file_reed").replace("**Type**", "**Typ**")
    with pytest.raises(CardRefused) as refused:
        parse(text)
    assert [problem.line for problem in refused.value.problems] == [3, 5, 6, 14]
    assert len(str(refused.value).split("\n")) == 4


def test_a_card_at_the_size_limit_is_read_and_one_byte_more_is_not() -> None:
    full = CARD.encode() + b"x" * (MAX_BYTES - len(CARD.encode()))
    assert parse_card(full, path="x", known_tools=TOOLS).name == "Small"
    with pytest.raises(CardRefused, match="x:1: larger than 64 KiB"):
        parse_card(full + b"x", path="x", known_tools=TOOLS)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.text(alphabet="#-*`:~&!|>[]{}\n \"'?,%@aé", max_size=200).map(
            lambda text: ("---\n" + text + "\n---\nx").encode()
        ),
        st.tuples(st.integers(0, len(FRONT)), st.text(max_size=5)).map(
            lambda cut: (FRONT[: cut[0]] + cut[1] + FRONT[cut[0] + 1 :]).encode()
        ),
        st.tuples(st.integers(0, len(CARD)), st.text(max_size=5)).map(
            lambda cut: (CARD[: cut[0]] + cut[1] + CARD[cut[0] + 1 :]).encode()
        ),
    )
)
def test_any_bytes_make_a_card_or_a_list_of_faults(content: bytes) -> None:
    try:
        card = parse_card(content, path="card.md", known_tools=TOOLS)
    except CardRefused as refused:
        assert refused.problems  # noqa: PT017 - both outcomes are right
    else:
        assert card.system_prompt


def test_a_card_may_ask_for_no_more_than_a_run_may_be_given() -> None:
    text = (HERE.parents[1] / "supabase" / "migrations" / "20261123000400_pam_runs.sql").read_text()
    found = re.search(r"ceilings constant jsonb := '(\{.*?\})'", text)
    assert found
    for key, ceiling in json.loads(found[1]).items():
        assert CardLimits.model_validate({key: ceiling})
        with pytest.raises(ValidationError):
            CardLimits.model_validate({key: ceiling + 1})
