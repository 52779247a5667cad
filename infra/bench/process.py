"""Figures of one process: a cold import, a warm call through Mangum, a look of the SQL guard."""

import asyncio
import json
import os
import sys
import time
from typing import Any

import postgast
from mangum import Mangum

from functions.main import create_app
from functions.settings import ApiSettings
from infra.bench.measure import MICROSECOND, Row, Timed, compared, repeated
from infra.local.stack import ROOT
from workers.tools import sql_guard

HEAVY = ("openai", "supabase", "realtime", "boto3", "botocore", "psycopg", "rq", "redis")
HEALTH = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/health",
    "rawQueryString": "",
    "headers": {"host": "api.example.com", "accept": "application/json"},
    "requestContext": {
        "http": {"method": "GET", "path": "/health", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": ""},
        "stage": "$default",
    },
    "isBase64Encoded": False,
}
STATEMENT = """
select p.name as project, count(*) as overdue, min(t.due_on) as oldest
from public.tasks t join public.projects p on p.id = t.project_id
where t.status <> 'done' and t.due_on < current_date and t.priority = any ($1)
group by p.name order by overdue desc, p.name limit 50"""


async def _python(program: str) -> str:
    """What a new Python prints, with no settings around."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"python -c {program!r} ended with status {child.returncode}")
    return out.decode()


def _starts(program: str) -> Timed:
    async def once() -> float:
        began = time.perf_counter()
        await _python(program)
        return time.perf_counter() - began

    return once


async def cold_import(module: str) -> Row:
    """A new process that imports a function, against one that imports json; and which heavy libraries came along."""
    loaded = json.loads(await _python(f"import sys, json, {module}; print(json.dumps(list(sys.modules)))"))
    heavy = sorted({name.partition(".")[0] for name in loaded} & set(HEAVY))
    return await compared(
        f"cold import of {module}",
        _starts(f"import {module}"),
        "import json",
        _starts("import json"),
        note=f"heavy modules loaded: {', '.join(heavy) or 'none'}",
    )


async def warm_call() -> Row:
    """GET /health as an API Gateway event through Mangum, against the same app called by ASGI."""
    settings = ApiSettings(supabase_url="http://127.0.0.1:9", publishable_key="none")
    app = create_app(settings)
    handler = Mangum(app, lifespan="off")

    def through_mangum() -> None:
        answer = handler(dict(HEALTH), None)  # type: ignore[arg-type]
        assert answer["statusCode"] == 200

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/health",
        "raw_path": b"/health",
        "query_string": b"",
        "headers": [(b"host", b"api.example.com"), (b"accept", b"application/json")],
        "server": ("api.example.com", 443),
        "client": ("192.0.2.1", 0),
    }

    async def direct() -> float:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            assert message.get("status", 200) == 200

        began = time.perf_counter()
        for _ in range(100):
            await app(dict(scope), receive, send)
        return (time.perf_counter() - began) / 100

    def in_a_loop_of_its_own() -> float:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)  # Mangum runs the app on the thread's loop
        try:
            began = time.perf_counter()
            for _ in range(100):
                through_mangum()
            return (time.perf_counter() - began) / 100
        finally:
            loop.close()

    async def mangum() -> float:
        return await asyncio.to_thread(in_a_loop_of_its_own)

    return await compared("warm GET /health through Mangum", mangum, "the same by ASGI", direct, unit=MICROSECOND)


async def guard_look() -> Row:
    """The SQL guard on a typical statement, against the parser alone."""
    return await compared(
        "SQL guard, a typical statement",
        repeated(lambda: sql_guard.check(STATEMENT), 100),
        "postgast.parse",
        repeated(lambda: postgast.parse(STATEMENT), 100),
        unit=MICROSECOND,
    )
