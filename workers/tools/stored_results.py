"""Results that were too long for the model: kept whole beside the call, read on under a path of their own."""

import re
from uuid import UUID

from workers.kernel.errors import Refused
from workers.kernel.ledger import tool_calls
from workers.tools.failures import ToolRetry
from workers.tools.tool import ToolContext, ToolResult

_PATH = re.compile(r"\.pam/results/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
MAX_CHARACTERS = 60_000


def path_of(call_id: UUID) -> str:
    """Where file_read finds the whole result of a call."""
    return f".pam/results/{call_id}"


def is_result(path: str) -> bool:
    """Whether a path names a stored result."""
    return _PATH.fullmatch(path) is not None


async def read(context: ToolContext, path: str, *, first_character: int) -> ToolResult:
    """A part of a stored result, and where it goes on. Raises ToolRetry when there is none, or nothing more."""
    match = _PATH.fullmatch(path)
    assert match is not None, path
    try:
        part = await tool_calls.read_output(
            context.hold, UUID(match[1]), first_character=first_character, max_characters=MAX_CHARACTERS
        )
    except Refused as refusal:
        raise ToolRetry(f"There is no stored result {path} in this conversation.") from refusal
    if first_character > part.characters:
        raise ToolRetry(f"{path} holds {part.characters:,} characters; {first_character:,} is beyond its end.")
    last = first_character + len(part.text) - 1
    more = f"; go on with first_character {last + 1}" if last < part.characters else ""
    head = f"{path} (characters {first_character:,}–{last:,} of {part.characters:,}{more}):\n"
    return ToolResult(head + part.text, origin=part.origin)
