"""The doorbell and the live channel: signed, at most once, and never in the way of the fact."""

import asyncio
import base64
import hashlib
import hmac
from typing import Any

import psycopg
import pytest
from standardwebhooks import Webhook

from tests.database.test_organizations import code
from tests.database.world import FINISHED, custom, step
from tests.support.database import Database

SECRET = "a secret of this test"
# RFC 4231, test cases 1 to 4, 6 and 7: (key, message, HMAC-SHA256).
VECTORS = [
    ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe".hex(), b"what do ya want for nothing?".hex(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)).hex(), "cd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    ("aa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    ("aa" * 131, (b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be "
                  b"hashed before being used by the HMAC algorithm.").hex(),
     "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
]  # fmt: skip


async def ring(database: Database) -> None:
    await database.owner(
        "insert into pam_private.settings values ('webhook_url', 'http://127.0.0.1:9/hooks'), ('webhook_secret', %s)",
        SECRET,
    )


async def queued(database: Database) -> list[dict[str, Any]]:
    return await database.admin(
        "select url, headers, convert_from(body, 'UTF8') as body from net.http_request_queue order by id"
    )


async def test_the_hmac_is_that_of_rfc_4231_and_of_python(database: Database) -> None:
    lengths = [(bytes(range(n % 256)) * 2, b"m" * n) for n in (0, 1, 63, 64, 65, 127, 128, 129)]
    vectors = VECTORS + [(k.hex(), m.hex(), hmac.new(k, m, hashlib.sha256).hexdigest()) for k, m in lengths]
    for key, message, expected in vectors:
        (row,) = await database.admin(
            "select encode(pam_private.hmac_sha256(decode(%s, 'hex'), decode(%s, 'hex')), 'hex') as mac", key, message
        )
        assert row["mac"] == expected


async def test_a_queued_run_rings_once_a_turn_with_a_signature_that_the_standard_verifies(database: Database) -> None:
    await ring(database)
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[], events=[])
    await database.worker("release_run", run_id=run, fence=fence)
    rings = await queued(database)
    assert [r["headers"]["webhook-id"] for r in rings] == [f"{run}-1", f"{run}-2"]
    checker = Webhook(base64.b64encode(SECRET.encode()).decode())
    for turn, request in enumerate(rings, start=1):
        assert checker.verify(request["body"], request["headers"]) == {"run_id": str(run), "turn": turn}
        with pytest.raises(Exception, match="matching signature"):
            checker.verify(request["body"].replace(str(turn), "7"), request["headers"])


@pytest.mark.parametrize(
    "broken",
    [
        "drop schema net cascade",
        "drop function net.http_post",
        "drop table net.http_request_queue cascade",
        "delete from pam_private.settings",
        "delete from pam_private.settings where name = 'webhook_secret'",
        "revoke usage on schema net from postgres, public",
    ],
)
async def test_a_doorbell_that_does_not_work_stops_no_run(database: Database, broken: str) -> None:
    await ring(database)
    await database.admin(broken)
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    await database.admin("update pam_private.run_heads set rung_at = now() - interval '1 minute'")
    assert await database.worker("sweep_runs") == [{"run_id": str(run), "turn": 1}]


@pytest.mark.parametrize(
    "broken", ["drop table realtime.messages_default", "alter table realtime.messages rename to gone"]
)
async def test_an_event_is_kept_though_it_could_not_be_sent(database: Database, broken: str) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    await database.admin(broken)
    fence = await database.claimed(run)
    assert await database.worker("append_events", run_id=run, fence=fence, events=[custom(), custom()]) == 3
    await database.worker("finish_run", run_id=run, fence=fence, status="succeeded", reason=None, events=[FINISHED])
    assert [row["seq"] for row in await database.admin("select seq from pam.events order by seq")] == [1, 2, 3, 4]


async def test_a_batch_is_announced_once_and_a_large_one_without_its_events(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    await database.worker("append_events", run_id=run, fence=fence, events=[custom() for _ in range(7)])
    await database.worker("append_events", run_id=run, fence=fence, events=[custom(value="x" * 70_000)])
    await database.worker("append_events", run_id=run, fence=fence, events=[])
    sent = await database.admin(
        "select payload, topic, private from realtime.messages order by (payload ->> 'first')::int"
    )
    assert [(m["payload"]["first"], m["payload"]["last"]) for m in sent] == [(1, 1), (2, 8), (9, 9)]
    assert [len(m["payload"]["events"] or []) for m in sent] == [1, 7, 0]
    assert all(m["topic"] == f"run:{run}" and m["private"] for m in sent)


async def test_previews_over_fifty_a_second_are_dropped_for_all_workers_together(database: Database) -> None:
    owner, org = await database.new_organization()
    fences = {run: await database.claimed(run) for run in [await database.new_run(owner, org) for _ in range(2)]}

    # Within one transaction per worker the clock goes on, so the count is held against the seconds that passed.
    async def preview(run: Any, fence: int) -> int:
        async with await psycopg.AsyncConnection.connect(database.worker_dsn, autocommit=True) as connection:
            sent = 0
            for _ in range(120):
                cursor = await connection.execute("select pam_worker.preview_message(%s, %s, '{}')", [run, fence])
                sent += bool((await cursor.fetchone() or [False])[0])
            return sent

    (began,) = await database.admin("select extract(epoch from clock_timestamp())::float8 as at")
    sent = sum(await asyncio.gather(*(preview(run, fence) for run, fence in fences.items())))
    (ended,) = await database.admin("select extract(epoch from clock_timestamp())::float8 as at")
    seconds = round(ended["at"]) - round(began["at"]) + 1  # how many of the clock's seconds were touched
    assert 50 <= sent <= 50 * seconds < 240
    rows = await database.admin("select 1 from realtime.messages where event = 'preview'")
    assert len(rows) == sent
    assert (await database.admin("select max(seq) as n from pam.events where run_id = %s", next(iter(fences))))[0][
        "n"
    ] == 1


async def test_previews_go_on_after_a_crash_emptied_their_meter(database: Database) -> None:
    """The meter is unlogged: PostgreSQL empties it when it comes back from a crash."""
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    await database.admin("truncate pam_private.preview_meter")
    assert await database.worker("preview_message", run_id=run, fence=fence, preview={"text": "x"}) is True


async def test_a_run_that_was_not_started_does_not_ring(database: Database) -> None:
    await ring(database)
    owner, org = await database.new_organization()
    assert code(await database.rpc(owner, "start_run", org_id=org, agent="nobody", message="x")) == "unknown_agent"
    assert await queued(database) == []
