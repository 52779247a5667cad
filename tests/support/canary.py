"""A secret that is looked for wherever it must not be, in every shape that it may take."""

import base64
from collections.abc import Awaitable
from typing import Any

import pytest

from workers.kernel.errors import Refused

CANARY = "canary-7f3a9c51d2e84b60"
SHAPES = (
    CANARY.encode(),
    base64.b64encode(CANARY.encode())[:-3],
    CANARY.encode().hex().encode(),
    base64.b64encode(f"client:{CANARY}".encode())[:-3],
)


def holds_canary(text: str | bytes) -> bool:
    """Whether it is there in any shape."""
    told = text if isinstance(text, bytes) else text.encode()
    return any(shape in told for shape in SHAPES)


async def refusal(work: Awaitable[Any]) -> tuple[str, str]:
    """The code and the sentence with which an injection is refused."""
    with pytest.raises(Refused) as caught:
        await work
    assert not holds_canary(str(caught.value))
    return caught.value.code, str(caught.value)
