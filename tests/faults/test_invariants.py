"""The invariants can be broken, and then they say so: each is shown a run that somebody has tampered with."""

from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from infra.chaos import evidence
from infra.chaos.evidence import INVARIANTS, Evidence
from infra.chaos.outside import KEYED, UNKEYED
from tests.faults.conftest import Lab

WRITES = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    call: [{file_write: {path: "NAME.txt", content: "x"}}]
  - expect: {role: tool}
    say: "Done."
"""
FILE = "(select v.file_id from pam.file_versions v join pam.tool_calls c on c.id = v.call_id where c.run_id = %(run)s)"
TAMPERED = [
    ("I1", "delete from pam.events where run_id = %(run)s and type = 'RUN_FINISHED'"),
    ("I1", "update pam.runs set ended_at = null where id = %(run)s"),
    ("I2", "delete from pam.events where run_id = %(run)s and seq = 2"),
    ("I2", "insert into pam.events select org_id, run_id, 1000, type, payload from pam.events where run_id = %(run)s and seq = 1"),
    ("I3", "delete from pam.events where run_id = %(run)s and type = 'TOOL_CALL_RESULT'"),
    ("I3", "update pam.tool_calls set status = 'started' where run_id = %(run)s"),
    ("I3", f"delete from pam.file_versions where file_id = {FILE}"),
    ("I3", "update pam.tool_calls set tool = 'file_read' where run_id = %(run)s"),
    ("I4", "insert into pam.events select org_id, run_id, 1000, type, payload from pam.events where run_id = %(run)s and seq = 2"),
    ("I6", "update pam.runs set cost_usd = cost_usd + 0.000001 where id = %(run)s"),
    ("I6", "update pam.runs set max_cost_usd = 0.000001 where id = %(run)s"),
    ("I6", "update pam.runs set reserved_tokens = 1 where id = %(run)s"),
    ("I6", "update pam.usage set tokens = tokens + 1"),
    ("I6", "update pam.usage set seconds = seconds + 1"),
    ("I6", "insert into pam.budgets (org_id, period, max_steps, set_by) select org_id, 'month', 1, user_id from pam.runs where id = %(run)s"),
    ("I6", "delete from pam.steps where run_id = %(run)s and position = 2"),
    ("I3", "insert into pam.sent_messages select org_id, id, run_id, 'org:' || org_id, 'x', 1 from pam.tool_calls where run_id = %(run)s"),
    ("I5", "insert into pam.sent_messages select org_id, id, run_id, 'org:' || gen_random_uuid(), 'x', 1 from pam.tool_calls where run_id = %(run)s"),
    ("I5", "set local session_replication_role = replica; update pam.steps set org_id = gen_random_uuid() where run_id = (select max(run_id::text)::uuid from pam.steps)"),
    ("I5", 'create policy "Everybody reads everything" on pam.runs for select to authenticated using (true)'),
    ("I7", "update pam_private.run_heads set lease_until = now() where run_id = %(run)s"),
    ("I7", "insert into pam_private.agent_bindings (user_id, claims) select user_id, '{}' from pam.runs where id = %(run)s"),
]  # fmt: skip
# What the outside might have seen instead, made from what it saw and one request of the run.
OUTSIDE: tuple[tuple[str, Callable[..., object]], ...] = (
    ("I1", lambda told, _: told.accepted.append("00000000-0000-0000-0000-000000000001")),
    ("I3", lambda told, one: told.received.append(replace(one, key="a second key"))),
    ("I3", lambda told, one: told.received.append(replace(one, key="no call of ours", step=99))),
    ("I3", lambda told, one: told.received.append(replace(one, run="another run", step=99))),
    ("I3", lambda told, one: told.received.extend([replace(one, path=UNKEYED, step=99)] * 2)),
    ("I3", lambda told, _: told.received.clear()),
    ("I7", lambda told, _: told.left.append({"what": "a process outlived its worker", "about": "1 sleep"})),
)


async def test_every_invariant_notices_its_breach(lab: Lab) -> None:
    await lab.staff()
    await lab.house.engineer()  # somebody else, whose eyes must find nothing of this run
    run_id, _ = await lab.start(WRITES)
    await lab.ended(run_id)
    async with await psycopg.AsyncConnection.connect(lab.facts.admin_dsn) as connection:
        for word, tampering in TAMPERED:
            if "%(run)s" in tampering:
                done = await connection.execute(tampering.encode(), {"run": run_id})
                assert done.rowcount, tampering
            else:
                await connection.execute(tampering.encode())
            found = [row["breach"] for row in await evidence.breaches_in(connection, Evidence())]
            assert any(breach.startswith(word) for breach in found), (tampering, found)
            await connection.rollback()
        assert await evidence.breaches_in(connection, Evidence()) == []


async def test_what_the_outside_saw_is_held_against_what_was_recorded(lab: Lab) -> None:
    await lab.staff()
    team = await lab.team()
    run_id = await team.start("seen-outside")
    await lab.ended(run_id)
    sound = list(lab.ledger.received)
    mine = next(one for one in sound if one.run == "seen-outside" and one.path == KEYED)
    assert await evidence.breaches(lab.facts, Evidence(accepted=[run_id], received=sound)) == []
    for number, (word, tamper) in enumerate(OUTSIDE):
        told = Evidence(accepted=[run_id], received=list(sound))
        tamper(told, mine)
        found = [row["breach"] for row in await evidence.breaches(lab.facts, told)]
        assert any(breach.startswith(word) for breach in found), (number, found)


@pytest.mark.parametrize("word", ["I1", "I2", "I3", "I4", "I5", "I6", "I7"])
def test_every_invariant_is_shown_a_breach(word: str) -> None:
    assert word in [known for known, _ in TAMPERED]
    assert f"'{word} " in INVARIANTS.read_text()
