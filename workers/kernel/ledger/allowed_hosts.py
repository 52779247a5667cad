"""Allowed hosts: which hosts an organisation's agents may reach; none by default."""

from workers.kernel.ledger.hold import Hold


async def is_allowed(hold: Hold, host: str, port: int) -> bool:
    """Whether the run's organisation allows this host and port; the question and its answer are audited."""
    answer = await hold.call("find_host", host=host, port=port)
    return bool(answer["allowed"])
