"""Ask the person a question and wait for the answer, hours if need be; no worker is held meanwhile."""

from pydantic import Field

from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult


class Args(Arguments):
    """The question."""

    question: str = Field(
        min_length=1,
        max_length=4000,
        description="one clear question, with what you would do for each likely answer",
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Never carried out: the loop lets the run wait, and the answer becomes the result."""
    raise AssertionError(f"ask_person waits for a person and does not run: call {context.call_id} {len(args.question)}")


TOOL = Tool(
    name="ask_person",
    description="Ask the person you work for when a decision is theirs or something you need is unknown. The run "
    "waits; the answer comes back as the result. Do not ask what you can find out with another tool.",
    arguments=Args,
    run=run,
    effect=CallEffect.PAUSE,
    timeout_seconds=10,
    is_repeatable=True,
    is_conduct=True,
)
