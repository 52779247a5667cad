"""What a secret looks like when it comes back: every spelling of the two words that one might be."""

import pytest

from workers.outbound.redaction import Redaction

SECRET = "two words/one"


@pytest.mark.parametrize(
    "spelling",
    [
        "two words/one",
        "TWO WORDS/ONE",
        "two%20words%2Fone",
        "two%20words%2fone",
        "two%20words/one",
        "two+words%2Fone",
        "two words\\/one",
    ],
)
def test_every_spelling_is_taken_out(spelling: str) -> None:
    redaction = Redaction([SECRET])
    assert redaction.text(f"({spelling}) and {spelling}") == "([redacted]) and [redacted]"
    assert redaction.header(spelling) == "[redacted]"
    assert redaction.content(b"\xff" + spelling.encode()) == b"\xff[redacted]"


def test_a_short_secret_is_taken_out_as_it_is_and_nothing_is_where_there_is_none() -> None:
    assert Redaction(["pin7"]).text("a pin7 b") == "a [redacted] b"
    assert Redaction(["", "x" * 40]).text("as it was\ud800") == "as it was?"
    assert Redaction([]).text("as it was\ud800") == "as it was\ud800"


def test_of_two_secrets_that_overlap_nothing_stays_behind() -> None:
    redaction = Redaction(["token-long-form", "token-long-form-and-more"])
    assert redaction.text("token-long-form-and-more token-long-form") == "[redacted] [redacted]"
