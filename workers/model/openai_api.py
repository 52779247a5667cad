"""What OpenAI's API does beside an agent's own conversation, in kernel/model_api's words, with one level of retries."""

import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

from workers.kernel.model_api import Asked, Embedded, Heard, Judgement, ModelApiFailed, Said, Spoken
from workers.kernel.prices import embedding_price, speech_price, token_price, transcription_price
from workers.model.estimate import estimated_tokens
from workers.model.failures import MalformedAnswer, ModelFailure, ModelTimeout
from workers.model.openai_wire import OpenAIModel
from workers.model.retry import Attempts, Retries

T = TypeVar("T")
_MAX_AUDIO_BYTES = 16_000_000
_FREE = Decimal(0)


class OpenAIApi:
    """One provider's doors. `names`: what embeds, moderates, transcribes and speaks.

    A failure is repeated while it cannot have been billed: the provider slowed us down, failed, or was not there.
    """

    def __init__(
        self,
        *,
        wire: OpenAIModel,
        base_url: str,
        models: tuple[str, ...],
        retries: Retries,
        embedding_model: str = "text-embedding-3-small",
        moderation_model: str = "omni-moderation-latest",
        transcription_model: str = "whisper-1",
        speech_model: str = "tts-1",
    ) -> None:
        self._wire = wire
        self._provider = urlsplit(base_url).netloc.rpartition("@")[2]
        self._models = models
        self._embedding_model = embedding_model
        self._moderation_model = moderation_model
        self._transcription_model = transcription_model
        self._speech_model = speech_model
        self._retries = retries

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

    async def chat(self, asked: Asked) -> Said:
        """Answer as `ModelApi.chat` says."""
        more: dict[str, Any] = {}
        if asked.schema is not None:
            shape = {"name": "answer", "schema": dict(asked.schema), "strict": False}
            more["response_format"] = {"type": "json_schema", "json_schema": shape}
        told: Any = [{"role": role, "content": text} for role, text in asked.messages]
        sent = sum(estimated_tokens(text) + 4 for _, text in asked.messages)
        sent_bytes = _bytes([text for _, text in asked.messages]) + (
            len(json.dumps(asked.schema)) if asked.schema else 0
        )
        most = token_price(asked.model, input_tokens=sent_bytes, output_tokens=asked.max_output_tokens)[0]
        answer = await self._repeated(
            asked.model,
            lambda client: client.chat.completions.create(
                model=asked.model, messages=told, max_completion_tokens=asked.max_output_tokens, **more
            ),
            lost_usd=token_price(asked.model, input_tokens=sent, output_tokens=0)[0],
            most_usd=most,
        )
        tokens = _counted(answer, "prompt_tokens", "completion_tokens")
        cost = token_price(asked.model, input_tokens=tokens[0], output_tokens=tokens[1])[0] if tokens else most
        said = _read(lambda: _said(answer, cost), cost_usd=cost)
        if tokens:
            return replace(said, input_tokens=tokens[0], output_tokens=tokens[1])
        written = estimated_tokens(said.text)
        cost = token_price(asked.model, input_tokens=sent, output_tokens=written)[0]
        return replace(said, cost_usd=cost, input_tokens=sent, output_tokens=written)

    async def embed(self, texts: Sequence[str], *, dimensions: int | None) -> Embedded:
        """Answer as `ModelApi.embed` says."""
        more: dict[str, Any] = {"dimensions": dimensions} if dimensions else {}
        sent, most = sum(map(estimated_tokens, texts)), embedding_price(_bytes(texts))
        answer = await self._repeated(
            self._embedding_model,
            lambda client: client.embeddings.create(
                model=self._embedding_model, input=list(texts), encoding_format="float", **more
            ),
            lost_usd=embedding_price(sent),
            most_usd=most,
        )
        tokens = _counted(answer, "prompt_tokens")
        cost = embedding_price(tokens[0]) if tokens else most
        vectors = _read(lambda: _vectors(answer, len(texts), cost), cost_usd=cost)
        return Embedded(vectors, cost if tokens else embedding_price(sent))

    async def moderate(self, texts: Sequence[str]) -> tuple[Judgement, ...]:
        """Answer as `ModelApi.moderate` says."""
        answer = await self._repeated(
            self._moderation_model,
            lambda client: client.moderations.create(model=self._moderation_model, input=list(texts)),
            lost_usd=_FREE,
            most_usd=_FREE,
        )
        return _read(lambda: _judgements(answer, len(texts)), cost_usd=_FREE)

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
            most_usd=longest,
        )
        seconds = getattr(getattr(answer, "usage", None), "seconds", None)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            seconds = None
        cost = longest if seconds is None else transcription_price(seconds)
        return Heard(_read(lambda: _text(answer.text or ""), cost_usd=cost), seconds, cost)

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
            most_usd=cost,
        )
        content, kind = answer.content, answer.response.headers.get("content-type", "")
        if not content or len(content) > _MAX_AUDIO_BYTES or kind.startswith(("application/json", "text/")):
            raise ModelApiFailed("The provider gave no recording that can be kept.", is_away=False, cost_usd=cost)
        return Spoken(content, cost)

    async def _repeated(
        self, name: str, request: Callable[[Any], Awaitable[T]], *, lost_usd: Decimal, most_usd: Decimal
    ) -> T:
        """The request, and again what cannot have been billed. Raises ModelApiFailed.

        `lost_usd` is charged when no answer came, `most_usd` when one came that cannot be read: that one is billed.
        """
        attempts = Attempts(self._retries)
        while True:
            try:
                async with attempts.time_left():
                    return await self._wire.ask(name, request)
            except TimeoutError:
                failure: ModelFailure = ModelTimeout(
                    f"The provider did not answer within {self._retries.total_seconds:g} s."
                )
            except ModelFailure as caught:
                failure = caught
            is_lost = isinstance(failure, (ModelTimeout, MalformedAnswer))
            billed_usd = most_usd if isinstance(failure, MalformedAnswer) else lost_usd
            pause_seconds = attempts.pause_seconds(failure)
            if is_lost or pause_seconds is None:
                raise ModelApiFailed(
                    str(failure),
                    is_away=failure.is_transient,
                    cost_usd=billed_usd if is_lost else _FREE,
                    origin=f"model {name}" if failure.is_quoting else None,
                ) from None
            await self._retries.sleep(pause_seconds)


def _read(read: Callable[[], T], *, cost_usd: Decimal) -> T:
    """What an answer says. The client builds its objects unchecked: what is odd about them comes to light here.

    Raises ModelApiFailed with this cost: an answer came, and it is billed.
    """
    try:
        return read()
    except (AttributeError, TypeError, ValueError, KeyError, IndexError):
        sentence = "The provider answered in a shape that we do not know."
    raise ModelApiFailed(sentence, is_away=True, cost_usd=cost_usd)


def _counted(answer: Any, *names: str) -> tuple[int, ...] | None:
    """These numbers of an answer's usage, None unless all are there."""
    usage = getattr(answer, "usage", None)
    found = [getattr(usage, name, None) for name in names]
    counts = tuple(each for each in found if isinstance(each, int) and not isinstance(each, bool) and each >= 0)
    return counts if len(counts) == len(names) else None


def _bytes(texts: Sequence[str]) -> int:
    """No text has more tokens than bytes; a message has some around it."""
    return sum(len(text.encode(errors="replace")) + 16 for text in texts)


def _said(answer: Any, cost: Decimal) -> Said:
    choice = answer.choices[0] if answer.choices else None
    message = choice.message if choice else None
    text = _text(message.content or message.refusal or "") if message else ""
    if choice is None or message is None or (not text and choice.finish_reason == "stop"):
        raise ModelApiFailed("The model gave an empty answer.", is_away=False, cost_usd=cost)
    is_refused = bool(message.refusal) or choice.finish_reason == "content_filter"
    return Said(text, cost, 0, 0, is_cut=choice.finish_reason == "length", is_refused=is_refused)


def _text(told: Any) -> str:
    if not isinstance(told, str):
        raise TypeError("no text")
    return told


def _vectors(answer: Any, count: int, cost: Decimal) -> tuple[tuple[float, ...], ...]:
    found = sorted(answer.data or [], key=lambda each: int(each.index))
    vectors = tuple(tuple(map(float, each.embedding)) for each in found)
    if [each.index for each in found] != list(range(count)) or not all(map(_is_finite, vectors)):
        raise ModelApiFailed("The provider gave other vectors than one a text.", is_away=False, cost_usd=cost)
    return vectors


def _judgements(answer: Any, count: int) -> tuple[Judgement, ...]:
    if len(answer.results or []) != count:
        raise ModelApiFailed("The provider gave other judgements than one a text.", is_away=False)
    return tuple(Judgement(each.flagged, _scores(each.category_scores)) for each in answer.results)


def _scores(told: Any) -> dict[str, float]:
    return {name: float(score) for name, score in dict(told).items() if score is not None}


def _is_finite(vector: tuple[float, ...]) -> bool:
    return bool(vector) and all(map(math.isfinite, vector))
