"""Private data, untrusted content, a way out: over all ordered triples of tools the third waits for a person."""

import itertools
from uuid import UUID

from tests.database.world import call, step
from tests.support.database import Template
from workers.kernel.worker_gateway import WorkerGateway
from workers.tools import CARD_TOOLS

WAYS_OUT = [(tool, effect) for tool in CARD_TOOLS for effect in ("external", "irreversible")]


async def test_no_ordered_triple_of_tools_completes_without_an_approval(template: Template) -> None:
    triples = 0
    async with template.clone() as database:
        gateway = WorkerGateway(dsn=database.worker_dsn)
        await gateway.open()
        try:
            owner, org = await database.new_organization()
            for first, second in itertools.product(CARD_TOOLS, CARD_TOOLS):
                run = await database.new_run(owner, org)
                held = {"run_id": run, "fence": await database.claimed(run)}
                reads = [call(first, "read"), call(second, "read")]
                leaves = [call(tool, effect) for tool, effect in WAYS_OUT]
                await gateway.call("record_step", **held, step=step(), calls=[*reads, *leaves], events=[])
                for one, origin in zip(reads, ("rows of the database", "page https://evil.example/"), strict=True):
                    await gateway.call("begin_call", **held, id=UUID(one["id"]))
                    done = {"status": "succeeded", "result": "x", "events": [], "origin": origin}
                    await gateway.call("finish_call", **held, id=UUID(one["id"]), **done)
                for one in leaves:
                    answer = await gateway.call("begin_call", **held, id=UUID(one["id"]))
                    assert "ask" in answer, (first, second, one["tool"], one["effect"])
                    triples += 1
                await gateway.call(
                    "finish_run", **held, status="failed", reason="x",
                    events=[{"type": "RUN_ERROR", "message": "x", "code": "x"}],
                )  # fmt: skip
        finally:
            await gateway.close()
    assert triples == len(CARD_TOOLS) ** 2 * len(WAYS_OUT)
