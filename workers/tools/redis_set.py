"""Store a value in the organisation's own corner of Redis, or count a counter up."""

from pydantic import Field

from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools.failures import ToolRetry
from workers.tools.redis_get import checked_key
from workers.tools.redis_space import DEFAULT_SECONDS
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

MAX_VALUE_BYTES = 65_536
MAX_SECONDS = 2_592_000


class Args(Arguments):
    """A key with a value, or a counter with a step."""

    key: str = Field(description="key within the organisation, e.g. cache:projects:42")
    value: str | None = Field(default=None, description="the text to store; leave out to count")
    increment: int | None = Field(
        default=None,
        ge=-(2**53),
        le=2**53,
        description="count up by this much (negative: down) instead of storing",
    )
    seconds: int | None = Field(
        default=None, ge=1, le=MAX_SECONDS, description="time to live, at most 30 days; 7 days if left out"
    )
    only_if_absent: bool = Field(default=False, description="store only if the key is not there yet")


async def run(args: Args, context: ToolContext) -> ToolResult:
    """What was stored, or why not."""
    key = checked_key(args.key)
    if (args.value is None) == (args.increment is None):
        raise ToolRetry("Give either value (to store) or increment (to count).")
    space = context.services.redis
    if args.increment is not None:
        if args.only_if_absent:
            raise ToolRetry("only_if_absent belongs to value, not to increment.")
        counted = await space.increment(context.org_id, context.call_id, key, args.increment, seconds=args.seconds)
        if counted.refused:
            raise ToolRetry(counted.refused)
        return ToolResult(f"{key} is {counted.value} now.")
    value = args.value or ""
    if len(value.encode(errors="replace")) > MAX_VALUE_BYTES:
        raise ToolRetry("A value may hold 64 KiB: put larger text into a workspace file.")
    seconds = args.seconds or DEFAULT_SECONDS
    stored = await space.set(
        context.org_id, context.call_id, key, value, seconds=seconds, only_if_absent=args.only_if_absent
    )
    if stored.refused:
        raise ToolRetry(stored.refused)
    return ToolResult(
        f"{key} is stored for {seconds} s." if stored.written else f"{key} was there already and is unchanged."
    )


TOOL = Tool(
    name="redis_set",
    description="Store a short text under a key for a limited time (cache, session, lock with only_if_absent), or "
    "count a counter. Keys belong to the organisation; nobody else sees them. Not for lasting data: use files or "
    "the database. A value may hold 64 KiB, the organisation 10,000 keys and 16 MiB; nothing outlives 30 days. "
    "There is no delete: overwrite with seconds=1.",
    arguments=Args,
    run=run,
    effect=CallEffect.WRITE,
    timeout_seconds=10,
    is_repeatable=True,
)
