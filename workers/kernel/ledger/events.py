"""Events: the gapless log of a run, AG-UI 1.0 payloads. Facts bring their own events; here is what stands alone."""

from typing import Any

from workers.kernel.ledger.hold import Hold


async def append(hold: Hold, events: list[dict[str, Any]]) -> int:
    """Append events that belong to no other fact; answers the last seq."""
    return int(await hold.call("append_events", events=events))


async def preview(hold: Hold, frame: dict[str, Any]) -> bool:
    """Show text that is still being written: outside the log, first to be dropped. Answers whether it went out."""
    return bool(await hold.call("preview_message", preview=frame))
