"""Realtime's two wire versions: 1.0.0 (JSON objects) and 2.0.0 (JSON arrays, broadcasts in binary).

Source: realtime-js `lib/serializer.ts` and realtime-py `message.py`; both run in the tests.
"""

import json
from dataclasses import dataclass
from typing import Any

VERSIONS = ("1.0.0", "2.0.0")
_PUSH, _BROADCAST = 3, 4  # kinds of binary frames: client to server, server to client
_BINARY, _JSON = 0, 1  # encodings of a binary frame's payload


class MalformedFrame(ValueError):
    """The bytes are no frame of this wire version; the sentence says what was expected."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message in either direction. `payload` is a JSON object."""

    topic: str
    event: str
    payload: dict[str, Any]
    ref: str | None = None
    join_ref: str | None = None


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A message for a topic's listeners. `payload` is any JSON value, or bytes for binary payloads."""

    event: str
    payload: Any
    meta: dict[str, Any] | None = None


def decode(message: str | bytes, version: str) -> Frame:
    """Read one client message. Raises MalformedFrame whatever the bytes are."""
    if isinstance(message, bytes):
        return _decode_push(message)
    value = read_json(message)
    if version == "1.0.0":
        if not isinstance(value, dict):
            raise MalformedFrame("version 1.0.0 wants an object {topic, event, payload, ref, join_ref}")
        parts = [value.get(name) for name in ("join_ref", "ref", "topic", "event", "payload")]
    else:
        if not isinstance(value, list) or len(value) != 5:
            raise MalformedFrame("version 2.0.0 wants [join_ref, ref, topic, event, payload]")
        parts = value
    join_ref, ref, topic, event, payload = parts
    if not isinstance(topic, str) or not isinstance(event, str):
        raise MalformedFrame("topic and event must be text")
    if not (_is_unicode(topic) and _is_unicode(event)):
        raise MalformedFrame("topic and event must be well-formed Unicode without NUL")
    if not isinstance(payload, dict):
        raise MalformedFrame("payload must be an object")
    return Frame(topic, event, payload, _reference(ref), _reference(join_ref))


def read_json(text: str | bytes) -> Any:
    """Parse strict JSON (no NaN, no Infinity). Raises MalformedFrame."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedFrame("this must be JSON") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_unicode(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell
        return False


def _reference(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str | int):
        return str(value)
    raise MalformedFrame("ref and join_ref must be text or null")


def _decode_push(message: bytes) -> Frame:
    if len(message) < 7 or message[0] != _PUSH:
        raise MalformedFrame("a binary frame must be a broadcast push (kind 3)")
    position, texts = 7, []
    for length in message[1:6]:
        piece = message[position : position + length]
        if len(piece) != length:
            raise MalformedFrame("a binary frame ends before its header says")
        try:
            texts.append(piece.decode())
        except UnicodeDecodeError as error:
            raise MalformedFrame("the header of a binary frame must be UTF-8") from error
        position += length
    join_ref, ref, topic, event, _meta = texts
    body: Any = message[position:]
    if message[6] == _JSON:
        body = read_json(body)
    payload = {"type": "broadcast", "event": event, "payload": body}
    return Frame(topic, "broadcast", payload, _reference(ref), _reference(join_ref))


def encode(frame: Frame, version: str) -> str:
    """Write one server message that is no broadcast. In 1.0.0 the key `ref` is always present."""
    if version == "1.0.0":
        return json.dumps({"topic": frame.topic, "event": frame.event, "payload": frame.payload, "ref": frame.ref})
    return json.dumps([frame.join_ref, frame.ref, frame.topic, frame.event, frame.payload])


def encode_broadcast(topic: str, broadcast: Broadcast, version: str) -> str | bytes | None:
    """Write a broadcast for one wire version; None if that version cannot carry it (bytes on 1.0.0)."""
    payload = {"type": "broadcast", "event": broadcast.event, "payload": broadcast.payload}
    if broadcast.meta:
        payload["meta"] = broadcast.meta
    is_binary = isinstance(broadcast.payload, bytes)
    if version == "1.0.0":
        return None if is_binary else encode(Frame(topic, "broadcast", payload), version)
    header = [
        topic.encode(),
        broadcast.event.encode(),
        json.dumps(broadcast.meta).encode() if broadcast.meta else b"",
    ]
    if any(len(part) > 255 for part in header):  # lengths are one byte: such a frame goes as a JSON array
        return None if is_binary else encode(Frame(topic, "broadcast", payload), version)
    body = broadcast.payload if is_binary else json.dumps(broadcast.payload).encode()
    lengths = bytes([_BROADCAST, *(len(part) for part in header), _BINARY if is_binary else _JSON])
    return lengths + b"".join(header) + body
