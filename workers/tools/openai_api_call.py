"""Ask a model's provider: a text, an answer of a shape, vectors, a judgement, the words of a recording, a recording."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from workers.kernel.errors import Refused
from workers.kernel.ledger import files
from workers.kernel.ledger.tool_calls import CallEffect
from workers.kernel.model_api import Asked, ModelApi, ModelApiFailed, Said
from workers.kernel.prices import embedding_price, speech_price, token_price, transcription_price
from workers.kernel.workspace import FileContent
from workers.tools import answer_schema, workspace_path
from workers.tools.answer_schema import SchemaRefused
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Arguments, Shown, Tool, ToolContext, ToolResult

T = TypeVar("T")
AUDIO = ("flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav", "webm")
MAX_AUDIO_BYTES = 25_000_000
MAX_CHARACTERS = 200_000
MAX_RESULT_CHARACTERS = 4_000_000
_LEAST_BYTES_A_SECOND = 1_000  # no format that is taken holds less than 8 kbit/s
_REPAIR_TOKENS = 2_000

Line = Annotated[str, Field(min_length=1, max_length=100_000)]


class Message(Arguments):
    """One message of the conversation to answer."""

    role: Literal["system", "user", "assistant"]
    content: Line


class Args(Arguments):
    """What to do, and with what."""

    action: Literal["chat", "structured", "embeddings", "moderation", "transcription", "speech"]
    messages: Annotated[list[Message], Field(max_length=50)] = Field(
        default=[], description="chat, structured: the conversation; it does not know yours, so say all it needs"
    )
    json_schema: dict[str, Any] | None = Field(
        default=None,
        description="structured: JSON schema (Draft 2020-12, type object, no pattern, no uniqueItems) of the answer",
    )
    model: str | None = Field(default=None, max_length=100, description="chat, structured: not the usual model")
    max_output_tokens: int = Field(default=1_000, ge=1, le=16_000, description="chat, structured: length of the answer")
    texts: Annotated[list[Line], Field(max_length=256)] = Field(
        default=[], description="embeddings, moderation: up to 256 texts"
    )
    dimensions: int | None = Field(default=None, ge=8, le=3_072, description="embeddings: length of a vector")
    path: str | None = Field(
        default=None, description="transcription: workspace file to hear; speech: workspace file to write"
    )
    language: str | None = Field(default=None, pattern=r"^[a-z]{2}$", description="transcription: language, e.g. de")
    max_minutes: int = Field(default=20, ge=1, le=420, description="transcription: refuse what may be longer")
    text: str | None = Field(default=None, min_length=1, max_length=4_096, description="speech: what to say")
    version: int | None = Field(
        default=None, ge=1, description="speech: the version of the recording to overwrite; leave out for a new file"
    )
    voice: Literal["alloy", "ash", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer"] = "alloy"


# What each action needs, and what it may have besides.
_TAKES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "chat": (frozenset({"messages"}), frozenset({"model", "max_output_tokens"})),
    "structured": (frozenset({"messages", "json_schema"}), frozenset({"model", "max_output_tokens"})),
    "embeddings": (frozenset({"texts"}), frozenset({"dimensions"})),
    "moderation": (frozenset({"texts"}), frozenset()),
    "transcription": (frozenset({"path"}), frozenset({"language", "max_minutes"})),
    "speech": (frozenset({"path", "text"}), frozenset({"voice", "version"})),
}

# Of these, what goes to the provider beside the texts themselves.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "chat": ("model", "max_output_tokens"),
    "structured": ("model", "max_output_tokens"),
    "embeddings": ("dimensions",),
    "moderation": (),
    "transcription": ("language",),
    "speech": ("voice",),
}


async def run(args: Args, context: ToolContext) -> ToolResult:
    """The answer, with what it cost; nothing is sent that the arguments do not hold."""
    _check(args)
    match args.action:
        case "chat":
            return await _chat(args, context)
        case "structured":
            return await _structured(args, context)
        case "embeddings":
            return await _embeddings(args, context)
        case "moderation":
            return await _moderation(args, context)
        case "transcription":
            return await _transcription(args, context)
        case "speech":
            return await _speech(args, context)


async def show(args: Args, context: ToolContext) -> Shown:
    """Everything that would leave the house, word by word."""
    _check(args)
    return Shown("\n".join(await _leaving(args, context)))


async def _leaving(args: Args, context: ToolContext) -> list[str]:
    """What would be sent, the provider and all settings first."""
    api = context.services.model_api
    settings: dict[str, Any] = {name: getattr(args, name) for name in _SETTINGS[args.action]}
    if "model" in settings:
        settings["model"] = _model(args, api)
    told = ", ".join([args.action, *(f"{name} {value}" for name, value in settings.items() if value is not None)])
    head = f"Send to {api.provider} ({told})"
    match args.action:
        case "transcription":
            file = await _recording(args, context)
            return [f"{head}: the recording {args.path}, version {file.version}, {file.size_bytes:,} bytes"]
        case "speech":
            path, _, replaced = await _place(args, context)
            over = f", over its version {replaced}" if replaced else ""
            return [f"{head}, and write the recording to {path}{over}:", args.text or ""]
        case "embeddings" | "moderation":
            return [f"{head}: {len(args.texts)} texts", *args.texts]
        case _:
            shape = [f"json_schema: {_written(await _schema(args))}"] if args.json_schema is not None else []
            return [f"{head}:", *(f"{each.role}: {each.content}" for each in args.messages), *shape]


def _written(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, indent=1)


def ceiling_usd(args: Args, *, model: str = "") -> Decimal:
    """The most that a call can cost. A token is a byte at least; `model` is taken where the call names none."""
    name = args.model or model
    match args.action:
        case "chat":
            return token_price(name, input_tokens=_bytes(args), output_tokens=args.max_output_tokens)[0]
        case "structured":
            again = 2 * _bytes(args) + args.max_output_tokens + _REPAIR_TOKENS
            return token_price(name, input_tokens=again, output_tokens=2 * args.max_output_tokens)[0]
        case "embeddings":
            return embedding_price(_bytes(args))
        case "moderation":
            return Decimal(0)
        case "transcription":
            return transcription_price(args.max_minutes * 60)
        case "speech":
            return speech_price(len(args.text or ""))


def priced(tools: tuple[Tool, ...], *, model: str) -> tuple[Tool, ...]:
    """The tools, with this one knowing which model is the usual."""
    own = replace(TOOL, ceiling_usd=partial(ceiling_usd, model=model))
    return tuple(own if tool is TOOL else tool for tool in tools)


def _bytes(args: Args) -> int:
    pieces = [each.content for each in args.messages] + args.texts
    schema = len(json.dumps(args.json_schema)) if args.json_schema else 0
    return sum(len(piece.encode(errors="replace")) + 16 for piece in pieces) + schema


def _check(args: Args) -> None:
    """Whether the arguments belong to the action. Raises ToolRetry."""
    needs, may = _TAKES[args.action]
    given = {name for name in args.model_fields_set - {"action"} if getattr(args, name) not in (None, [])}
    if missing := needs - given:
        raise ToolRetry(f"{args.action} needs {' and '.join(sorted(missing))}.")
    if odd := given - needs - may:
        raise ToolRetry(f"{', '.join(sorted(odd))} does not belong to {args.action}.")
    if _bytes(args) > MAX_CHARACTERS * 4 or sum(len(each.content) for each in args.messages) > MAX_CHARACTERS:
        raise ToolRetry(f"All messages together may hold {MAX_CHARACTERS:,} characters: send less.")
    if args.messages and args.messages[-1].role != "user":
        raise ToolRetry("The last message is the user's: it is what gets answered.")


def _model(args: Args, api: ModelApi) -> str:
    name = args.model or api.models[0]
    if name not in api.models:
        raise ToolRefused(f"The model {name[:60]!r} is not among those allowed here: {', '.join(api.models)}.")
    return name


async def _schema(args: Args) -> dict[str, Any]:
    try:
        return await asyncio.to_thread(answer_schema.checked, args.json_schema or {})
    except SchemaRefused as refusal:
        raise ToolRetry(str(refusal)) from None


async def _asked(context: ToolContext, work: Awaitable[T], *, spent: Decimal = Decimal(0)) -> T:
    """One request behind the breaker of this organisation and provider. Raises ToolRetry with what it has cost."""
    api, breaker = context.services.model_api, context.services.breaker
    wait = await breaker.enter(context.org_id, api.provider)
    if wait > 0:
        _drop(work)
        raise ToolRetry(f"{api.provider} has failed again and again: try it again in {wait:.0f} s.", cost_usd=spent)
    try:
        answer = await work
    except ModelApiFailed as failure:
        if failure.is_away:
            await breaker.failed(context.org_id, api.provider)
        else:
            await breaker.succeeded(context.org_id, api.provider)
        raise ToolRetry(str(failure), cost_usd=spent + failure.cost_usd, origin=failure.origin) from None
    await breaker.succeeded(context.org_id, api.provider)
    return answer


def _drop(work: Awaitable[Any]) -> None:
    close: Callable[[], None] | None = getattr(work, "close", None)
    if close:
        close()


async def _chat(args: Args, context: ToolContext) -> ToolResult:
    api = context.services.model_api
    model = _model(args, api)
    messages = [(each.role, each.content) for each in args.messages]
    said = await _asked(context, api.chat(Asked(messages, model, args.max_output_tokens)))
    tail = ""
    if said.is_refused:
        raise _refusal(said, model, cost_usd=said.cost_usd)
    if said.is_cut:
        tail = f"\n[cut at {args.max_output_tokens:,} tokens: ask for more, or for less]"
    return ToolResult(said.text + tail, origin=f"model {model}", cost_usd=said.cost_usd)


async def _structured(args: Args, context: ToolContext) -> ToolResult:
    """Ask, hold the answer against the schema, and once more with what was wrong."""
    api = context.services.model_api
    model = _model(args, api)
    schema = await _schema(args)
    messages = [(each.role, each.content) for each in args.messages]
    spent, wrong = Decimal(0), [""]
    for _ in range(2):
        asked = Asked(messages, model, args.max_output_tokens, schema)
        said: Said = await _asked(context, api.chat(asked), spent=spent)
        spent += said.cost_usd
        if said.is_refused:
            raise _refusal(said, model, cost_usd=spent)
        if said.is_cut:
            raise ToolRetry(f"The answer did not fit into {args.max_output_tokens:,} tokens.", cost_usd=spent)
        wrong = await asyncio.to_thread(answer_schema.faults, said.text, schema)
        if not wrong:
            return ToolResult(said.text, origin=f"model {model}", cost_usd=spent)
        told = "\n".join(wrong)[:_REPAIR_TOKENS]
        messages = [
            *messages,
            ("assistant", said.text),
            ("user", f"Your answer does not fit the schema. Answer again, with nothing but JSON that does:\n{told}"),
        ]
    told = "; ".join(wrong)[:1_000]
    why = f"{model} gave no answer of this schema, twice. At last: {told}"
    raise ToolRetry(why, cost_usd=spent, origin=f"model {model}")


def _refusal(said: Said, model: str, *, cost_usd: Decimal) -> ToolRetry:
    """The other model's words, as such: they are data like its answer."""
    words = said.text[:2_000]
    why = f"{model} refused: {words or 'without a word'}"
    return ToolRetry(why, cost_usd=cost_usd, origin=f"model {model}" if words else None)


async def _embeddings(args: Args, context: ToolContext) -> ToolResult:
    api = context.services.model_api
    found = await _asked(context, api.embed(args.texts, dimensions=args.dimensions))
    vectors = [[round(number, 6) for number in vector] for vector in found.vectors]
    text = "\n".join(json.dumps(vector, separators=(",", ":")) for vector in vectors)
    if len(text) > MAX_RESULT_CHARACTERS:
        why = "The vectors do not fit into one result: send fewer texts, or ask for fewer dimensions."
        raise ToolRetry(why, cost_usd=found.cost_usd)
    head = f"{len(vectors)} vectors of {len(vectors[0])} numbers, one a line in the order of the texts"
    return ToolResult(f"{head}\n{text}", cost_usd=found.cost_usd)


async def _moderation(args: Args, context: ToolContext) -> ToolResult:
    judged = await _asked(context, context.services.model_api.moderate(args.texts))
    lines = []
    for place, each in enumerate(judged, start=1):
        scores = {name: round(score, 4) for name, score in each.scores.items()}
        lines.append(json.dumps({"text": place, "flagged": each.is_flagged, "scores": scores}))
    flagged = sum(each.is_flagged for each in judged)
    return ToolResult("\n".join([f"{flagged} of {len(judged)} texts are flagged", *lines]))


async def _recording(args: Args, context: ToolContext) -> FileContent:
    """The file to hear. Raises ToolRetry when it is none."""
    path = workspace_path.checked(args.path or "")
    if path.rpartition(".")[2].lower() not in AUDIO:
        raise ToolRetry(f"The name of a recording ends in one of {', '.join(AUDIO)}.")
    try:
        file = await context.services.workspace.read(context.hold, context.org_id, path)
    except Refused as refusal:
        raise ToolRetry(f"There is no file {path}.") from refusal
    if not 0 < file.size_bytes <= MAX_AUDIO_BYTES:
        raise ToolRetry(f"A recording holds 1 to {MAX_AUDIO_BYTES:,} bytes; {path} has {file.size_bytes:,}.")
    if file.size_bytes > args.max_minutes * 60 * _LEAST_BYTES_A_SECOND:
        raise ToolRetry(f"{path} may be longer than {args.max_minutes} minutes: give a higher max_minutes.")
    return file


async def _transcription(args: Args, context: ToolContext) -> ToolResult:
    file = await _recording(args, context)
    name = file.path.rpartition("/")[2]
    work = context.services.model_api.transcribe(name, file.content, language=args.language)
    heard = await _asked(context, work)
    return ToolResult(heard.text, origin=f"recording {file.path}", cost_usd=heard.cost_usd)


async def _place(args: Args, context: ToolContext) -> tuple[str, str, int]:
    """Where a recording goes: path, format, and the version that it replaces, 0 for none. Raises ToolRetry."""
    path = workspace_path.checked(args.path or "")
    format = path.rpartition(".")[2].lower()
    if format not in ("mp3", "opus", "aac", "flac", "wav"):
        raise ToolRetry("The path of a recording ends in mp3, opus, aac, flac or wav.")
    try:
        found = (await files.read(context.hold, path)).version
    except Refused:
        found = 0
    if args.version is not None and args.version != found:
        raise ToolRetry(f"{path} is at version {found}, not {args.version}: look at it again and decide anew.")
    if found and args.version is None:
        raise ToolRetry(f"{path} exists already, at version {found}: give version={found} to overwrite it.")
    return path, format, found


async def _speech(args: Args, context: ToolContext) -> ToolResult:
    path, format, expected = await _place(args, context)
    work = context.services.model_api.speak(args.text or "", voice=args.voice, format=format)
    spoken = await _asked(context, work)
    try:
        version = await files.write(context.hold, context.call_id, path, spoken.content, expected_version=expected)
    except Refused as refusal:
        raise ToolRetry(str(refusal), cost_usd=spoken.cost_usd) from refusal
    told = f"{path} is written, version {version}, {len(spoken.content):,} bytes of {format}."
    diff = f"--- a/{path}\n+++ b/{path}\n[binary: {len(spoken.content):,} bytes of {format}]"
    changed = {"path": path, "version": version, "diff": diff}
    return ToolResult(told, notes={"pam.file_changed": changed}, cost_usd=spoken.cost_usd)


TOOL = Tool(
    name="openai_api_call",
    description="Ask a model's provider for one thing: chat (a text in answer to messages that hold all it must know), "
    "structured (JSON of a schema, validated and repaired once), embeddings (a vector a text), moderation (is a text "
    "harmful), transcription (the words of a recording in the workspace), speech (write a recording of a text into the "
    "workspace). What you send leaves the organisation for the provider, and counts against the run's budget. Not for "
    "thinking that you can do yourself; use it for many alike pieces of work, for another model's view, or for sound.",
    arguments=Args,
    run=run,
    effect=CallEffect.EXTERNAL,
    timeout_seconds=240,
    is_repeatable=False,
    show=show,
    ceiling_usd=ceiling_usd,
    max_parallel=2,
)
