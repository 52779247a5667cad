"""Every mutation still finds what it would take away, so that none grows stale between two long runs of them."""

import re

from infra.mutations.listed import MUTATIONS, TARGETS
from infra.mutations.mutation import Edit
from infra.mutations.run import is_wanted
from tests.house.tree import ROOT


def body_of(function: str) -> str:
    """The text of a SQL function as the newest migration tells it."""
    migrations = "\n".join(path.read_text() for path in sorted((ROOT / "supabase" / "migrations").glob("*.sql")))
    told = re.split(rf"create (?:or replace )?function {re.escape(function)}\(", migrations)
    assert len(told) > 1, f"there is no function {function}"
    return told[-1].partition("$$;")[0]


def test_every_text_that_a_mutation_replaces_stands_there_once() -> None:
    edits = [(m.name, m.change) for m in MUTATIONS if isinstance(m.change, Edit)]
    wrong = {name: found for name, edit in edits if (found := (ROOT / edit.file).read_text().count(edit.old)) != 1}
    assert len(edits) > 80
    assert wrong == {}


def test_every_check_that_a_mutation_takes_out_of_a_function_stands_there() -> None:
    counts = [(f"{t.function}: {t.old}", t.times, body_of(t.function).count(t.old)) for t in TARGETS]
    wrong = {name: found for name, times, found in counts if found != times}
    assert len(TARGETS) > 70
    assert wrong == {}


def test_every_mutation_has_a_name_of_its_own_and_tests_that_are_there() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert sorted(names) == sorted(set(names))
    paths = {word for mutation in MUTATIONS for word in mutation.tests if word.startswith("tests/")}
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_words_pick_mutations_by_name_or_from_a_number_on() -> None:
    assert is_wanted(1, "policy dropped: pam.runs", [])
    assert is_wanted(1, "policy dropped: pam.runs", ["grant", "policy"])
    assert not is_wanted(1, "policy dropped: pam.runs", ["grant"])
    assert [is_wanted(number, "x", ["7.."]) for number in (6, 7, 8)] == [False, True, True]
    assert not is_wanted(7, "x", ["..7"])
