"""Read a value from the organisation's own corner of Redis, or list keys by prefix."""

import unicodedata

from pydantic import Field

from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.redis_space import CursorUnknown
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

MAX_KEY_CHARACTERS = 200
ORIGIN = "redis value"


def checked_key(key: str, *, may_be_empty: bool = False) -> str:
    """The key, if it is one. Raises ToolRefused with the reason."""
    if (not key and not may_be_empty) or len(key) > MAX_KEY_CHARACTERS:
        raise ToolRefused(f"A key has 1 to {MAX_KEY_CHARACTERS} characters.")
    if not key.isprintable():
        raise ToolRefused("A key holds printable characters only.")
    if key != unicodedata.normalize("NFC", key):
        raise ToolRefused("A key is written in Unicode's composed form (NFC): one name, one key.")
    return key


class Args(Arguments):
    """One key, or a prefix."""

    key: str | None = Field(default=None, description="the key to read")
    prefix: str | None = Field(default=None, description="list keys that begin with this instead; empty for all")
    cursor: str | None = Field(
        default=None, min_length=1, max_length=1200, description="where a listing goes on, as the last answer said"
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """The value with the seconds it has left, or keys."""
    if (args.key is None) == (args.prefix is None):
        raise ToolRetry("Give either key (to read) or prefix (to list).")
    space = context.services.redis
    if args.key is not None:
        found = await space.get(context.org_id, checked_key(args.key))
        if found is None:
            return ToolResult(f"{args.key} is not there (never stored, or its time is over).")
        value, seconds = found
        return ToolResult(f"{args.key} ({seconds} s left):\n{value}", origin=ORIGIN)
    prefix = checked_key(args.prefix or "", may_be_empty=True)
    try:
        entries, cursor = await space.list(context.org_id, prefix, cursor=args.cursor, count=100)
    except CursorUnknown:
        raise ToolRetry("This cursor belongs to no listing of this prefix: begin without one.") from None
    lines = [f"{entry.key}  {entry.seconds_left} s left" for entry in entries]
    rest = [f"[more: go on with cursor {cursor}]"] if cursor else []
    told = "\n".join([f"{len(entries)} keys begin with {args.prefix!r}", *lines, *rest])
    return ToolResult(told, origin=ORIGIN if entries else None)


TOOL = Tool(
    name="redis_get",
    description="Read what redis_set stored: the value and the seconds it has left, or, with prefix, the keys that "
    "begin with it in order, 100 a page (go on with the cursor that the answer ends with). An empty prefix lists all.",
    arguments=Args,
    run=run,
    effect=CallEffect.READ,
    timeout_seconds=10,
    is_repeatable=True,
)
