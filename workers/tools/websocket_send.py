"""Push an event to everybody who listens on a live topic of the organisation, a thread or a person."""

import json
from typing import Any

from pydantic import Field

from workers.kernel.errors import Refused
from workers.kernel.ledger import sent_messages
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools.failures import ToolRetry
from workers.tools.tool import Arguments, Shown, Tool, ToolContext, ToolResult

_HEARERS = {
    "org": "everybody of the organisation who listens",
    "thread": "everybody of the organisation who listens on this thread",
    "user": "one person, wherever they are signed in",
}


class Args(Arguments):
    """Where to, what, and its content."""

    topic: str = Field(
        description="org:<organisation id>, thread:<thread id> or user:<person's id>, the id in lower case; "
        "org:mine, thread:mine and user:mine are those of this run"
    )
    event: str = Field(description="what happened, e.g. import.finished: small letters, digits, _ . : -")
    payload: dict[str, Any] = Field(default_factory=dict, description="a JSON object of at most 64 KiB")


async def show(args: Args, context: ToolContext) -> Shown:
    """What would be sent, and who would hear it."""
    content = json.dumps(args.payload, ensure_ascii=False, indent=2)
    hearers = _HEARERS.get(args.topic.partition(":")[0], "nobody: there is no such kind of topic")
    return Shown(f"Sends the event {args.event} to {args.topic}. It is heard by {hearers}.\n{content}")


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Sent, once."""
    try:
        sent = await sent_messages.send(
            context.hold, context.call_id, topic=args.topic, event=args.event, payload=args.payload
        )
    except Refused as refusal:
        if refusal.code in ("unavailable", "limit", "invalid", "too_large"):
            raise ToolRetry(str(refusal)) from refusal
        raise
    return ToolResult(
        f"{args.event} was sent to {sent.topic} ({sent.size_bytes:,} bytes). Who listens now has it, nobody later.",
        notes={"pam.message_sent": {"topic": sent.topic, "event": args.event, "bytes": sent.size_bytes}},
    )


TOOL = Tool(
    name="websocket_send",
    description="Push an event to a live topic, for screens that are open now: org: (everybody of the organisation), "
    "thread: (who follows a thread) or user: (one person). Use it to announce something as it happens. Not for what "
    "must be read later (write a file), nor for your answer: your own log is shown live anyway. Nobody confirms that "
    "they heard it.",
    arguments=Args,
    run=run,
    effect=CallEffect.EXTERNAL,
    timeout_seconds=10,
    is_repeatable=True,
    show=show,
)
