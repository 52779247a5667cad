"""What a call costs in USD, from the price list that genai-prices carries in its package; no network."""

from dataclasses import dataclass
from decimal import Decimal

from workers.model.protocol import Usage

_MILLION = Decimal(1_000_000)

REHEARSAL_PREFIX = "rehearsal"
REHEARSAL_INPUT_USD_PER_MILLION = Decimal("0.25")
REHEARSAL_OUTPUT_USD_PER_MILLION = Decimal("2.00")

# A model that the list does not know may be anything: it is counted dearer than the large chat models of
# the list, so that a money limit on it closes early rather than never.
UNKNOWN_INPUT_USD_PER_MILLION = Decimal("30")
UNKNOWN_OUTPUT_USD_PER_MILLION = Decimal("180")


@dataclass(frozen=True)
class Cost:
    """US dollars, exact; `is_known` is false if the model stands in no list and the high price was taken."""

    usd: Decimal
    is_known: bool


def cost_of(usage: Usage, *, model: str) -> Cost:
    """The price of one call. Cached input is cheaper only where the list says so.

    The first call reads the list (about 0.2 s beside openai, 0.5 s alone): a worker asks once at its start.
    """
    if model.startswith(REHEARSAL_PREFIX):
        return Cost(_flat(usage, REHEARSAL_INPUT_USD_PER_MILLION, REHEARSAL_OUTPUT_USD_PER_MILLION), is_known=True)
    # Imported late: the package loads an HTTP client, for updates that we never ask for (0.35 s).
    import genai_prices

    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=min(usage.cached_input_tokens, usage.input_tokens),
        output_tokens=usage.output_tokens,
    )
    try:
        return Cost(genai_prices.calc_price(tokens, model).total_price, is_known=True)
    except LookupError:
        return Cost(_flat(usage, UNKNOWN_INPUT_USD_PER_MILLION, UNKNOWN_OUTPUT_USD_PER_MILLION), is_known=False)


def _flat(usage: Usage, input_usd: Decimal, output_usd: Decimal) -> Decimal:
    return (usage.input_tokens * input_usd + usage.output_tokens * output_usd) / _MILLION
