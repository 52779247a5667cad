"""The list of hosts that agents may reach: who keeps it, what may stand on it, and that database and client agree."""

import asyncio

from tests.database.test_organizations import audit, code
from tests.database.world import World
from tests.support.database import Database
from workers.outbound import target

HOSTS = [
    "", "localhost", "example.com", "api.example.com", "a.b.c.example.co.uk", "xn--bcher-kva.example", "1.example.com",
    "1e100.net", "a-b.example.com", "a--b.example.com", "EXAMPLE.com", "exämple.com", "example", "com", ".", ".com", "com.",
    "example.com.", "example..com", "-a.example.com", "a-.example.com", "example.-com", "example.c-", "a_b.example.com",
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "example.0x10", "example.1", "example.1a", "::1", "[::1]",
    "1.2.3.4.5", "example.com:443", "user@example.com", "example.com/x", "example.com?x", "example.com#x", "exa mple.com",
    "example.com\n", "\nexample.com", "exa\tmple.com", "example.com\x7f", "*.example.com", "*", "a.*.com", "%.com", "１２７.0.0.1",
    "example。com", "\u212aelvin.com", "ſ.com", "ß.de", "a.local", "a.internal", "metadata.google.internal", "a.localhost",
    "a.localdomain", "1.0.0.127.in-addr.arpa", "a.onion", "local", "internal.example.com", "localhost.example.com",
    "a" * 63 + ".com", "a" * 64 + ".com", "a." * 125 + "com", "a." * 126 + "com", "ä" * 126 + ".com", "com." * 62 + "abcde",
]  # fmt: skip


async def test_the_database_and_the_client_agree_on_every_odd_host(world: World) -> None:
    assert len(HOSTS) == len(set(HOSTS)) > 60
    rows = await world.database.admin(
        "select pam_private.host_fault(h) as fault from unnest(%s::text[]) with ordinality as x (h, n) order by n",
        HOSTS,
    )
    assert {h: row["fault"] for h, row in zip(HOSTS, rows, strict=True)} == {h: target.host_fault(h) for h in HOSTS}
    assert 40 < sum(row["fault"] is not None for row in rows) < len(HOSTS) - 10


async def test_admins_keep_the_list_and_everybody_of_the_organisation_reads_it(database: Database) -> None:
    owner, org = await database.new_organization()
    stranger, _ = await database.new_organization()
    for role, expected in (("viewer", "forbidden"), ("developer", "forbidden"), ("admin", "")):
        person = await database.new_member(org, role)
        for verb in ("allow_host", "disallow_host"):
            assert code(await database.rpc(person, verb, org_id=org, host="api.example.com")) == expected, (role, verb)
        await database.rpc(owner, "allow_host", org_id=org, host="seen.example.com")
        async with database.person(person) as connection:
            rows = await (await connection.execute("select host, port from pam.allowed_hosts")).fetchall()
        assert rows == [{"host": "seen.example.com", "port": 443}], role
    for verb in ("allow_host", "disallow_host"):
        assert code(await database.rpc(stranger, verb, org_id=org, host="seen.example.com")) == "not_found"
        assert code(await database.rpc(None, verb, org_id=org, host="seen.example.com")) == "not_found"
    assert await audit(database, org, "host.allow") == [False, True, False, True, True, True]
    assert await audit(database, org, "host.disallow") == [False, False, True]


async def test_an_entry_is_a_host_a_star_and_a_host_and_perhaps_a_port(database: Database) -> None:
    owner, org = await database.new_organization()
    fits = {
        "example.com": ("example.com", 443),
        "*.example.com": ("*.example.com", 443),
        "example.com:8443": ("example.com", 8443),
        "*.example.com:65535": ("*.example.com", 65535),
        "localhost:54321": ("localhost", 54321),
    }
    for entry, (host, port) in fits.items():
        assert await database.rpc(owner, "allow_host", org_id=org, host=entry) == {"host": host, "port": port}
        assert await database.rpc(owner, "allow_host", org_id=org, host=entry) == {"host": host, "port": port}, "twice"
    assert len(await database.admin("select 1 from pam.allowed_hosts")) == len(fits)
    odd = (
        *(host for host in HOSTS if target.host_fault(host) and host not in ("*.example.com", "example.com:443")),
        *("*.com", "*.localhost", "**.example.com", "*.*.example.com", "a.*.example.com", "*example.com", "*."),
        *("example.com:0", "example.com:65536", "example.com:080", "example.com:", "example.com:x", "example.com:1:2"),
        *("https://example.com", "example.com, other.com", "localhost:-1", None),
    )
    for entry in odd:
        assert code(await database.rpc(owner, "allow_host", org_id=org, host=entry)) == "invalid", entry
    assert len(await database.admin("select 1 from pam.allowed_hosts")) == len(fits)


async def test_two_hundred_hosts_are_enough_even_at_once(database: Database) -> None:
    owner, org = await database.new_organization()
    await database.admin(
        "insert into pam.allowed_hosts (org_id, host, port, allowed_by)"
        " select %s, 'h' || n || '.example.com', 443, %s from generate_series(1, 197) n",
        org,
        owner,
    )
    answers = await asyncio.gather(
        *(database.rpc(owner, "allow_host", org_id=org, host=f"more{n}.example.com") for n in range(8))
    )
    assert sorted(code(answer) for answer in answers) == [""] * 3 + ["limit"] * 5
    await database.rpc(owner, "disallow_host", org_id=org, host="h1.example.com")
    async with database.person(owner) as first:
        allow = "select pam.allow_host(%s, %s)"
        await first.execute(allow, [org, "last.example.com"])
        later = asyncio.create_task(database.rpc(owner, "allow_host", org_id=org, host="one-more.example.com"))
        await database.until_blocked(later, by=first.info.backend_pid)
    assert code(await later) == "limit", "it has waited for the one before it"


async def test_what_is_not_on_the_list_cannot_be_taken_off(database: Database) -> None:
    owner, org = await database.new_organization()
    await database.rpc(owner, "allow_host", org_id=org, host="example.com:8443")
    for entry in ("example.com", "*.example.com", "example.com:443", "", "nonsense", None):
        assert code(await database.rpc(owner, "disallow_host", org_id=org, host=entry)) == "not_found"
    answer = await database.rpc(owner, "disallow_host", org_id=org, host="example.com:8443")
    assert answer == {"host": "example.com", "port": 8443}
    assert await database.admin("select 1 from pam.allowed_hosts") == []


async def test_one_organisation_takes_nothing_off_the_list_of_another(database: Database) -> None:
    (one, first), (other, second) = await database.new_organization(), await database.new_organization()
    for owner, org in ((one, first), (other, second)):
        await database.rpc(owner, "allow_host", org_id=org, host="example.com")
    await database.rpc(one, "disallow_host", org_id=first, host="example.com")
    assert [row["org_id"] for row in await database.admin("select org_id from pam.allowed_hosts")] == [second]
