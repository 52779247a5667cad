"""The limits of a run, on by default: steps, tokens, money, and time. Asked before each model call; what it shares with
other runs the database knows (workers/kernel/ledger/steps.begin)."""

import random
from collections.abc import Sequence
from decimal import Decimal

from workers.agent.decisions import Stop
from workers.kernel.ledger.runs import Run
from workers.model.prices import cost_of
from workers.model.protocol import LEAST_OUTPUT_TOKENS, Allowance, Usage

MAX_OUTPUT_TOKENS = 8_192


def wait_seconds(run: Run) -> float:
    """How long a run waits for what others hold of a budget: they are at work, so that it is soon known."""
    return min(2.0 * 1.3**run.pauses, 60.0) * random.uniform(1.0, 1.25)  # noqa: S311 - not all runs at once


def pause_seconds(run: Run, asked: float | None) -> float:
    """How long a run waits for a model that is away: first what was asked for, then ever longer, up to 300 s.

    Twenty such waits are more than half an hour, whatever is asked for: a run outlives an outage, not only a hiccup.
    """
    wait = 15.0 * 2**run.pauses if asked is None else max(asked, 1.0) * 1.5**run.pauses
    return min(wait, 300.0) * random.uniform(1.0, 1.25)  # noqa: S311 - not all runs at once


def allowance(run: Run, *, models: Sequence[str], estimated_input_tokens: int) -> Allowance | Stop:
    """What the next call may use so that the run passes no limit, whichever model answers, or why there is none."""
    if run.steps >= run.max_steps:
        return Stop("max_steps", f"The run reached its limit of {run.max_steps} steps.")
    tokens_left = run.max_tokens - run.input_tokens - run.output_tokens - estimated_input_tokens
    if tokens_left < LEAST_OUTPUT_TOKENS:
        return Stop("max_tokens", f"The run reached its limit of {run.max_tokens:,} tokens.")
    money_left = run.max_cost_usd - run.cost_usd
    input_usd = max(_price(model, estimated_input_tokens, 0) for model in models)
    output_usd = max(_price(model, 0, 1_000) for model in models) / 1_000
    affordable = int((money_left - input_usd) / output_usd) if output_usd > 0 else MAX_OUTPUT_TOKENS
    if affordable < LEAST_OUTPUT_TOKENS:
        return Stop("max_cost", f"The run reached its limit of ${run.max_cost_usd.normalize():f}.")
    return Allowance(
        output_tokens=min(MAX_OUTPUT_TOKENS, tokens_left, affordable),
        input_tokens=estimated_input_tokens,
        total_tokens=tokens_left + estimated_input_tokens,
        total_usd=money_left,
        input_usd=input_usd,
        output_usd=output_usd,
    )


def _price(model: str, input_tokens: int, output_tokens: int) -> Decimal:
    return cost_of(Usage(input_tokens=input_tokens, output_tokens=output_tokens), model=model).usd
