"""The zips and the template that go to AWS: right processor, nothing too much, the same twice, and no secret."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra.deploy.bundle import BUNDLES, OWN_PACKAGES, BundleFailed, build, imports, sources

ROOT = Path(__file__).parents[2]
NO_NETWORK = re.compile(r"error sending request|failed to fetch|dns error|timed out|could not connect", re.I)
NEVER = {"openai", "supabase", "realtime", "boto3", "botocore", "uvicorn", "infra", "tests"}
CANARY = "canary-of-a-secret"


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles, built once."""
    try:
        return {path.stem: path for path in build(tmp_path_factory.mktemp("bundles"))}
    except BundleFailed as failure:
        if NO_NETWORK.search(str(failure)):
            pytest.skip(f"the package index cannot be reached, so no bundle can be built: {failure}")
        raise


def names(path: Path) -> list[str]:
    return zipfile.ZipFile(path).namelist()


def test_every_bundle_is_for_arm_and_python_3_13_and_small(zips: dict[str, Path]) -> None:
    assert set(zips) == {"api", "hooks", "sweep"}
    for name, path in zips.items():
        assert path.stat().st_size < 20_000_000, name
        archive = zipfile.ZipFile(path)
        machines = set()
        for entry in archive.namelist():
            if entry.endswith(".so") or ".so." in entry:
                header = archive.read(entry)[:20]
                assert header[:4] == b"\x7fELF"
                machines.add(int.from_bytes(header[18:20], "little"))
            if entry.endswith(".so"):
                assert "cpython-313-aarch64" in entry or "abi3" in entry, entry
        assert machines <= {183}, name  # EM_AARCH64
    assert any(entry.endswith(".so") for entry in names(zips["api"]))


def test_two_builds_are_the_same_bytes(zips: dict[str, Path], tmp_path: Path) -> None:
    for again in build(tmp_path):
        assert again.read_bytes() == zips[again.stem].read_bytes(), again.stem


def test_no_bundle_carries_what_its_function_must_not_hold(zips: dict[str, Path]) -> None:
    has = {name: {entry.split("/")[0].split(".")[0] for entry in names(path)} for name, path in zips.items()}
    for name in zips:
        assert not has[name] & NEVER, name
        assert "functions/__init__.py" in names(zips[name])
    assert not has["api"] & {"psycopg", "psycopg_binary", "redis", "rq"}
    assert not has["hooks"] & {"fastapi", "pydantic", "httpx", "jwt", "psycopg"}
    assert not has["sweep"] & {"fastapi", "starlette", "pydantic", "httpx", "mangum"}
    assert {f"functions/{noun}.py" for noun in ("main", "approvals", "runs", "events", "threads")} <= set(
        names(zips["api"])
    )
    assert "functions/hooks.py" not in names(zips["api"])
    assert "workers/kernel/worker_gateway.py" not in names(zips["api"])


def test_everything_that_a_bundle_imports_is_in_it(zips: dict[str, Path]) -> None:
    provided = {"uvicorn"}  # by whoever runs `python -m functions.main`; Lambda never does
    for bundle in BUNDLES:
        has = {entry.split("/")[0].removesuffix(".py") for entry in names(zips[bundle.name])}
        for source in sources(bundle.module):
            assert source.relative_to(ROOT).as_posix() in names(zips[bundle.name])
            needed = {name.split(".")[0] for name in imports(source)}
            missing = needed - has - provided - sys.stdlib_module_names - set(OWN_PACKAGES)
            assert not missing, (source, missing)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """serverless.yml as osls turns it into CloudFormation, with Deno and without credentials."""
    deno = shutil.which("deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert deno is not None
    folder = tmp_path_factory.mktemp("service")
    shutil.copyfile(ROOT / "serverless.yml", folder / "serverless.yml")
    (folder / "build" / "lambda").mkdir(parents=True)
    for bundle in BUNDLES:
        empty = io.BytesIO()
        zipfile.ZipFile(empty, "w").close()
        (folder / "build" / "lambda" / f"{bundle.name}.zip").write_bytes(empty.getvalue())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"CI": "1", "SLS_TRACKING_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off"}
    environment |= dict.fromkeys(
        ("PAM_WEBHOOK_SECRET", "REDIS_URL", "PAM_SWEEPER_DATABASE_URL", "SUPABASE_JWT_SECRET", "OPENAI_API_KEY"),
        CANARY,
    )
    done = subprocess.run(
        [deno, "run", "-A", "npm:osls@4.3.1", "package", "--stage", "test"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    if done.returncode and NO_NETWORK.search(done.stderr):
        pytest.skip(f"osls is not in the cache and cannot be fetched: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr + done.stdout
    made = (folder / ".serverless" / "cloudformation-template-update-stack.json").read_text()
    assert CANARY not in made
    document: dict[str, Any] = json.loads(made)
    return document


def _functions(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        resource["Properties"]["FunctionName"].removeprefix("pam-test-"): resource["Properties"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::Lambda::Function"
    }


def test_the_template_has_three_functions_for_arm_and_python_3_13(template: dict[str, Any]) -> None:
    found = _functions(template)
    assert {name: one["Handler"] for name, one in found.items()} == {
        bundle.name: f"{bundle.module}.handler" for bundle in BUNDLES
    }
    for one in found.values():
        assert (one["Runtime"], one["Architectures"]) == ("python3.13", ["arm64"])
    kept = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::Logs::LogGroup"]
    assert [group["RetentionInDays"] for group in kept] == [30, 30, 30]
    schedules = [
        r["Properties"]["ScheduleExpression"]
        for r in template["Resources"].values()
        if r["Type"] == "AWS::Events::Rule"
    ]
    assert schedules == ["rate(1 minute)"]
    routes = {
        r["Properties"]["RouteKey"] for r in template["Resources"].values() if r["Type"] == "AWS::ApiGatewayV2::Route"
    }
    assert routes == {"$default", "POST /hooks/run-queued"}


def test_each_function_is_told_only_what_it_needs_and_no_secret_is_written_down(
    template: dict[str, Any],
) -> None:
    told = {name: one["Environment"]["Variables"] for name, one in _functions(template).items()}
    assert {name: set(variables) for name, variables in told.items()} == {
        "api": {"SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "PAM_ALLOWED_ORIGINS"},
        "hooks": {"REDIS_URL", "PAM_WEBHOOK_SECRET"},
        "sweep": {"REDIS_URL", "PAM_SWEEPER_DATABASE_URL"},
    }
    for variables in told.values():
        for name, value in variables.items():
            if name != "PAM_ALLOWED_ORIGINS":
                assert re.fullmatch(r"\{\{resolve:(ssm|secretsmanager):[^{}]+\}\}", value), name
    policies = json.dumps([r for r in template["Resources"].values() if r["Type"] == "AWS::IAM::Role"])
    assert set(re.findall(r'"(\w+):\w+"', policies)) <= {"logs", "sts"}
