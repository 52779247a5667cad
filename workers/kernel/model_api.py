"""What a tool may ask of a model's provider beside the agent's own conversation, in our own words, and what it costs.

The tools speak to this; workers/model implements it, alone in knowing the provider.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol


class ModelApiFailed(Exception):
    """The provider gave no answer that can be used; one sentence, without a secret.

    `is_away`: the provider failed, not the request: it may work later, and the breaker counts it.
    `cost_usd`: what it has cost all the same. `origin`: whose words the sentence repeats, if it repeats any.
    """

    def __init__(
        self, sentence: str, *, is_away: bool, cost_usd: Decimal = Decimal(0), origin: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.is_away = is_away
        self.cost_usd = cost_usd
        self.origin = origin


@dataclass(frozen=True)
class Asked:
    """A conversation to be answered: (role, text) each. `schema`: the answer is JSON of it, as far as a model obeys."""

    messages: Sequence[tuple[str, str]]
    model: str
    max_output_tokens: int
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Said:
    """A text. `is_cut`: it met max_output_tokens; `is_refused`: the model said why it would not."""

    text: str
    cost_usd: Decimal
    input_tokens: int
    output_tokens: int
    is_cut: bool = False
    is_refused: bool = False


@dataclass(frozen=True)
class Embedded:
    """A vector for each text, in their order."""

    vectors: tuple[tuple[float, ...], ...]
    cost_usd: Decimal


@dataclass(frozen=True)
class Judgement:
    """Whether a text was flagged, and the score of each category between 0 and 1."""

    is_flagged: bool
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Heard:
    """The words of a recording, and its length if the provider told it."""

    text: str
    seconds: float | None
    cost_usd: Decimal


@dataclass(frozen=True)
class Spoken:
    """A recording of a text."""

    content: bytes
    cost_usd: Decimal


class ModelApi(Protocol):
    """A provider. Each call raises ModelApiFailed, retries by itself at one level, and ends within bounded time."""

    @property
    def provider(self) -> str:
        """Its host, as the breaker knows it."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """The models that a chat may name; the first is taken when none is named."""
        ...

    async def chat(self, asked: Asked) -> Said:
        """Answer a conversation."""
        ...

    async def embed(self, texts: Sequence[str], *, dimensions: int | None) -> Embedded:
        """A vector for each text."""
        ...

    async def moderate(self, texts: Sequence[str]) -> tuple[Judgement, ...]:
        """A judgement for each text; costs nothing."""
        ...

    async def transcribe(self, name: str, content: bytes, *, language: str | None) -> Heard:
        """The words of a recording; the name's ending says its format."""
        ...

    async def speak(self, text: str, *, voice: str, format: str) -> Spoken:
        """A recording of the text."""
        ...
