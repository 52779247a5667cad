"""Attacks on the way from a proposal to the database: forged, stale, foreign and raced approvals, drift, locks, rows.

Each test is one mechanism, and says what stopped it.
"""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names in this module

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from infra.owner import difference
from infra.owner.rebuild import Rebuild
from infra.owner.snapshot import Snapshot
from tests.support.database import Database
from tests.support.migrations import NOTES, Project, operating, project, shared
from workers.kernel.ledger import schema_changes, tool_calls

COLUMN = "alter table public.tasks add column estimate int"
UNIQUE = "create unique index one_title on public.tasks (title)"


async def untouched(project: Project, change: str) -> dict[str, Any]:
    """Nothing of the change is in the database; answers its row."""
    assert await project.history() == []
    columns = await project.database.admin(
        "select 1 from pg_attribute where attrelid = 'public.tasks'::regclass and attname = 'estimate' and not attisdropped"
    )
    assert columns == []
    return await project.row(change)


async def approve(project: Project, change: str, call: UUID, sha256: str | None = None) -> Any:
    """The worker's verb, as a worker that was taken over would call it."""
    row = await project.row(change)
    return await project.database.worker(
        "approve_change", run_id=project.bench.hold.run_id, fence=project.bench.hold.fence, call=call,
        change=UUID(change), sql_sha256=sha256 or row["sql_sha256"],
    )  # fmt: skip


HIDDEN = "delete from public.tasks where true"


def function(body: str) -> str:
    return (
        "create function public.f() returns void language plpgsql set search_path = '' as "
        f"$$ begin {body} {HIDDEN}; end $$; revoke execute on function public.f() from public, anon"
    )


async def refused_to_ask(project: Project, change: str) -> str:
    """Why nobody is asked about a change that was checked."""
    call = await project.bench.planned("supabase_migrate", {"action": "apply", "change": change})
    carried = await project.bench.carry_out_all(call)
    assert carried.asks == []
    assert (await project.row(change))["status"] == "checked"
    return carried.ended[0].result or ""


async def test_a_body_behind_more_comments_than_are_shown_is_put_to_nobody(project: Project) -> None:
    """What is shown would end before the body does: the tool refuses to ask."""
    change, _ = await project.checked(f"/* {'what it is for. ' * 6_300} */ {function('')}")
    assert "split it into several changes" in await refused_to_ask(project, change)


async def test_a_long_body_is_shown_to_its_end(project: Project) -> None:
    """The headline says whole, and the last word of the body stands below it."""
    change, _ = await project.checked(function("perform 1; " * 2_000))
    _, ask = await project.asked(change)
    assert ask.shown is not None
    told, _, text = ask.shown.partition("\n\nThe text:\n")
    assert HIDDEN in told.partition("Functions, whole")[2]
    assert HIDDEN in text


async def test_more_than_the_difference_lists_is_put_to_nobody(project: Project) -> None:
    """The 401st line would be left out."""
    columns = ", ".join(f"c{number} int" for number in range(410))
    change, text = await project.checked(
        f"create table public.wide (id int primary key, {columns}); alter table public.wide enable row level security"
    )
    assert "(cut: there is more than is listed" in text
    assert "split it into several changes" in await refused_to_ask(project, change)


def test_a_single_line_that_is_cut_marks_the_whole_difference() -> None:
    key = ("policy", "public.tasks p")
    before = Snapshot({key: "using (false)"}, ("public",))
    for characters, is_cut in ((difference.MAX_CHARACTERS // 2, False), (difference.MAX_CHARACTERS, True)):
        after = Snapshot({key: "x" * characters}, ("public",))
        assert difference.compare(before, after, {}, {}).is_cut is is_cut
        who = ("public.tasks", "anon", "select")
        assert difference.compare(before, before, {}, {who: "x" * characters}).is_cut is is_cut


async def test_a_worker_alone_cannot_approve(project: Project) -> None:
    """No approval row: the verb looks for a person's word, not for the worker's."""
    change, _ = await project.checked(COLUMN)
    call = await project.bench.planned("supabase_migrate", {"action": "apply", "change": change})
    assert (await approve(project, change, call.id))["refused"]["code"] == "not_agreed"
    assert (await untouched(project, change))["status"] == "checked"


async def test_a_no_is_not_a_yes(project: Project) -> None:
    """An admin declined this very call: the verb wants an approval, not a decision."""
    change, _ = await project.checked(COLUMN)
    call, ask = await project.asked(change)
    await project.bench.decided(call, ask, verdict="reject")
    assert (await approve(project, change, call.id))["refused"]["code"] == "not_agreed"
    assert (await untouched(project, change))["status"] == "checked"


async def test_a_yes_to_an_export_is_no_yes_to_applying(project: Project) -> None:
    """Approved while no operator was there, as a file that nobody tried; then an operator comes."""
    await project.stop_operator()
    await project.database.admin("update pam_private.operator_pulse set seen_at = now() - interval '1 minute'")
    change = await project.proposed(COLUMN)
    call, ask = await project.asked(change)
    decided = await project.bench.decided(call, ask, verdict="approve")
    await project.database.owner("select pam_private.operator_beat()")
    done = await project.bench.carry_out(decided)
    assert (done.status.value, "only a checked one is applied" in (done.result or "")) == ("refused", True)
    assert (await untouched(project, change))["status"] == "proposed"


async def test_a_policy_that_asks_nobody_applies_nothing(project: Project) -> None:
    """Consent set to never: the tool refuses without facts that a person saw."""
    bench = project.bench
    await project.database.rpc(
        bench.user_id, "set_policy", org_id=bench.org_id, role="owner", tool="supabase_migrate", effect="irreversible",
        consent="never", consent_after_untrusted="never",
    )  # fmt: skip
    change, _ = await project.checked(COLUMN)
    status, text = await bench.use("supabase_migrate", action="apply", change=change)
    assert (status, "Nobody has approved" in text) == ("refused", True)
    assert (await untouched(project, change))["status"] == "checked"


async def test_a_call_that_nobody_approved_is_not_another_calls_approval(project: Project) -> None:
    """The approval is found by the call's own id."""
    first, _ = await project.checked(COLUMN)
    call, ask = await project.asked(first)
    await project.bench.decided(call, ask, verdict="approve")
    other = await project.bench.planned("supabase_migrate", {"action": "apply", "change": first})
    assert (await approve(project, first, other.id))["refused"]["code"] == "not_agreed"
    await untouched(project, first)


async def test_an_approval_of_one_change_applies_no_other_of_the_same_name(project: Project) -> None:
    """The facts that the person saw name the change and its text."""
    first, _ = await project.checked(COLUMN, name="same")
    second, _ = await project.checked("drop table public.comments", name="same")
    call, ask = await project.asked(first)
    await project.bench.decided(call, ask, verdict="approve")
    assert (await approve(project, second, call.id))["refused"]["code"] == "not_agreed"
    assert (await project.row(second))["status"] == "checked"


async def test_arguments_edited_to_another_change_are_held_to_what_was_shown(project: Project) -> None:
    """The decider edits the id: what was shown and what would run are two things."""
    shown, _ = await project.checked(COLUMN)
    other, _ = await project.checked("drop table public.comments")
    call, ask = await project.asked(shown)
    status, text = await project.decided(call, ask, arguments={"action": "apply", "change": other})
    assert (status, "Nobody has approved this change" in text) == ("refused", True)
    assert (await project.row(other))["status"] == "checked"


async def test_an_approval_of_another_text_does_not_hold(project: Project) -> None:
    """A digest that is not the text's."""
    change, _ = await project.checked(COLUMN)
    call, ask = await project.asked(change)
    await project.bench.decided(call, ask, verdict="approve")
    assert (await approve(project, change, call.id, "0" * 64))["refused"]["code"] == "not_agreed"
    await untouched(project, change)


async def test_nobody_changes_a_text_after_it_was_proposed(project: Project) -> None:
    """Not the worker (no right), not a member (no right), not even the owner by mistake (a trigger)."""
    change, _ = await project.checked(COLUMN)
    swap = "update pam.schema_changes set sql = 'drop table public.tasks', sql_sha256 = encode(sha256('drop table public.tasks'), 'hex')"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="keeps its text"):
        await project.database.owner(swap)
    async with project.database.person(project.bench.user_id) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(swap.encode())
    async with await psycopg.AsyncConnection.connect(project.database.worker_dsn) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(swap.encode())
    assert (await untouched(project, change))["sql"] == COLUMN


async def test_a_text_swapped_with_all_guards_off_is_noticed_by_its_digest(project: Project) -> None:
    """Somebody with the superuser's rights swaps text and digest under an approval: the facts name the digest that was seen."""
    change, _ = await project.checked(COLUMN)
    call, ask = await project.asked(change)
    decided = await project.bench.decided(call, ask, verdict="approve")
    await project.database.admin(
        "set session_replication_role = replica; update pam.schema_changes set sql = 'drop table public.comments',"
        " sql_sha256 = encode(sha256('drop table public.comments'), 'hex')"
    )
    done = await project.bench.carry_out(decided)
    assert (done.status.value, "another text" in (done.result or "")) == ("refused", True)
    assert await project.history() == []


async def test_a_developers_word_is_not_enough(project: Project) -> None:
    """The organisation lets developers decide: the verb asks for an admin all the same."""
    developer = await project.as_member("developer")
    await project.database.rpc(
        project.bench.user_id, "set_policy", org_id=project.bench.org_id, role="developer", tool="supabase_migrate",
        effect="irreversible", consent="ask", consent_after_untrusted="ask", decided_by="developer",
    )  # fmt: skip
    change, _ = await developer.checked(COLUMN)
    status, text = await developer.decided(*await developer.asked(change))
    assert (status, "admin or owner" in text) == ("refused", True)
    await untouched(project, change)


async def test_four_eyes_are_two_people(project: Project) -> None:
    """The asker is an owner, and the policy wants somebody else."""
    bench = project.bench
    await project.database.rpc(
        bench.user_id, "set_policy", org_id=bench.org_id, role="owner", tool="supabase_migrate", effect="irreversible",
        consent="four_eyes", consent_after_untrusted="four_eyes",
    )  # fmt: skip
    change, _ = await project.checked(COLUMN)
    call, ask = await project.asked(change)
    with pytest.raises(AssertionError, match="Four eyes"):
        await bench.decided(call, ask, verdict="approve")
    await project.database.admin(  # forged past the door: the verb looks again
        "update pam.approvals set status = 'approved', decided_by = asker_id, decided_at = now() where id = %s", call.id
    )
    fault = await project.database.admin(
        "select pam_private.agreement_fault(jsonb_populate_record(c, jsonb_build_object('approval_call', %s::uuid))) as fault"
        " from pam.schema_changes c where c.id = %s", call.id, change,
    )  # fmt: skip
    assert "Four eyes" in fault[0]["fault"]["refused"]["message"]


async def test_an_old_approval_does_not_hold(project: Project) -> None:
    """Approved, and then nobody came for over an hour."""
    change, _ = await project.checked(COLUMN)
    decided = await project.bench.decided(*await project.asked(change), verdict="approve")
    await project.database.admin("update pam.approvals set decided_at = now() - interval '61 minutes'")
    done = await project.bench.carry_out(decided)
    assert (done.status.value, "too old" in (done.result or "")) == ("refused", True)
    await untouched(project, change)


async def test_a_change_of_another_organisation_is_not_there(project: Project) -> None:
    """Trusted too, but not its change: read, checked and applied as if it did not exist."""
    change, _ = await project.checked(COLUMN)
    other = await project.bench.elsewhere()
    await project.database.owner("select pam.trust_organization_with_schema(%s)", other.org_id)
    for action in ("check", "apply"):
        call = await other.planned("supabase_migrate", {"action": action, "change": change})
        carried = await other.carry_out_all(call)
        assert "no such change" in (carried.ended[0].result or "")
    _, text = await other.use("supabase_migrate", action="status")
    assert change not in text
    call = await other.planned("supabase_migrate", {"action": "apply", "change": change})
    foreign = Project(project.database, other)
    assert (await approve(foreign, change, call.id))["refused"]["code"] == "not_found"


async def test_an_organisation_that_is_not_trusted_sees_and_does_nothing(project: Project) -> None:
    """The schema is the whole project's: the owner's word comes first, for every action."""
    other = await project.bench.elsewhere()
    for arguments in (
        {"action": "status"},
        {"action": "propose", "name": "a", "sql": COLUMN},
        {"action": "check", "change": str(uuid4())},
        {"action": "apply", "change": str(uuid4())},
    ):
        carried = await other.carry_out_all(await other.planned("supabase_migrate", arguments))
        assert "not trusted" in (carried.ended[0].result or ""), arguments
    rows = await project.database.admin(
        "select 1 from pam.audit where org_id = %s and action = 'schema.propose' and not is_allowed", other.org_id
    )
    assert len(rows) == 1


async def test_trust_taken_back_after_the_approval_stops_the_operator(project: Project) -> None:
    """The operator looks at trust and approval again, in the transaction that applies."""
    change, _ = await project.checked(COLUMN)
    await _approved_but_not_taken(project, change)
    await project.database.owner("select pam.distrust_organization_with_schema(%s)", project.bench.org_id)
    row = await _taken(project, change)
    assert (row["status"], "not trusted" in row["failure"]) == ("failed", True)


async def test_an_approver_who_lost_the_role_meanwhile_did_not_approve(project: Project) -> None:
    """An admin approves and is removed before the operator comes."""
    admin = await project.database.new_member(project.bench.org_id, "admin")
    change, _ = await project.checked(COLUMN)
    await _approved_but_not_taken(project, change, by=admin)
    await project.database.rpc(project.bench.user_id, "remove_member", org_id=project.bench.org_id, user_id=admin)
    row = await _taken(project, change)
    assert (row["status"], "admin or owner" in row["failure"]) == ("failed", True)


async def _approved_but_not_taken(project: Project, change: str, **decision: Any) -> None:
    """Approved in the database while the operator is held up: a lock on its way."""
    await project.stop_operator()
    decided = await project.bench.decided(*await project.asked(change), verdict="approve", **decision)
    await tool_calls.begin(project.bench.hold, decided)
    row = await project.row(change)
    await schema_changes.approve(project.bench.hold, decided.id, UUID(change), sql_sha256=row["sql_sha256"])


async def _taken(project: Project, change: str) -> dict[str, Any]:
    """An operator comes, and does what there is to do."""
    async with operating(project.database, None):
        async with asyncio.timeout(10):
            while (row := await untouched(project, change))["status"] in ("approved", "applying"):
                await asyncio.sleep(0.02)
    return row


async def test_a_schema_that_drifted_after_the_check_is_not_touched(project: Project) -> None:
    """Somebody adds a column by hand between check and apply."""
    change, _ = await project.checked(COLUMN)
    await project.database.owner("alter table public.tasks add column mood text")
    status, text = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    assert (status, "check the change again" in text) == ("failed", True)
    assert (await untouched(project, change))["status"] == "proposed"
    assert (await project.bench.use("supabase_migrate", action="check", change=change))[0] == "succeeded"
    assert (await project.bench.agreed("supabase_migrate", action="apply", change=change))[0] == "succeeded"


async def test_a_right_given_by_hand_is_drift_too(project: Project) -> None:
    """The policy diff that the approver read would not be true any more."""
    change, _ = await project.checked(COLUMN)
    await project.database.owner("grant select on public.invoices to anon")
    status, text = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    assert (status, "check the change again" in text) == ("failed", True)
    await untouched(project, change)


async def test_a_history_that_drifted_is_not_touched(project: Project) -> None:
    """Somebody pushes with the Supabase CLI between check and apply."""
    change, _ = await project.checked(COLUMN)
    await project.database.owner(
        "create schema supabase_migrations; create table supabase_migrations.schema_migrations (version text not null primary key, statements text[], name text);"
        " insert into supabase_migrations.schema_migrations values ('20990101000000', '{}', 'theirs')"
    )
    status, text = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    assert (status, "check the change again" in text) == ("failed", True)
    assert await project.history() == ["20990101000000"]


async def test_two_operators_and_two_changes_at_once_apply_each_once(project: Project) -> None:
    """The second operator waits for its place; the second change finds the first's drift."""
    first, _ = await project.checked(COLUMN)
    second, _ = await project.checked("alter table public.tasks add column mood text")
    other = Project(project.database, await project.bench.beside())
    calls = [
        (p, await p.bench.decided(*await p.asked(c), verdict="approve")) for p, c in ((project, first), (other, second))
    ]
    until = asyncio.Event()
    rival = asyncio.create_task(project.operator_beside(until))
    done = await asyncio.gather(*(p.bench.carry_out(call) for p, call in calls))
    until.set()
    await rival
    assert sorted(call.status.value for call in done) == ["failed", "succeeded"]
    assert len(await project.history()) == 1
