"""A cue as OpenAI's wire tells it: the chunks of a stream with their pace, or one whole completion."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from infra.local.rehearsal.conversation import counted_tokens
from infra.local.rehearsal.cue import Cue, PlannedCall

_CREATED = 1_767_225_600  # a fixed moment: answers are the same each time
_ARGUMENT_PIECES = 3


@dataclass(frozen=True)
class Frame:
    """Bytes to send after a pause; `drops` ends the connection there and sends nothing."""

    data: bytes
    pause_seconds: float = 0.0
    drops: bool = False


_DROP = Frame(b"", drops=True)


def completion(cue: Cue, *, model: str) -> dict[str, object]:
    """The answer of a request without `stream`."""
    message: dict[str, object] = {
        "role": "assistant",
        "content": cue.text or None,
        "refusal": cue.turn.refuse,
    }
    if cue.calls:
        ids = _ids(cue)
        message["tool_calls"] = [
            {
                "id": ids[index],
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(cue.calls)
        ]
    choices = [{"index": 0, "message": message, "finish_reason": _finish(cue), "logprobs": None}]
    body: dict[str, object] = {
        **_head(cue, model, "chat.completion"),
        "choices": [] if "no_choices" in cue.turn.faults else choices,
    }
    if "no_usage" not in cue.turn.faults:
        body["usage"] = _usage(cue)
    return body


def frames(cue: Cue, *, model: str, with_usage: bool) -> Iterator[Frame]:
    """The answer of a request with `stream`, as server-sent events."""
    turn = cue.turn
    head = _head(cue, model, "chat.completion.chunk")

    def chunk(delta: dict[str, object], *, pause_seconds: float = 0.0, finish: str | None = None) -> Frame:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
        body = {**head, "choices": [] if "no_choices" in turn.faults else choices, "usage": None}
        return Frame(_event(body), pause_seconds)

    hang_seconds = turn.hang_seconds
    yield chunk({"role": "assistant", "content": ""}, pause_seconds=0.0 if cue.text else hang_seconds)
    words = re.findall(r"\S+\s*|\s+", cue.text)
    for index, word in enumerate(words):
        if turn.cut == "text" and index == len(words) // 2:
            break
        yield chunk({"content": word}, pause_seconds=turn.seconds_per_word)
    if turn.cut == "text":
        yield _DROP
        return
    if hang_seconds and cue.text:
        yield Frame(b": still here\n\n", hang_seconds)
    if "bad_json" in turn.faults:
        yield Frame(b'data: {"id": "chatcmpl-\n\n')
    if "error_event" in turn.faults:
        error = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
        yield Frame(_event({"error": error}))
    if turn.refuse is not None:
        for word in re.findall(r"\S+\s*|\s+", turn.refuse):
            yield chunk({"refusal": word}, pause_seconds=turn.seconds_per_word)
    ids = _ids(cue)
    for index, call in enumerate(cue.calls):
        parts = _call_parts(call, ids[index], splits_name="split_names" in turn.faults)
        if turn.cut == "tool_call":
            parts = parts[: len(parts) - 1]
        for part in parts:
            yield chunk({"tool_calls": [{"index": index, **part}]})
        if turn.cut == "tool_call":
            yield _DROP
            return
    if turn.cut == "before_finish":
        return
    yield chunk({}, finish=_finish(cue))
    if with_usage and "no_usage" not in turn.faults:
        yield Frame(_event({**head, "choices": [], "usage": _usage(cue)}))
    if "no_done" not in turn.faults:
        yield Frame(b"data: [DONE]\n\n")


def _call_parts(call: PlannedCall, call_id: str | None, *, splits_name: bool) -> list[dict[str, object]]:
    """A call as a client gets it: id and name first, then the arguments in three pieces."""
    half = len(call.name) // 2 if splits_name else len(call.name)
    first: dict[str, object] = {"type": "function", "function": {"name": call.name[:half], "arguments": ""}}
    parts = [first if call_id is None else {"id": call_id, **first}]
    if splits_name:
        parts.append({"function": {"name": call.name[half:]}})
    size = max(1, -(-len(call.arguments) // _ARGUMENT_PIECES))
    parts.extend(
        {"function": {"arguments": call.arguments[start : start + size]}}
        for start in range(0, len(call.arguments), size)
    )
    return parts


def _ids(cue: Cue) -> list[str | None]:
    if "no_ids" in cue.turn.faults:
        return [None for _ in cue.calls]
    if "same_ids" in cue.turn.faults:
        return [cue.calls[0].id for _ in cue.calls]
    return [call.id for call in cue.calls]


def _finish(cue: Cue) -> str:
    return cue.turn.finish or ("tool_calls" if cue.calls else "stop")


def _head(cue: Cue, model: str, kind: str) -> dict[str, object]:
    return {
        "id": f"chatcmpl-{cue.digest}",
        "object": kind,
        "created": _CREATED,
        "model": model,
        "system_fingerprint": "rehearsal",
    }


def _usage(cue: Cue) -> dict[str, object]:
    told = counted_tokens(cue.text) + counted_tokens(cue.turn.refuse or "")
    output_tokens = told + sum(counted_tokens(call.name + call.arguments) for call in cue.calls)
    return {
        "prompt_tokens": cue.input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": cue.input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _event(body: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace") + b"\n\n"
