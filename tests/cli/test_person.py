"""What a person reads when there is more of it than a server gives at once: 1,000 rows, in no order of its own."""

from pathlib import Path

import pytest

from infra.cli import jobs
from infra.cli.person import CommandFailed
from infra.local.facts import StackFacts
from tests.cli.test_workspace import Desk
from tests.support.database import DEFINITION
from tests.support.house import House

# Names that an address must carry unharmed from page to page.
MANY_FILES = """
insert into pam.files (org_id, path, version, sha256, size_bytes, is_text, kept_bytes, updated_by)
select %s, 'd/' || lpad(n::text, 5, '0') || ' & + "ü", (x).txt', 1, repeat('0', 64), 0, true, 0, gen_random_uuid()
  from generate_series(1, 1203) as n order by random()"""
MANY_JOBS = """
insert into pam.jobs (org_id, name, task, arguments, status, due_at, user_id, agent_id, agent_version, limits,
  max_attempts, depth, created_at)
select org_id, 'number ' || n, 'redis_get', '{}', 'succeeded', now(), gen_random_uuid(), id, version, '{}', 1, 1,
  now() - make_interval(secs => n)
  from pam.agents, generate_series(1, 1203) as n where org_id = %s order by random()"""


async def test_more_files_than_a_server_gives_at_once_are_all_known(
    stack: StackFacts, house: House, tmp_path: Path
) -> None:
    desk = await Desk.sit(stack, tmp_path)
    await house.admin(MANY_FILES, desk.org_id)
    stored = await house.admin("select path from pam.files where org_id = %s", desk.org_id)
    capped = await desk.person.select("files", "path", org_id=desk.org_id)
    assert len(capped) == 1000, "what select_all is for"

    read = [row["path"] async for row in desk.person.select_all("files", "path", by="path", org_id=desk.org_id)]
    assert len(read) == 1203
    assert {*read} == {row["path"] for row in stored}
    newest = await desk.person.select("files", "path", order="path", limit=2, org_id=desk.org_id)
    assert [row["path"] for row in newest] == [max(read), max(path for path in read if path != max(read))]

    for name in (*read[::200], read[-1], "d/new.txt"):
        file = tmp_path / "sample" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("as it was")
    assert await desk.person.put_files(desk.org_id, tmp_path / "sample") == 1, "what is there stays as it is"


async def test_the_newest_fifty_jobs_are_listed_newest_first(stack: StackFacts, house: House, tmp_path: Path) -> None:
    desk = await Desk.sit(stack, tmp_path)
    await desk.person.call("import_agent", org_id=desk.org_id, name="a", definition=DEFINITION, source="# card")
    await house.admin(MANY_JOBS, desk.org_id)

    listed = (await jobs.list_jobs(desk.env, status=None, console=desk.console))["jobs"]

    assert [row["name"] for row in listed] == [f"number {n}" for n in range(1, 51)]
    with pytest.raises(CommandFailed, match=r'^jobs: invalid input value for enum .*"gone"'):
        await jobs.list_jobs(desk.env, status="gone", console=desk.console)
