"""What OpenAI's API does beside an agent's own conversation, in kernel/model_api's words, with one level of retries."""

import asyncio
import functools
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from workers.kernel.model_api import Embedded, Heard, Judgement, ModelApiFailed, Said, Spoken
from workers.kernel.prices import embedding_price, speech_price, token_price, transcription_price
from workers.model.estimate import estimated_tokens
from workers.model.failures import MalformedAnswer, ModelFailure, ModelTimeout
from workers.model.openai_wire import OpenAIModel

T = TypeVar("T")
P = ParamSpec("P")
_MAX_AUDIO_BYTES = 16_000_000
_FREE = Decimal(0)


def _in_a_known_shape(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The client builds its objects unchecked: what is not as it should be comes to light when it is read."""

    @functools.wraps(call)
    async def read(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except (AttributeError, TypeError, ValueError, KeyError, IndexError):
            sentence = "The provider answered in a shape that we do not know."
        raise ModelApiFailed(sentence, is_away=True)

    return read


class OpenAIApi:
    """One provider's doors. `names`: what embeds, moderates, transcribes and speaks.

    A failure is repeated while it cannot have been billed (the provider slowed us down, failed, or was not there),
    after a pause with full jitter; all of a call ends within `total_seconds`.
    """

    def __init__(
        self,
        *,
        wire: OpenAIModel,
        base_url: str,
        models: tuple[str, ...],
        embedding_model: str = "text-embedding-3-small",
        moderation_model: str = "omni-moderation-latest",
        transcription_model: str = "whisper-1",
        speech_model: str = "tts-1",
        max_attempts: int = 3,
        total_seconds: float = 100,
        base_pause_seconds: float = 0.5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._wire = wire
        self._provider = urlsplit(base_url).netloc.rpartition("@")[2]
        self._models = models
        self._embedding_model = embedding_model
        self._moderation_model = moderation_model
        self._transcription_model = transcription_model
        self._speech_model = speech_model
        self._max_attempts = max_attempts
        self._total_seconds = total_seconds
        self._base_pause_seconds = base_pause_seconds
        self._sleep = sleep

    @property
    def provider(self) -> str:
        """Its host, as the breaker knows it."""
        return self._provider

    @property
    def models(self) -> tuple[str, ...]:
        """The models that a chat may name."""
        return self._models

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()

    @_in_a_known_shape
    async def chat(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        model: str,
        max_output_tokens: int,
        schema: Mapping[str, Any] | None = None,
    ) -> Said:
        """Answer as `ModelApi.chat` says."""
        more: dict[str, Any] = {}
        if schema is not None:
            shape = {"name": "answer", "schema": dict(schema), "strict": False}
            more["response_format"] = {"type": "json_schema", "json_schema": shape}
        told: Any = [{"role": role, "content": text} for role, text in messages]
        sent = sum(estimated_tokens(text) + 4 for _, text in messages)
        price = token_price(model, input_tokens=sent, output_tokens=0)[0]
        answer = await self._repeated(
            model,
            lambda client: client.chat.completions.create(
                model=model, messages=told, max_completion_tokens=max_output_tokens, **more
            ),
            lost_usd=price,
        )
        usage = answer.usage
        choice = answer.choices[0] if answer.choices else None
        message = choice.message if choice else None
        text = (message.content or message.refusal or "") if message else ""
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (sent, estimated_tokens(text))
        cost = token_price(model, input_tokens=tokens[0], output_tokens=tokens[1])[0]
        if choice is None or message is None or (not text and choice.finish_reason == "stop"):
            raise ModelApiFailed("The model gave an empty answer.", is_away=False, cost_usd=cost)
        is_refused = bool(message.refusal) or choice.finish_reason == "content_filter"
        is_cut = choice.finish_reason == "length"
        return Said(text, cost, tokens[0], tokens[1], is_cut=is_cut, is_refused=is_refused)

    @_in_a_known_shape
    async def embed(self, texts: Sequence[str], *, dimensions: int | None) -> Embedded:
        """Answer as `ModelApi.embed` says."""
        more: dict[str, Any] = {"dimensions": dimensions} if dimensions else {}
        sent = sum(map(estimated_tokens, texts))
        answer = await self._repeated(
            self._embedding_model,
            lambda client: client.embeddings.create(
                model=self._embedding_model, input=list(texts), encoding_format="float", **more
            ),
            lost_usd=embedding_price(sent),
        )
        cost = embedding_price(answer.usage.prompt_tokens if answer.usage else sent)
        found = sorted(answer.data or [], key=lambda each: each.index)
        vectors = tuple(tuple(map(float, each.embedding)) for each in found)
        if [each.index for each in found] != list(range(len(texts))) or not all(map(_is_finite, vectors)):
            raise ModelApiFailed("The provider gave other vectors than one a text.", is_away=False, cost_usd=cost)
        return Embedded(vectors, cost)

    @_in_a_known_shape
    async def moderate(self, texts: Sequence[str]) -> tuple[Judgement, ...]:
        """Answer as `ModelApi.moderate` says."""
        answer = await self._repeated(
            self._moderation_model,
            lambda client: client.moderations.create(model=self._moderation_model, input=list(texts)),
            lost_usd=_FREE,
        )
        if len(answer.results or []) != len(texts):
            raise ModelApiFailed("The provider gave other judgements than one a text.", is_away=False)
        return tuple(Judgement(each.flagged, _scores(each.category_scores)) for each in answer.results)

    @_in_a_known_shape
    async def transcribe(self, name: str, content: bytes, *, language: str | None) -> Heard:
        """Answer as `ModelApi.transcribe` says."""
        more: dict[str, Any] = {"language": language} if language else {}
        longest = transcription_price(len(content) / 1000)  # no format that is taken holds less than 8 kbit/s
        answer: Any = await self._repeated(
            self._transcription_model,
            lambda client: client.audio.transcriptions.create(
                model=self._transcription_model, file=(name, content), response_format="json", **more
            ),
            lost_usd=longest,
        )
        seconds = getattr(answer.usage, "seconds", None) if getattr(answer, "usage", None) else None
        cost = transcription_price(seconds) if isinstance(seconds, (int, float)) else longest
        return Heard(answer.text or "", seconds, cost)

    @_in_a_known_shape
    async def speak(self, text: str, *, voice: str, format: str) -> Spoken:
        """Answer as `ModelApi.speak` says."""
        cost = speech_price(len(text))
        shape: Any = format
        answer = await self._repeated(
            self._speech_model,
            lambda client: client.audio.speech.create(
                model=self._speech_model, input=text, voice=voice, response_format=shape
            ),
            lost_usd=cost,
        )
        content = answer.content
        if not content or len(content) > _MAX_AUDIO_BYTES:
            raise ModelApiFailed("The provider gave no recording that can be kept.", is_away=False, cost_usd=cost)
        return Spoken(content, cost)

    async def _repeated(self, name: str, request: Callable[[Any], Awaitable[T]], *, lost_usd: Decimal) -> T:
        """The request, and again what cannot have been billed. Raises ModelApiFailed; a lost answer is charged."""
        ends_at = time.monotonic() + self._total_seconds
        attempt = 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(ends_at - time.monotonic()):
                    return await self._wire.ask(name, request)
            except TimeoutError:
                failure: ModelFailure = ModelTimeout(f"The provider did not answer within {self._total_seconds:g} s.")
            except ModelFailure as caught:
                failure = caught
            is_lost = isinstance(failure, (ModelTimeout, MalformedAnswer))
            jitter = random.uniform(0, self._base_pause_seconds * 2 ** (attempt - 1))  # noqa: S311
            pause = (failure.retry_after_seconds or 0) + jitter
            is_over = attempt >= self._max_attempts or time.monotonic() + pause >= ends_at
            if is_lost or not failure.is_transient or is_over:
                raise ModelApiFailed(
                    str(failure), is_away=failure.is_transient, cost_usd=lost_usd if is_lost else _FREE
                ) from None
            await self._sleep(pause)


def _scores(told: Any) -> dict[str, float]:
    return {name: float(score) for name, score in dict(told).items() if score is not None}


def _is_finite(vector: tuple[float, ...]) -> bool:
    return bool(vector) and all(map(math.isfinite, vector))
