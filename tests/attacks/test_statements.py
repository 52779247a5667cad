"""Attacks on the statistics of statements: they are everybody's, and hold what everybody wrote."""

import psycopg
import pytest

from tests.support.bench import Bench


async def test_statistics_of_everybody_are_for_the_trusted_alone(bench: Bench) -> None:
    status, told = await bench.use("log_search", store="statements")
    assert status == "refused"
    assert f"select pam.trust_organization_with_diagnostics('{bench.org_id}')" in told
    audit = await bench.database.admin("select is_allowed from pam.audit where action = 'diagnostics.read'")
    assert {"is_allowed": False} in audit


async def test_no_browser_and_no_worker_trusts_itself(bench: Bench) -> None:
    for role in ("authenticated", "anon", "service_role"):
        async with bench.database.person(bench.user_id, role=role) as connection:
            with pytest.raises(psycopg.Error, match="permission denied"):
                await connection.execute("select pam.trust_organization_with_diagnostics(%s)", [bench.org_id])
            await connection.rollback()
    async with await psycopg.AsyncConnection.connect(bench.database.worker_dsn) as connection:
        with pytest.raises(psycopg.Error, match="permission denied"):
            await connection.execute("select pam.trust_organization_with_diagnostics(%s)", [bench.org_id])


async def test_a_trusted_organisation_sees_statements_without_anybodys_values(bench: Bench) -> None:
    database = bench.database
    await database.owner("select pam.trust_organization_with_diagnostics(%s)", bench.org_id)
    await database.admin("create table public.secrets_of_others (id int, told text)")
    for statement_ in (
        "select told from public.secrets_of_others where told = 'canary-literal' and id = 4711",
        "/* tenant canary-comment */ select id from public.secrets_of_others",
        "select told /* canary-inside */ from public.secrets_of_others",
        "select id, id from public.secrets_of_others -- canary-tail",
        "select 'canary-into' as told into temp secrets_of_nobody",
        "create table public.canary_utility (secrets_of_others int default 4712)",
        "create role canary_role password 'canary-password'",
        "do $$ begin perform 'canary-block'; end $$",
        "drop role canary_role",
    ):
        await database.owner(statement_) if "secrets_of" not in statement_ else await database.admin(statement_)
    status, text = await bench.use("log_search", store="statements", text="secrets_of_others", limit=100)
    assert status == "succeeded", text
    assert "where told = $1 and id = $2" in text
    everything = (await bench.use("log_search", store="statements", limit=100))[1]
    assert "canary-" not in text + everything
    assert "4711" not in text + everything
    assert "4712" not in text + everything
    for order in ("mean_time", "calls", "rows", "reads"):
        assert (await bench.use("log_search", store="statements", order_by=order))[0] == "succeeded"
    await database.owner("select pam.distrust_organization_with_diagnostics(%s)", bench.org_id)
    assert (await bench.use("log_search", store="statements"))[0] == "refused"


async def test_what_cannot_narrow_statements_is_not_passed_over(bench: Bench) -> None:
    await bench.database.owner("select pam.trust_organization_with_diagnostics(%s)", bench.org_id)
    status, told = await bench.use("log_search", store="statements", since="last 1 h", level="error")
    assert (status, told) == ("failed", "level, since cannot narrow statements: give text, order_by and limit alone.")


async def test_trust_in_one_organisation_is_no_trust_in_another(bench: Bench) -> None:
    other = await bench.elsewhere()
    await bench.database.owner("select pam.trust_organization_with_diagnostics(%s)", other.org_id)
    assert (await bench.use("log_search", store="statements"))[0] == "refused"
    assert (await other.use("log_search", store="statements"))[0] == "succeeded"


async def test_an_order_that_is_a_column_or_a_statement_is_refused(bench: Bench) -> None:
    await bench.database.owner("select pam.trust_organization_with_diagnostics(%s)", bench.org_id)
    for order in ("queryid; drop table x", "query", "total_exec_time", ""):
        answer = await bench.database.worker(
            "read_statements", run_id=bench.hold.run_id, fence=bench.hold.fence, order_by=order, words=None, max_rows=5
        )
        assert answer["refused"]["code"] == "invalid"
