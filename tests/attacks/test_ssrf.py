"""Server-side request forgery, judged at the socket: whatever is tried, nobody connects to what is not public.

The allow-list allows everything here, so that each layer below it stands alone. Every vector is another mechanism.
"""

import pytest

from tests.support.outside import Dialling, Outside, sender
from workers.outbound.failures import OutboundFailed, OutboundRefused

PUBLIC = "93.184.216.34"

# {port} is where a server of this machine listens; {dot} a full stop of another alphabet.
NOTATIONS = {
    "dotted quad": "https://127.0.0.1:{port}/",
    "one decimal number": "https://2130706433:{port}/",
    "one octal number": "https://017700000001:{port}/",
    "one hexadecimal number": "https://0x7f000001:{port}/",
    "hexadecimal parts": "https://0x7f.0x0.0x0.0x1:{port}/",
    "octal parts": "https://0177.0.0.01:{port}/",
    "two parts": "https://127.1:{port}/",
    "three parts": "https://127.0.1:{port}/",
    "parts of mixed bases": "https://0x7f.0.00.1:{port}/",
    "leading zeros": "https://127.000.000.001:{port}/",
    "a number past 32 bits": "https://6425673729:{port}/",
    "zero": "https://0:{port}/",
    "the unspecified address": "https://0.0.0.0:{port}/",
    "a capital X": "https://0X7F.1:{port}/",
    "IPv6 loopback": "https://[::1]:{port}/",
    "IPv6 written out": "https://[0:0:0:0:0:0:0:1]:{port}/",
    "IPv4 mapped into IPv6": "https://[::ffff:127.0.0.1]:{port}/",
    "IPv4 mapped, in hexadecimal": "https://[::ffff:7f00:1]:{port}/",
    "IPv4-compatible IPv6": "https://[::127.0.0.1]:{port}/",
    "a zone id": "https://[fe80::1%25lo]:{port}/",
    "a future address": "https://[v1.127.0.0.1]:{port}/",
    "IPv6 without brackets": "https://::1:{port}/",
    "fullwidth digits": "https://１２７.0.0.1:{port}/",
    "circled digits": "https://①②⑦.⓪.⓪.①:{port}/",
    "an ideographic full stop": "https://127。0。0。1:{port}/",
    "Arabic-Indic digits": "https://١٢٧.0.0.1:{port}/",
    "a percent-encoded digit": "https://%31%32%37.0.0.1:{port}/",
    "a percent-encoded dot": "https://127%2e0.0.1:{port}/",
    "a trailing dot": "https://127.0.0.1.:{port}/",
    "localhost with a trailing dot": "https://localhost.:{port}/",
    "localhost": "https://localhost:{port}/",
    "localhost in capitals": "https://LOCALHOST:{port}/",
    "a name below localhost": "https://app.localhost:{port}/",
    "a name of one part": "https://metadata:{port}/",
    "the metadata service's name": "https://metadata.google.internal:{port}/",
}
STRUCTURES = {
    "a user name": "https://api.example.com@127.0.0.1:{port}/",
    "a user name and password": "https://api.example.com:443@localhost:{port}/",
    "two at signs": "https://a@api.example.com@localhost:{port}/",
    "an encoded at sign": "https://api.example.com%40localhost:{port}/",
    "a backslash for a slash": "https://localhost:{port}\\@api.example.com/",
    "two backslashes after the scheme": "https:\\\\localhost:{port}/",
    "a fragment that hides a user name": "https://localhost:{port}#@api.example.com/",
    "a fragment behind a host": "https://inner.example.com#.api.example.com/",
    "a question mark for a slash": "https://localhost:{port}?@api.example.com/",
    "a tab in the host": "https://local\thost:{port}/",
    "a line end in the host": "https://api.example.com\nlocalhost:{port}/",
    "a carriage return and a header": "https://inner.example.com/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",
    "NUL in the host": "https://localhost\x00.example.com:{port}/",
    "a blank in the host": "https://localhost :{port}/",
    "a blank before the URL": " https://localhost:{port}/",
    "a soft hyphen": "https://local\u00adhost:{port}/",
    "a blank that nobody sees": "https://local\u200bhost:{port}/",
    "letters that fold": "https://ⓛocalhost:{port}/",
    "a sign that becomes k": "https://loca\u212ahost.example.com:{port}/",
    "half a surrogate": "https://\ud800.example.com:{port}/",
    "two ports": "https://inner.example.com:443:{port}/",
    "a port of zero": "https://inner.example.com:0/",
    "a port past the last": "https://inner.example.com:65979/",
    "a port with a sign": "https://inner.example.com:+443/",
    "a port of other digits": "https://inner.example.com:٤٤٣/",
    "an empty port": "https://inner.example.com:/",
    "no host": "https:///latest/meta-data",
    "a host of dots": "https://.../",
    "two dots in a name": "https://inner..example.com/",
    "a label that begins with a hyphen": "https://-inner.example.com/",
    "a label too long": "https://" + "a" * 64 + ".example.com/",
    "a name too long": "https://" + "a." * 127 + "com/",
    "a URL too long": "https://inner.example.com/" + "a" * 4_096,
    "dots that climb": "https://inner.example.com/public/../admin",
    "encoded dots that climb": "https://inner.example.com/public/%2e%2e/admin",
    "an encoded line end in the path": "https://inner.example.com/a%0d%0aX-Other:1",
    "an encoded NUL in the path": "https://inner.example.com/a%00b",
    "an encoded backslash in the path": "https://inner.example.com/a%5c..%5cadmin",
    "a percent sign alone": "https://inner.example.com/a%zz",
}
SCHEMES = {
    "plain HTTP": "http://inner.example.com:{port}/",
    "a file": "file:///etc/passwd",
    "a file of a host": "file://localhost/etc/passwd",
    "gopher": "gopher://localhost:{port}/_GET%20/",
    "dict": "dict://localhost:{port}/info",
    "FTP": "ftp://localhost:{port}/",
    "LDAP": "ldap://localhost:{port}/",
    "data": "data:text/plain,hello",
    "a script": "javascript:fetch('https://localhost:{port}/')",
    "a websocket": "wss://localhost:{port}/",
    "a socket of this machine": "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "a view of another": "view-source:https://localhost:{port}/",
    "no scheme": "//localhost:{port}/",
    "no scheme and no slashes": "localhost:{port}/",
    "one slash": "https:/localhost:{port}/",
    "three slashes": "https:///localhost:{port}/",
    "no slashes": "https:localhost:{port}/",
    "a path alone": "/latest/meta-data",
    "nothing": "",
}
# What a harmless name may resolve to: each block is another way into the house.
ADDRESSES = {
    "loopback": "127.0.0.1",
    "another loopback": "127.255.255.254",
    "this network": "0.0.0.0",
    "private, 10": "10.0.0.1",
    "private, 172.16": "172.31.255.254",
    "private, 192.168": "192.168.1.1",
    "link-local": "169.254.1.1",
    "metadata of most clouds": "169.254.169.254",
    "metadata of containers": "169.254.170.2",
    "metadata of Azure": "168.63.129.16",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "carriers' NAT": "100.64.0.1",
    "relays of 6to4": "192.88.99.1",
    "benchmarks": "198.18.0.1",
    "documentation": "203.0.113.7",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "::1",
    "IPv6 unspecified": "::",
    "IPv6 link-local": "fe80::1",
    "IPv6 link-local with its zone": "fe80::1%lo",
    "IPv6 loopback with a zone": "::1%1",
    "a public address with a zone": "2606:2800:220:1::1%1",
    "IPv6 unique local": "fd00::1",
    "metadata of AWS over IPv6": "fd00:ec2::254",
    "IPv6 site-local": "fec0::1",
    "IPv6 multicast": "ff02::1",
    "IPv6 documentation": "2001:db8::1",
    "IPv6 new documentation": "3fff::1",
    "IPv6 discarded": "100::1",
    "loopback mapped": "::ffff:127.0.0.1",
    "a public address mapped": "::ffff:93.184.216.34",
    "loopback translated": "::ffff:0:127.0.0.1",
    "loopback compatible": "::127.0.0.1",
    "loopback behind 6to4": "2002:7f00:1::",
    "loopback behind Teredo": "2001:0:7f00:1::80ff:fffe",
    "loopback behind NAT64": "64:ff9b::7f00:1",
    "private behind NAT64": "64:ff9b::a00:1",
    "NAT64 of this network": "64:ff9b:1::7f00:1",
    "loopback behind ISATAP": "2a00:1450::5efe:7f00:1",
    "private behind ISATAP, global bit": "2a00:1450::200:5efe:a00:1",
    "segment routing": "5f00::1",
    "no address at all": "not-an-address",
}


# Plainly this machine: a name that the network refuses, not the parser.
READABLE = ("localhost", "localhost in capitals", "a question mark for a slash")
SPELLINGS = [
    pytest.param(url, id=f"{kind}: {name}")
    for kind, urls in (("notation", NOTATIONS), ("structure", STRUCTURES), ("scheme", SCHEMES))
    for name, url in urls.items()
]
UNREADABLE = [one for one in SPELLINGS if str(one.id).partition(": ")[2] not in READABLE]


def test_every_vector_is_there_once() -> None:
    urls = [str(one.values[0]) for one in SPELLINGS]
    assert len(set(urls)) == len(urls) >= 90
    assert len(set(ADDRESSES.values())) == len(ADDRESSES) >= 40


@pytest.mark.parametrize("url", SPELLINGS)
async def test_no_spelling_of_a_url_opens_a_connection(url: str) -> None:
    """Even where every name below example.com leads to this machine, and the name server reads numbers as C does."""
    names = {f"{name}.example.com": ["127.0.0.1"] for name in ("inner", "api")}
    async with Outside.open() as trap:
        client = sender(names=names)
        with pytest.raises(OutboundRefused) as refused:
            await client.get(url.replace("{port}", str(trap.port)))
        assert refused.value.code in ("url", "address")
        assert str(refused.value).endswith(".")
        assert (await trap.connected(), client.dialling.dialled) == (0, [])


@pytest.mark.parametrize("url", UNREADABLE)
async def test_the_parser_alone_refuses_every_spelling(url: str) -> None:
    """As above with a network that lets everything through: a URL is refused before its name is looked up."""
    asked: list[str] = []

    def allowed(host: str, _port: int) -> bool:
        asked.append(host)
        return True

    client = sender(names={"inner.example.com": [PUBLIC]}, allowed=allowed, on_this_machine=True)
    with pytest.raises(OutboundRefused) as refused:
        await client.get(url.replace("{port}", "443"))
    assert refused.value.code == "url"
    assert asked == []


@pytest.mark.parametrize("address", [pytest.param(a, id=name) for name, a in ADDRESSES.items()])
async def test_no_name_leads_into_the_house(address: str) -> None:
    async with Outside.open() as trap:
        client = sender(names={"innocent.example.com": [address]})
        with pytest.raises(OutboundRefused, match="not public"):
            await client.get(f"https://innocent.example.com:{trap.port}/")
        assert (await trap.connected(), client.dialling.dialled) == (0, [])


@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_one_private_address_among_public_ones_spoils_them_all(place: int) -> None:
    answers = [PUBLIC, "2606:2800:220:1::1", "1.1.1.1"]
    answers.insert(place, "127.0.0.1")
    async with Outside.open() as trap:
        client = sender(names={"mixed.example.com": answers})
        with pytest.raises(OutboundRefused, match="not public"):
            await client.get(f"https://mixed.example.com:{trap.port}/")
        assert (await trap.connected(), client.dialling.dialled) == (0, [])


async def test_a_name_that_changes_its_mind_between_check_and_connect_is_asked_once() -> None:
    """DNS rebinding: public for the check, this machine for whoever asks again."""
    async with Outside.open() as trap:
        client = sender(names={"rebind.example.com": [[PUBLIC], ["127.0.0.1"]]})
        with pytest.raises(OutboundRefused, match="not public"):
            await client.get(f"https://rebind.example.com:{trap.port}/")
        # The socket was told the judged address; the repeat asked anew, and was judged anew.
        assert (await trap.connected(), client.dialling.dialled) == (0, [PUBLIC])


async def test_a_socket_that_ends_elsewhere_than_it_was_told_is_cut_before_a_byte() -> None:
    async with Outside.open() as trap:
        client = sender(
            names={"api.example.com": [PUBLIC]},
            dialling=Dialling(really=("127.0.0.1", trap.port)),
            on_this_machine=True,
        )
        with pytest.raises(OutboundRefused, match="another address"):
            await client.get("https://api.example.com/")
        assert trap.asked == []


async def test_a_public_name_stays_closed_where_this_machine_is_open() -> None:
    """The embedded stack's switch speaks of the name localhost, never of a name that leads there."""
    async with Outside.open() as trap:
        client = sender(names={"rebind.example.com": ["127.0.0.1"]}, on_this_machine=True)
        with pytest.raises(OutboundRefused, match="not public"):
            await client.get(f"https://rebind.example.com:{trap.port}/")
        lying = sender(names={"localhost": ["10.0.0.1"]}, on_this_machine=True)
        with pytest.raises(OutboundRefused, match="not public"):
            await lying.get(f"http://localhost:{trap.port}/")
        assert (await trap.connected(), client.dialling.dialled, lying.dialling.dialled) == (0, [], [])


async def test_this_machine_has_no_name_in_production() -> None:
    """Not even where the name server says that localhost is somewhere else."""
    client = sender(names={"localhost": [PUBLIC]})
    with pytest.raises(OutboundRefused, match="the worker's own machine"):
        await client.get("https://localhost/")
    assert client.dialling.dialled == []


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize("name", PROXIES)
async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async with Outside.open() as proxy:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        client = sender(names={"api.example.com": [PUBLIC]})
        with pytest.raises(OutboundFailed, match="could not be reached"):
            await client.get("https://api.example.com/")
        assert (await proxy.connected(), set(client.dialling.dialled)) == (0, {PUBLIC})
