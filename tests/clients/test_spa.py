"""The README's snippet for a browser, run word for word with the real supabase-js: no server of PAM's in between."""

import asyncio
import re
from pathlib import Path
from uuid import uuid4

from infra.cli.setting import home
from infra.local.lite import Lite, deno_program
from infra.local.stack import ROOT
from tests.support.house import House, assert_valid

ANSWERS = """
name: NAME
when: "which tasks are overdue"
turns:
  - expect: {role: user, tools: [database_query]}
    say: "I look at the tasks that you may see."
    call: [{database_query: {sql: "select count(*) as overdue from public.projects"}}]
  - expect: {role: tool, contains: ["1 rows"]}
    say: "None is overdue."
    seconds_per_word: 0.1
"""
GIVEN = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "EMAIL", "PASSWORD")


def snippet() -> str:
    """The first js block behind the mark in the README."""
    found = re.search(r"<!-- spa -->\s*```js\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "README.md shows a browser's code behind <!-- spa -->, as a js block"
    return found[1]


async def test_the_readmes_page_starts_and_watches_a_run(house: House, tmp_path: Path) -> None:
    await house.script(ANSWERS)
    lines = [f'const {name} = Deno.env.get("{name}");' for name in GIVEN]
    page = tmp_path / "page.js"
    page.write_text("\n".join(lines) + "\n" + snippet() + "\nDeno.exit(0);  // supabase-js keeps a timer\n")
    email = f"{uuid4().hex}@example.com"
    given = dict(zip(GIVEN, (house.facts.url, house.facts.publishable_key, email, uuid4().hex), strict=True))
    lite = Lite(home=home())
    child = await asyncio.create_subprocess_exec(
        deno_program(), "run", "--no-prompt", "--cached-only", "--config", lite.folder / "deno.json",
        "--allow-net=127.0.0.1", "--ignore-env", f"--allow-env={','.join(GIVEN)}", page,
        env={**given, "DENO_DIR": str(home() / "deno"), "NO_COLOR": "1", "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(child.communicate(), 60)
    told = output.decode().splitlines()
    assert child.returncode == 0, output.decode()

    runs = await house.admin(
        "select r.id from pam.runs r join auth.users u on u.id = r.user_id where u.email = %s", email
    )
    assert len(runs) == 1
    events = await house.events(str(runs[0]["id"]))
    assert_valid(events)
    numbered = [line.split(" ", 2)[:2] for line in told if line[:1].isdigit()]
    assert numbered == [[str(seq), event["type"]] for seq, event in enumerate(events, start=1)]
    assert told[-1].startswith(f"{len(events)} RUN_FINISHED")
    assert any(line.startswith("…") for line in told), "the text is seen while it is written"
