"""Imports run one way, heavy libraries stay where they belong, and a cold start loads little."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import PACKAGES, ROOT, imports, imports_of, modules, named

# What each room may import of the house. The longest name that fits is a module's room.
MAY_IMPORT = {
    "workers.kernel": ("workers.kernel",),
    "workers.model": ("workers.model", "workers.kernel"),
    "workers.logs": ("workers.logs", "workers.kernel"),
    "workers.outbound": ("workers.outbound", "workers.kernel"),
    "workers.sandbox": ("workers.sandbox", "workers.kernel"),
    "workers.tools": ("workers.tools", "workers.outbound", "workers.logs", "workers.sandbox", "workers.kernel"),
    "workers.agent": ("workers.agent", "workers.tools", "workers.outbound", "workers.model", "workers.kernel"),
    "workers": ("workers",),
    "functions": ("functions", "workers.kernel"),
    "infra": ("infra", "workers", "functions"),
    "tests": ("tests", "infra", "workers", "functions"),
}
# Who alone may import a library, and whether only inside a function. infra and tests stand outside the product.
ONLY: dict[str, dict[str, str]] = {
    "openai": {"workers/model/openai_wire.py": "at once"},
    "rq": {"workers/kernel/runqueue.py": "lazily", "workers/run_worker.py": "at once", "functions/hooks.py": "lazily"},
    "redis": {"workers/kernel/runqueue.py": "lazily", "workers/run_worker.py": "at once"},
    "psycopg": {
        "workers/kernel/worker_gateway.py": "at once",
        "workers/tools/bound_sql.py": "at once",
        "workers/tools/bound_writes.py": "at once",
        "workers/tools/sql_limits.py": "at once",
        "functions/sweep.py": "at once",
    },
    "upstash_redis": {"workers/tools/redis_space.py": "at once", "workers/outbound/breaker.py": "at once"},
    "httpcore": {
        "workers/outbound/network.py": "at once",
        "workers/outbound/exchange.py": "at once",
        "workers/jobs.py": "at once",
    },
    "supabase": {},
    "realtime": {},
    "boto3": {
        "workers/kernel/kms.py": "lazily",
        "workers/kernel/s3_blobs.py": "lazily",
        "workers/logs/cloudwatch.py": "lazily",
    },
}
HEAVY = ("openai", "supabase", "realtime", "boto3", "botocore", "psycopg", "rq", "redis", "postgast", "typer")


def room_of(module: str) -> str:
    return max((room for room in MAY_IMPORT if f"{module}.".startswith(f"{room}.")), key=len)


def is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def dotted_name(path: Path) -> str:
    return named(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_a_room_imports_only_what_stands_below_it() -> None:
    wrong = [
        f"{named(path)}:{found.line}: {found.name}"
        for path in modules(*PACKAGES)
        for found in imports_of(path)
        if is_below(found.name, PACKAGES) and not is_below(found.name, MAY_IMPORT[room_of(dotted_name(path))])
    ]
    assert not wrong


def test_a_library_is_imported_only_where_it_belongs() -> None:
    wrong = []
    for path in modules("workers", "functions"):
        for found in imports_of(path):
            owners = ONLY.get(found.name.partition(".")[0], {named(path): "at once"})
            how = owners.get(named(path), "nowhere")
            if found.name == "?" or how == "nowhere" or (how == "lazily" and not found.is_lazy):
                wrong.append(f"{named(path)}:{found.line}: {found.name} ({how} here; its places: {', '.join(owners)})")
    assert not wrong


def test_every_library_that_has_a_place_is_imported_there() -> None:
    imported = {
        (named(path), found.name.partition(".")[0])
        for path in modules("workers", "functions")
        for found in imports_of(path)
    }
    assert {(place, library) for library, places in ONLY.items() for place in places} <= imported


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import openai", "openai"),
        ("import openai.types as t", "openai.types"),
        ("from openai import AsyncOpenAI", "openai.AsyncOpenAI"),
        ("from workers import agent", "workers.agent"),
        ("from . import loop", "workers.model.loop"),
        ("from ..agent.loop import Loop", "workers.agent.loop.Loop"),
        ("from .. import agent as a", "workers.agent"),
        ("import importlib\nimportlib.import_module('workers.agent.loop')", "workers.agent.loop"),
        ("from importlib import import_module\nimport_module('rq')", "rq"),
        ("__import__('rq')", "rq"),
        ("def f():\n    import rq", "rq"),
        ("if True:\n    try:\n        import rq\n    except ImportError:\n        pass", "rq"),
        ("import_module(name)", "?"),
        ("x = [import_module('rq') for _ in ()]", "rq"),
    ],
)
def test_every_spelling_of_an_import_is_seen(text: str, seen: str) -> None:
    assert seen in {found.name for found in imports(ast.parse(text), package="workers.model")}


def test_an_import_for_types_alone_is_no_arrow() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rq"
    assert {found.name for found in imports(ast.parse(text), package="x")} == {"typing.TYPE_CHECKING"}


def loaded_by(*names: str) -> set[str]:
    """The top-level packages that a new Python holds after importing these modules, with no settings around."""
    program = f"import sys, json\nfor n in {names!r}: __import__(n)\nprint(json.dumps(sorted(sys.modules)))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(ended.stdout)}


def modules_of(*packages: str) -> list[str]:
    return [name for name in map(dotted_name, modules("workers")) if is_below(name, packages)]


def test_the_kernel_loads_no_provider_and_no_queue() -> None:
    names = modules_of("workers.kernel")
    assert "workers.kernel.runqueue" in names
    assert not loaded_by(*names) & {"openai", "rq", "redis", "boto3", "botocore"}


def test_the_loop_and_its_tools_load_no_provider() -> None:
    names = modules_of("workers.agent", "workers.tools")
    assert "workers.agent.loop" in names
    assert not loaded_by(*names) & {"openai", "rq", "boto3", "botocore"}


@pytest.mark.parametrize("name", ["functions.main", "functions.hooks"])
def test_a_function_starts_cold_with_little_in_its_bags(name: str) -> None:
    assert not loaded_by(name) & set(HEAVY)


def test_the_hook_starts_without_fastapi() -> None:
    assert not loaded_by("functions.hooks") & {"fastapi", "httpx"}


def test_the_command_line_answers_help_without_loading_the_world() -> None:
    assert not loaded_by("infra.cli.app") & {"openai", "postgast", "rq", "mangum", "uvicorn"}
