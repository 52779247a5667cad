"""What models cost in USD, from the price list that genai-prices carries in its package; no network."""

from decimal import Decimal

_MILLION = Decimal(1_000_000)

REHEARSAL_PREFIX = "rehearsal"
REHEARSAL_INPUT_USD_PER_MILLION = Decimal("0.25")
REHEARSAL_OUTPUT_USD_PER_MILLION = Decimal("2.00")

# A model that the list does not know may be anything: it is counted dearer than the large chat models of
# the list, so that a money limit on it closes early rather than never.
UNKNOWN_INPUT_USD_PER_MILLION = Decimal("30")
UNKNOWN_OUTPUT_USD_PER_MILLION = Decimal("180")

# The list has none of these; the dearest of OpenAI's own models stands for all (openai.com/api/pricing, 2026-11).
EMBEDDING_USD_PER_MILLION = Decimal("0.13")
TRANSCRIPTION_USD_PER_MINUTE = Decimal("0.006")
SPEECH_USD_PER_MILLION_CHARACTERS = Decimal("30")


def token_price(
    model: str, *, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0
) -> tuple[Decimal, bool]:
    """Dollars for a call's tokens, and whether the model stands in the list. Cached input counts within the input.

    The first call reads the list (about 0.2 s beside openai, 0.5 s alone): a worker asks once at its start.
    """
    if model.startswith(REHEARSAL_PREFIX):
        rates = REHEARSAL_INPUT_USD_PER_MILLION, REHEARSAL_OUTPUT_USD_PER_MILLION
        return _flat(input_tokens, output_tokens, *rates), True
    # Imported late: the package loads an HTTP client, for updates that we never ask for (0.35 s).
    import genai_prices

    tokens = genai_prices.Usage(
        input_tokens=input_tokens,
        cache_read_tokens=min(cached_input_tokens, input_tokens),
        output_tokens=output_tokens,
    )
    try:
        return genai_prices.calc_price(tokens, model).total_price, True
    except LookupError:
        rates = UNKNOWN_INPUT_USD_PER_MILLION, UNKNOWN_OUTPUT_USD_PER_MILLION
        return _flat(input_tokens, output_tokens, *rates), False


def embedding_price(tokens: int) -> Decimal:
    """Dollars for embedding so many tokens."""
    return tokens * EMBEDDING_USD_PER_MILLION / _MILLION


def transcription_price(seconds: float) -> Decimal:
    """Dollars for listening to so many seconds."""
    return Decimal(str(seconds)) * TRANSCRIPTION_USD_PER_MINUTE / 60


def speech_price(characters: int) -> Decimal:
    """Dollars for speaking so many characters."""
    return characters * SPEECH_USD_PER_MILLION_CHARACTERS / _MILLION


def _flat(input_tokens: int, output_tokens: int, input_usd: Decimal, output_usd: Decimal) -> Decimal:
    return (input_tokens * input_usd + output_tokens * output_usd) / _MILLION
