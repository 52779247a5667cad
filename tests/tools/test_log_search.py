"""log_search through the whole path: a real run finds what its own worker logged on the stack, and nobody else does."""

import re

from tests.support.bench import Bench
from tests.support.house import House

LOOKING_BACK = """
name: NAME
when: NAME
turns:
  - expect: {role: user, contains: ["NAME"], tools: [log_search]}
    call: [{redis_set: {key: "mark", value: "canary-of-the-value"}}]
  - expect: {role: tool, result_of: redis_set}
    call: [{log_search: {since: "last 10 min", fields: {event: "tool call ended"}, order: oldest}}]
  - expect: {role: tool, result_of: log_search, contains: ["redis_set"]}
    say: "Found."
"""


async def test_a_run_finds_the_lines_of_its_own_organisation(house: House) -> None:
    ada, eve = await house.engineer(), await house.engineer()
    run_id, seen = await house.play(ada, LOOKING_BACK)
    foreign_id, foreign = await house.play(eve, LOOKING_BACK)
    text, other = seen.results()[1], foreign.results()[1]
    for found, own, strange, org in ((text, run_id, foreign_id, ada.org_id), (other, foreign_id, run_id, eve.org_id)):
        assert own in found
        assert strange not in found
        assert set(re.findall(r'"org_id": "([0-9a-f-]+)"', found)) == {org}
        assert "canary-of-the-value" not in found, "what a tool was given stands in no log"


async def test_the_lines_of_the_stack_are_searched_from_the_bench_too(bench: Bench) -> None:
    status, text = await bench.use("log_search", since="last 1 h")
    assert (status, text.split(" lines")[0]) == ("succeeded", "0"), "a new organisation has no lines yet"
