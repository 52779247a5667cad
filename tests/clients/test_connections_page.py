"""The page on connections, word for word: its SQL as an owner, its browser code under a real WebCrypto and supabase-js."""

import asyncio
import json
import re
from pathlib import Path

from infra.cli.setting import home
from infra.local.lite import Lite, deno_program
from infra.local.stack import ROOT
from tests.support.database import Database
from tests.support.house import House

PAGE = ROOT / "workers" / "outbound" / "connections.md"
CANARY = "canary-31fd0b6e85c24a97"
GIVEN = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "TOKEN", "ORG_ID", "SECRET", "NEXT_SECRET")
BEFORE = """
import { createClient } from "@supabase/supabase-js";
const supabase = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, { accessToken: async () => TOKEN });
"""


def block(kind: str, *, behind: str = "") -> str:
    found = re.search(rf"{behind}\s*```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, kind
    return found[1]


async def test_the_pages_browser_code_seals_what_a_worker_opens(house: House, tmp_path: Path) -> None:
    engineer = await house.engineer()
    session = await engineer.person.client.auth.get_session()
    assert session is not None
    async with asyncio.timeout(20):  # the worker of the stack puts its public key out
        while not await house.admin("select 1 from pam_private.sealing_keys"):
            await asyncio.sleep(0.1)
    lines = [f'const {name} = Deno.env.get("{name}");' for name in GIVEN]
    page = tmp_path / "page.js"
    page.write_text("\n".join(lines) + BEFORE + block("js", behind="<!-- seal -->") + "\nDeno.exit(0);\n")
    values = (
        house.facts.url, house.facts.publishable_key, session.access_token, engineer.org_id, f"{CANARY}1", f"{CANARY}2",
    )  # fmt: skip
    lite = Lite(home=home())
    child = await asyncio.create_subprocess_exec(
        deno_program(), "run", "--no-prompt", "--cached-only", "--config", lite.folder / "deno.json",
        "--allow-net=127.0.0.1", "--ignore-env", f"--allow-env={','.join(GIVEN)}", page,
        env={**dict(zip(GIVEN, values, strict=True)), "DENO_DIR": str(home() / "deno"), "NO_COLOR": "1", "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(child.communicate(), 60)
    told = dict(line.split(" ", 1) for line in output.decode().splitlines())
    assert [json.loads(told[word])["version"] for word in ("added", "rotated")] == [1, 2], output.decode()

    async with asyncio.timeout(20):  # a worker that could not open it would say so as the connection's fault
        while True:
            (row,) = await house.admin(
                "select c.fault, s.sealed from pam.connections c join pam_private.connection_secrets s"
                " on s.connection_id = c.id where c.org_id = %s",
                engineer.org_id,
            )
            assert row["fault"] is None
            if row["sealed"] is not None:
                break
            await asyncio.sleep(0.1)
    for process in ("worker-1", "postgres", "gateway", "lite"):
        assert CANARY not in house.log(process), process


async def test_the_pages_sql_runs_for_an_owner(database: Database) -> None:
    owner, org = await database.new_organization()
    async with database.person(owner) as asking:
        for statement in filter(str.strip, block("sql").split(";\n")):
            rows = await (await asking.execute(statement.replace(":org_id", f"'{org}'").encode())).fetchall()
            assert rows == []
