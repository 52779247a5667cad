"""The limits of a run, on by default: steps, tokens, money, and time. Asked before each model call."""

from dataclasses import dataclass
from decimal import Decimal

from workers.agent.decisions import Stop
from workers.kernel.ledger.runs import Run
from workers.model.prices import cost_of
from workers.model.protocol import Usage

MAX_OUTPUT_TOKENS = 8_192
_LEAST_OUTPUT_TOKENS = 128


@dataclass(frozen=True)
class Allowance:
    """How much the next model call may write."""

    max_output_tokens: int


def allowance(run: Run, *, model: str, estimated_input_tokens: int) -> Allowance | Stop:
    """What the next call may spend so that no limit is passed, or why there is no next call."""
    if run.steps >= run.max_steps:
        return Stop("max_steps", f"The run reached its limit of {run.max_steps} steps.")
    tokens_left = run.max_tokens - run.input_tokens - run.output_tokens - estimated_input_tokens
    if tokens_left < _LEAST_OUTPUT_TOKENS:
        return Stop("max_tokens", f"The run reached its limit of {run.max_tokens:,} tokens.")
    money_left = run.max_cost_usd - run.cost_usd - _price(model, estimated_input_tokens, 0)
    per_thousand = _price(model, 0, 1_000)
    affordable = int(money_left / per_thousand * 1_000) if per_thousand > 0 else MAX_OUTPUT_TOKENS
    if affordable < _LEAST_OUTPUT_TOKENS:
        return Stop("max_cost", f"The run reached its limit of ${run.max_cost_usd.normalize():f}.")
    return Allowance(min(MAX_OUTPUT_TOKENS, tokens_left, affordable))


def _price(model: str, input_tokens: int, output_tokens: int) -> Decimal:
    return cost_of(Usage(input_tokens=input_tokens, output_tokens=output_tokens), model=model).usd
