"""The allow-list of hosts, asked by a run: names that look like an allowed one are not, and no organisation uses another's."""

from collections.abc import AsyncIterator

import pytest

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from tests.support.database import Template

NEIGHBOURS = {
    "a suffix": "example.com.evil.org",
    "a prefix": "evilexample.com",
    "another top": "example.co",
    "a name below": "api.example.com",
    "the name above": "com",
    "a hyphen for a dot": "www-example.com",
    "a letter more": "examplee.com",
    "a homograph in its ASCII form": "xn--exmple-4nf.com",
    "a digit for a letter": "examp1e.com",
    "a star": "*.example.com",
    "a star alone": "*",
    "a percent sign for SQL": "%",
    "an underscore for SQL": "e_ample.com",
    "SQL": "x' or true --",
    "nothing": "",
    "a name without end": "a." * 300 + "example.com",
}
BELOW_A_STAR = {
    "the apex": "star.dev",
    "a suffix of letters": "evilstar.dev",
    "the star as a prefix": "a.star.dev.evil.org",
    "an empty label": ".star.dev",
    "two dots": "a..star.dev",
    "a star below": "*.star.dev",
    "an address": "127.0.0.1.star.dev.",
}


@pytest.fixture(scope="module")
async def first(template: Template, stack: StackFacts) -> AsyncIterator[Bench]:
    async with template.clone() as cloned, Bench.open(cloned, stack) as opened:
        yield opened


@pytest.fixture
async def bench(first: Bench) -> Bench:
    """A run of an organisation that allows example.com, everything below star.dev, and one port."""
    bench = await first.elsewhere()
    for host in ("example.com", "*.star.dev", "ports.example.org:8443"):
        answer = await bench.database.rpc(bench.user_id, "allow_host", org_id=bench.org_id, host=host)
        assert "refused" not in answer
    return bench


async def reaches(bench: Bench, host: str, port: int = 443) -> bool:
    answer = await bench.hold.call("find_host", host=host, port=port)
    return bool(answer["allowed"])


async def test_what_is_on_the_list_is_reached(bench: Bench) -> None:
    for host, port in (("example.com", 443), ("a.star.dev", 443), ("a.b.star.dev", 443), ("ports.example.org", 8443)):
        assert await reaches(bench, host, port), host


@pytest.mark.parametrize("host", [pytest.param(h, id=n) for n, h in (NEIGHBOURS | BELOW_A_STAR).items()])
async def test_what_only_looks_like_it_is_not(bench: Bench, host: str) -> None:
    assert not await reaches(bench, host)


@pytest.mark.parametrize(
    ("host", "port"),
    [("example.com", 80), ("example.com", 8443), ("ports.example.org", 443), ("a.star.dev", 22), ("example.com", 0)],
)
async def test_another_port_is_another_host(bench: Bench, host: str, port: int) -> None:
    assert not await reaches(bench, host, port)


async def test_nothing_is_allowed_by_default_nor_by_a_neighbour(bench: Bench) -> None:
    other = await bench.elsewhere()
    assert not await reaches(other, "example.com")
    await other.database.rpc(other.user_id, "allow_host", org_id=other.org_id, host="other.example.net")
    assert not await reaches(bench, "other.example.net")


async def test_a_tool_call_meets_the_list_and_says_how_to_change_it(bench: Bench) -> None:
    status, text = await bench.use("api_call", url="https://evilexample.com/")
    assert status == "refused"
    assert text == (
        "evilexample.com is not on the organisation's list of hosts: "
        "an admin adds it with `pam hosts allow evilexample.com`."
    )
    rows = await bench.database.admin(
        "select action, is_allowed, subject ->> 'host' as host from pam.audit where org_id = %s and action in"
        " ('host.reach', 'tool.api_call') order by id",
        bench.org_id,
    )
    assert [(row["action"], row["is_allowed"], row["host"]) for row in rows] == [
        ("tool.api_call", True, None),  # the intent
        ("host.reach", False, "evilexample.com"),
        ("tool.api_call", False, None),  # the outcome
    ]


async def test_taken_off_the_list_is_refused_at_once(bench: Bench) -> None:
    assert await reaches(bench, "example.com")
    await bench.database.rpc(bench.user_id, "disallow_host", org_id=bench.org_id, host="example.com")
    assert not await reaches(bench, "example.com")
