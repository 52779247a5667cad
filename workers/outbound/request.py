"""A request as somebody outside this room asks for it, checked before anything is looked up."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.outbound.failures import OutboundRefused

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SAFE_METHODS = ("GET", "HEAD")
MAX_BODY_BYTES = 1_048_576
MAX_HEADERS = 30
MAX_VALUE_CHARACTERS = 4_096

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e]*")
# What says how the message travels, who sends it, or what it really is: set by this room or by nobody.
_OURS = frozenset({
    "host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect",
    "http2-settings", "accept-encoding", "content-encoding", "idempotency-key", "user-agent", "date", "via",
    "forwarded", "origin", "referer", "x-http-method", "x-http-method-override", "x-method-override",
    "x-original-url", "x-original-host", "x-rewrite-url", "x-host", "x-real-ip", "x-client-ip", "x-cluster-client-ip",
    "true-client-ip", "client-ip", "cf-connecting-ip",
})  # fmt: skip
_SECRET = frozenset({"authorization", "cookie", "cookie2", "set-cookie", "authentication", "x-authorization"})
_CLOUD = frozenset({"metadata", "metadata-flavor", "x-metadata-token", "x-google-metadata-request"})
_OURS_BY_BEGINNING = ("x-forwarded", "sec-", "proxy-")
_CLOUD_BY_BEGINNING = ("x-aws-ec2-metadata", "x-google-", "x-identity-")


@dataclass(frozen=True)
class Request:
    """What is asked. `idempotency_key` travels with what is not safe, so that the other side can tell a repeat."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    idempotency_key: str | None = None

    @property
    def is_safe(self) -> bool:
        """Whether asking twice is asking once."""
        return self.method in SAFE_METHODS


def check(request: Request) -> None:
    """Raises OutboundRefused for a method, header or body that is not sent."""
    if request.method not in METHODS:
        raise OutboundRefused("method", f"The methods are {', '.join(METHODS)}.")
    if request.body is not None and request.is_safe:
        raise OutboundRefused("body", f"{request.method} carries no body: put what is asked into the URL.")
    if len(request.body or b"") > MAX_BODY_BYTES:
        raise OutboundRefused("body", "A body may hold 1 MiB: send it in parts.")
    if len(request.headers) > MAX_HEADERS:
        raise OutboundRefused("header", f"A request may carry {MAX_HEADERS} headers of yours.")
    seen: set[str] = set()
    for name, value in request.headers.items():
        if not _NAME.fullmatch(name):
            raise OutboundRefused("header", "A header's name is one word of ASCII letters, digits and hyphens.")
        # Behind a gateway `_` and `-` are often the same.
        plain = name.lower().replace("_", "-")
        if plain in seen:
            raise OutboundRefused("header", f"The header {plain} is given twice.")
        seen.add(plain)
        if plain in _SECRET:
            raise OutboundRefused("header", f"{plain} is not given by hand: name a connection, PAM adds its secret.")
        if plain in _CLOUD or plain.startswith(_CLOUD_BY_BEGINNING):
            raise OutboundRefused("header", f"{plain} speaks to a machine's metadata service, which is not reached.")
        if plain in _OURS or plain.startswith(_OURS_BY_BEGINNING):
            raise OutboundRefused("header", f"{plain} is set by PAM or not at all: leave it out.")
        if len(value) > MAX_VALUE_CHARACTERS or not _VALUE.fullmatch(value):
            raise OutboundRefused("header", f"The value of {plain} is one line of at most 4,096 ASCII characters.")
