"""What one call to a model costs, by its usage."""

from dataclasses import dataclass
from decimal import Decimal

from workers.kernel.prices import token_price
from workers.model.protocol import Usage


@dataclass(frozen=True)
class Cost:
    """US dollars, exact; `is_known` is false if the model stands in no list and the high price was taken."""

    usd: Decimal
    is_known: bool


def cost_of(usage: Usage, *, model: str) -> Cost:
    """The price of one call. Cached input is cheaper only where the list says so."""
    return Cost(
        *token_price(
            model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
        )
    )
