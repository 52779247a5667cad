"""`pam doctor`: what it looks at, here and in a hosted project, and that its words lead to what mends it."""

import io
import shlex
from collections.abc import Callable
from itertools import product
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from infra.__main__ import venv_of
from infra.cli import doctor, doctor_hosted, doctor_machine
from infra.cli.finding import Finding
from infra.cli.setting import home
from infra.local.facts import StackFacts
from infra.local.processes import ProcessFailed
from tests.cli.command import Pam
from tests.support.database import Database
from workers import jobs
from workers.kernel.errors import SettingMissing
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.settings import WorkerSettings
from workers.sandbox.probe import probe, sandbox_home
from workers.sandbox.sandbox import NoSandbox, Sandbox

OTHERS = (
    "PAM_DATABASE_URL", "PAM_AGENT_DATABASE_URL", "REDIS_URL", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN",
    "OPENAI_API_KEY",
)  # fmt: skip


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


async def test_doctor_says_how_things_stand_without_starting_anything(newcomer: Pam) -> None:
    ended = await newcomer.run("doctor", "--json")

    report = ended.json()
    assert {"Python", "platform", "disk", "Postgres", "Redis", "Deno", "code sandbox", "stack", "model"} <= {
        finding["name"] for finding in report["findings"]
    }
    sandbox = await probe(home=sandbox_home(str(home())))
    unwell = [finding["name"] for finding in report["findings"] if not finding["is_well"]]
    assert unwell == ([] if sandbox.languages else ["code sandbox"])
    assert (report["ok"], ended.status) == (not unwell, len(unwell)), ended.stderr
    assert [finding["seen"] for finding in report["findings"] if finding["name"] == "code sandbox"] == [sandbox.summary]
    assert newcomer.facts is None


async def test_where_no_sandbox_holds_it_is_said_and_matters_where_workers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none_holds(*, home: Path) -> Sandbox:
        return NoSandbox(why=("Namespaces are closed.",))

    monkeypatch.setattr(doctor_machine, "probe", none_holds)
    here, elsewhere = [await doctor_machine.look_at_sandbox(is_needed=needed) for needed in (True, False)]
    assert (here.is_well, elsewhere.is_well) == (False, True)
    assert "Namespaces are closed." in here.seen
    assert "Namespaces are closed." in elsewhere.seen
    assert f"PAM_HOME={shlex.quote(str(home()))}" in here.mend
    assert here.mend.endswith("-m workers.sandbox install")

    async def full(*, home: Path) -> Sandbox:
        raise OSError(28, "No space left on device", str(home))

    monkeypatch.setattr(doctor_machine, "probe", full)
    assert "No space left on device" in (await doctor_machine.look_at_sandbox(is_needed=True)).seen


def test_a_program_that_is_missing_is_mended_by_the_folder_that_really_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> Path:
        raise ProcessFailed("redis-server is not there")

    monkeypatch.setattr(doctor_machine, "server_program", missing)
    redis = named(doctor_machine.look_at_machine(), "Redis")
    assert not redis.is_well
    assert f"remove the folder {venv_of(home())} and" in redis.mend


@pytest.mark.parametrize(("bucket", "folder"), [*product(("", "files"), ("", "folder"))])
@pytest.mark.parametrize(("kms", "key_file"), [*product(("", "alias/new, alias/old", " ,"), ("", "keys.json"))])
async def test_storage_and_key_are_well_exactly_when_a_worker_starts_with_them(
    tmp_path: Path, bucket: str, folder: str, kms: str, key_file: str
) -> None:
    LocalKeyRing.make_file(tmp_path / "keys.json")
    given = {
        "PAM_FILES_BUCKET": bucket,
        "PAM_FILES_FOLDER": folder and str(tmp_path / folder),
        "PAM_KMS_KEY_ID": kms,
        "PAM_KEY_FILE": key_file and str(tmp_path / key_file),
    }
    try:
        settings = WorkerSettings.read({**dict.fromkeys(OTHERS, "x"), **given})
        jobs.blobs_of(settings, jobs.envelope_of(settings))
        starts = True
    except SettingMissing:
        starts = False

    storage, key = doctor_hosted._storage(given), await doctor_hosted._key(given)

    assert (storage.is_well and key.is_well) is starts, (storage, key)
    assert not storage.is_well or (bucket or given["PAM_FILES_FOLDER"]) in storage.seen
    assert not key.is_well or (kms.partition(",")[0].strip() or given["PAM_KEY_FILE"] or "none: ") in key.seen
    assert all(finding.is_well or "No worker starts" in finding.mend for finding in (storage, key))


async def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    absent = await doctor_hosted._key({"PAM_KEY_FILE": str(tmp_path / "keys.json")})
    assert (absent.is_well, f"{tmp_path}/keys.json cannot be read" in absent.seen) == (False, True)

    LocalKeyRing.make_file(tmp_path / "keys.json")
    (tmp_path / "keys.json").chmod(0o644)
    assert not (await doctor_hosted._key({"PAM_KEY_FILE": str(tmp_path / "keys.json")})).is_well


async def operator_of(database: Database) -> Finding:
    return named(await doctor_hosted._project(database.owner_dsn), "operator")


async def test_the_operators_pulse_is_read_and_its_silence_is_missed(database: Database) -> None:
    never = await operator_of(database)
    assert (never.is_well, "exported as a migration file" in never.seen) == (True, True)

    await database.owner("select pam_private.operator_beat()")
    alive = await operator_of(database)
    assert (alive.is_well, alive.seen.startswith("last heard of 0:00:")) == (True, True), alive

    await database.owner("update pam_private.operator_pulse set seen_at = now() - interval '75 minutes'")
    silent = await operator_of(database)
    assert (silent.is_well, silent.seen.startswith("last heard of 1:15:")) == (False, True), silent
    assert "`pam operator`" in silent.mend

    await database.owner("drop table pam_private.operator_pulse")
    older = await operator_of(database)
    assert (older.is_well, "`pam upgrade`" in older.mend) == (False, True), older


@pytest.fixture
def project(stack: StackFacts) -> dict[str, str]:
    """The .env of a hosted project that has everything."""
    return {**stack.environment(), "PAM_OWNER_DATABASE_URL": stack.owner_dsn, "OPENAI_API_KEY": "sk-none"}


async def examined(env: dict[str, str]) -> tuple[bool, Callable[[str], Finding], str]:
    said = io.StringIO()
    report = await doctor.run_doctor(env, console=Console(file=said, width=60))
    findings = [Finding(**told) for told in report["findings"]]
    return report["ok"], lambda name: named(findings, name), said.getvalue()


async def test_a_hosted_project_that_has_everything_is_well(project: dict[str, str]) -> None:
    is_ok, finding, said = await examined(project)

    assert is_ok, said
    assert finding("file storage").seen == f"the folder {project['PAM_FILES_FOLDER']}, sealed"
    assert finding("sealing key").seen == f"the key file {project['PAM_KEY_FILE']}"
    assert finding("operator").seen.startswith("last heard of 0:00:"), "the stack's own"
    assert f"✔ sealing key: the key file {project['PAM_KEY_FILE']}\n" in said, "on one line, to be copied"


async def test_a_login_that_fails_leads_to_the_option_that_makes_new_passwords(project: dict[str, str]) -> None:
    wrong = psycopg.conninfo.make_conninfo(project["PAM_DATABASE_URL"], password="wrong")

    is_ok, finding, said = await examined({**project, "PAM_DATABASE_URL": wrong})

    assert not is_ok
    assert not finding("PAM_DATABASE_URL").is_well
    assert "`pam install --renew` makes new passwords" in said
    assert finding("PAM_AGENT_DATABASE_URL").is_well
