"""The invariants can be broken, and then they say so: each is shown a run that somebody has tampered with."""

from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

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
    ("I6", "delete from pam.steps where run_id = %(run)s and position = 2"),
    ("I7", "update pam_private.run_heads set lease_until = now() where run_id = %(run)s"),
]  # fmt: skip


async def test_every_invariant_notices_its_breach(lab: Lab) -> None:
    await lab.staff()
    run_id, _ = await lab.start(WRITES)
    await lab.ended(run_id)
    invariants = (Path(__file__).parent / "invariants.sql").read_bytes()
    async with await psycopg.AsyncConnection.connect(lab.facts.admin_dsn, row_factory=dict_row) as connection:
        for word, tampering in TAMPERED:
            done = await connection.execute(tampering.encode(), {"run": run_id})
            assert done.rowcount, tampering
            found = [row["breach"] for row in await (await connection.execute(invariants)).fetchall()]
            assert any(breach.startswith(word) for breach in found), (tampering, found)
            await connection.rollback()
        assert await (await connection.execute(invariants)).fetchall() == []


@pytest.mark.parametrize("word", ["I1", "I2", "I3", "I4", "I6", "I7"])
def test_every_invariant_is_shown_a_breach(word: str) -> None:
    assert word in [known for known, _ in TAMPERED]
    assert f"'{word} " in (Path(__file__).parent / "invariants.sql").read_text()
