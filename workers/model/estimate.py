"""Token counts for when no server has counted: stated, deterministic, and rather too high than too low."""

import json
from collections.abc import Sequence

from workers.model.protocol import Message, ToolSpec, Usage

# English prose runs at about four bytes a token, code and JSON nearer three: three errs on the dear side,
# so that a money limit closes early rather than late.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 4


def estimated_tokens(text: str) -> int:
    """Tokens of a text: its UTF-8 bytes divided by three, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def estimated_usage(messages: Sequence[Message], tools: Sequence[ToolSpec], *, output_text: str) -> Usage:
    """Usage of one call: everything sent, and all that came back (text, names and arguments joined)."""
    sent = sum(
        TOKENS_PER_MESSAGE
        + estimated_tokens(message.text)
        + sum(estimated_tokens(call.name + call.arguments_json) for call in message.tool_calls)
        for message in messages
    )
    offered = sum(estimated_tokens(tool.name + tool.description + json.dumps(tool.parameters)) for tool in tools)
    return Usage(input_tokens=sent + offered, output_tokens=estimated_tokens(output_text), is_estimated=True)
