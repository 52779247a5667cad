"""What is left for a further attempt of a call, when broken ones have used some of it."""

from decimal import Decimal

from workers.model.protocol import Allowance, Usage

CALL = Allowance(
    output_tokens=4_000,
    input_tokens=1_000,
    total_tokens=8_000,
    total_usd=Decimal("0.10"),
    input_usd=Decimal("0.01"),
    output_usd=Decimal("0.00001"),
)


def lost(input_tokens: int, output_tokens: int) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens)


def test_nothing_lost_leaves_everything() -> None:
    assert CALL.after(None) is CALL


def test_tokens_that_were_lost_are_not_to_be_had_again() -> None:
    left = CALL.after(lost(1_000, 3_000))
    assert left is not None
    assert (left.output_tokens, left.total_tokens) == (3_000, 4_000)
    again = left.after(lost(1_000, 1_000))
    assert again is not None
    assert again.output_tokens == 1_000
    assert CALL.after(lost(1_000, 5_900)) is None, "fewer than 128 tokens are no answer"


def test_money_that_was_lost_is_not_to_be_had_again() -> None:
    cheap = Allowance(4_000, 1_000, None, Decimal("0.05"), Decimal("0.01"), Decimal("0.00001"))
    left = cheap.after(lost(1_000, 1_000))  # $0.02 are gone, and $0.01 go for the input
    assert left is not None
    assert (left.output_tokens, left.total_usd) == (2_000, Decimal("0.03"))
    assert cheap.after(lost(1_000, 2_900)) is None


def test_what_was_reserved_for_one_attempt_is_all_there_is() -> None:
    only = CALL.within(500, is_all=True)
    assert (only.output_tokens, only.total_tokens, only.total_usd) == (500, 1_500, Decimal("0.015"))
    assert only.after(lost(1_000, 10)) is None
    assert CALL.within(500, is_all=False).after(lost(1_000, 10)) is not None


def test_what_is_not_bounded_is_not_used_up() -> None:
    assert Allowance(50).after(lost(10**9, 10**9)) is not None
