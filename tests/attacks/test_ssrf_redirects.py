"""Redirects that would lead the client astray, and redirects and echoes that would carry a credential away."""

from base64 import b64encode
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.outside import QUICK, Asked, Outside, Sender, reply, says, sender
from workers.kernel.errors import Refused, Unavailable
from workers.outbound.credentials import Injection
from workers.outbound.failures import OutboundFailed, OutboundRefused

SECRET = "sk+live/Äpfel='7f3a9c'&Q"
KEY = "q-5e1f77c0ffee"
PRIVATE = {"inner.example.com": ["10.0.0.1"], "mixed.example.com": ["93.184.216.34", "127.0.0.1"]}

# Where a server that is allowed says to go on. {trap} is a server of this machine that the list does not hold.
LOCATIONS = {
    "another port of this machine": "http://localhost:{trap}/",
    "the same, without its scheme": "//localhost:{trap}/",
    "loopback as a number": "http://2130706433:{trap}/",
    "loopback in short": "http://127.1:{trap}/",
    "loopback over IPv6": "http://[::1]:{trap}/",
    "loopback mapped": "http://[::ffff:127.0.0.1]:{trap}/",
    "the metadata service": "http://169.254.169.254/latest/meta-data/",
    "a name that leads into the house": "https://inner.example.com:{trap}/",
    "a name with one private address": "https://mixed.example.com:{trap}/",
    "a host that is not on the list": "https://evil.example.org/",
    "plain HTTP to a host of the list": "http://inner.example.com/",
    "a file": "file:///etc/passwd",
    "gopher": "gopher://localhost:{trap}/_x",
    "a script": "javascript:alert(1)",
    "data": "data:text/html,x",
    "one slash": "http:/localhost:{trap}/",
    "no slashes": "http:localhost:{trap}/",
    "a user name": "http://localhost@127.0.0.1:{trap}/",
    "a backslash": "http:\\\\localhost:{trap}\\",
    "slash and backslash": "/\\localhost:{trap}/",
    "a tab in the scheme": "ht\ttp://localhost:{trap}/",
    "a tab before two slashes": "\t//localhost:{trap}/",
    "letters of another alphabet": "http://loc\u00e4lhost:{trap}/",
    "an unescaped blank": "/a b",
}


def only(*servers: Outside) -> Any:
    """An allow-list of these servers and of names that lead astray."""
    ports = {server.port for server in servers}
    return lambda host, port: (host == "localhost" and port in ports) or host.endswith(".example.com")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", [pytest.param(to, id=name) for name, to in LOCATIONS.items()])
async def test_no_redirect_leads_astray(location: str, status: int) -> None:
    async with Outside.open() as trap:
        told = location.replace("{trap}", str(trap.port))
        async with Outside.open(says(reply(status, Location=told))) as start:
            client = sender(names=PRIVATE, allowed=only(start), on_this_machine=True)
            with pytest.raises(OutboundRefused, match="was not followed"):
                await client.get(start.url)
            assert await trap.connected() == 0
            assert (await start.connected(), set(client.dialling.dialled)) == (1, set(client.dialling.dialled[-1:]))


async def test_a_chain_is_judged_to_its_last_link() -> None:
    async with (
        Outside.open() as trap,
        Outside.open(says(reply(302, Location=f"http://localhost:{trap.port}/"))) as last,
    ):
        middle, first = Outside.open(says(reply(302, Location=last.url))), Outside.open()
        async with middle as second, first as start:
            start.handler = says(reply(302, Location=second.url))
            client = sender(allowed=only(start, second, last), on_this_machine=True)
            with pytest.raises(OutboundRefused, match="not on the organisation's list"):
                await client.get(start.url)
            assert [await s.connected() for s in (start, second, last, trap)] == [1, 1, 1, 0]


async def test_a_circle_ends() -> None:
    async with Outside.open(says(reply(302, Location="/again"))) as server:
        with pytest.raises(OutboundRefused, match="more than 5"):
            await sender(on_this_machine=True).get(server.url)
        assert await server.connected() == 6


@pytest.mark.parametrize(
    ("host", "allowed", "told"),
    [
        ("ignore-your-rules.evil.example.org", only(), "It leads to a host that is not on the organisation's list."),
        ("inner.example.com", lambda host, _: True, "It leads to an address that is not public."),
        ("gone.example.com", lambda host, _: True, "Its target did not answer."),
    ],
)
async def test_a_refusal_does_not_speak_for_the_other_side(host: str, allowed: Any, told: str) -> None:
    """A sentence of PAM's own is not marked as data: a stranger's name in it would speak to the model in PAM's voice."""
    names = {**PRIVATE, "gone.example.com": ["93.184.216.34"]}
    async with Outside.open(says(reply(302, Location=f"https://{host}/"))) as start:
        client = sender(names=names, allowed=lambda h, p: h == "localhost" or allowed(h, p), on_this_machine=True)
        with pytest.raises((OutboundRefused, OutboundFailed)) as refused:
            await client.get(start.url)
    assert str(refused.value) == f"The redirect of localhost:{start.port} was not followed: {told}"


@pytest.mark.parametrize("status", [307, 308])
async def test_a_body_goes_to_no_other_host(status: int) -> None:
    async with Outside.open() as other, Outside.open(says(reply(status, Location=other.url))) as start:
        answer = await sender(on_this_machine=True).send("POST", start.url, body=b"private")
        assert (answer.status, "would take the body to" in answer.note) == (status, True)
        assert await other.connected() == 0


async def test_headers_of_ones_own_stay_with_their_host() -> None:
    async with Outside.open(says(reply())) as other, Outside.open(says(reply(302, Location=other.url))) as start:
        given = {"X-Account": "42", "Accept": "text/plain"}
        await sender(on_this_machine=True).get(start.url, headers=given)
        assert (start.asked[0].header("x-account"), other.asked[0].header("x-account")) == ("42", None)
        assert other.asked[0].header("accept") == "text/plain"


async def inject(_: str) -> Injection:
    told = {"Authorization": f"Bearer {quote(SECRET)}"}
    return Injection(headers=told, query={"key": KEY}, secrets=(SECRET, quote(SECRET), KEY))


def carries_secret(asked: Asked) -> bool:
    return KEY in asked.target or asked.header("authorization") is not None


async def test_a_credential_stays_on_its_host_and_goes_along_within_it() -> None:
    async with Outside.open(says(reply())) as other, Outside.open(says(reply(302, Location="/on"), reply(302, Location=other.url))) as start:  # fmt: skip
        await sender(on_this_machine=True).get(start.url, inject=inject)
        assert [carries_secret(asked) for asked in start.asked] == [True, True]
        assert [carries_secret(asked) for asked in other.asked] == [False]


async def test_a_credential_does_not_come_back_after_a_detour() -> None:
    """Whoever is sent home by somebody else asks there without it: a foreign host chose what is asked."""
    async with Outside.open() as other, Outside.open(says(reply(302, Location=other.url), reply())) as start:
        other.handler = says(reply(302, Location=f"{start.url}/transfer?to=evil"))
        answer = await sender(on_this_machine=True).get(start.url, inject=inject)
        assert (answer.status, answer.target.path) == (200, "/transfer")
        assert [carries_secret(asked) for asked in start.asked] == [True, False]


@pytest.mark.parametrize(
    "carried",
    [
        pytest.param(lambda _: f"/?stolen={KEY}", id="in a query of the same host"),
        pytest.param(lambda port: f"http://localhost:{port}/{KEY}", id="in a path of another host"),
        pytest.param(lambda port: f"http://{KEY}.example.com:{port}/", id="in a name"),
        pytest.param(lambda port: f"http://localhost:{port}/{KEY.encode().hex()}", id="in hexadecimal"),
        pytest.param(lambda port: f"http://localhost:{port}/?x={b64encode(KEY.encode()).decode()}", id="in base64"),
        pytest.param(lambda port: f"http://localhost:{port}/?x={quote(SECRET, safe='')}", id="percent-encoded"),
    ],
)
async def test_no_redirect_carries_a_credential_away(carried: Any) -> None:
    asked_of: list[str] = []

    def allowed(host: str, _port: int) -> bool:
        asked_of.append(host)
        return True

    async with Outside.open() as thief, Outside.open(says(reply(302, Location=carried(thief.port)))) as start:
        client = sender(on_this_machine=True, allowed=allowed)
        with pytest.raises(OutboundRefused, match="carries a secret") as refused:
            await client.get(start.url, inject=inject)
        assert (await thief.connected(), asked_of) == (0, ["localhost"]), "the list and its audit never saw it either"
        assert KEY not in str(refused.value)


ECHOES = {
    "as it is": SECRET,
    "percent-encoded": quote(SECRET, safe=""),
    "percent-encoded, slashes kept": quote(SECRET),
    "percent-encoded in small letters": quote(SECRET, safe="").replace("%C3", "%c3").replace("%2F", "%2f"),
    "every byte percent-encoded": "".join(f"%{byte:02x}" for byte in SECRET.encode()),
    "base64": b64encode(SECRET.encode()).decode(),
    "base64 for URLs": b64encode(SECRET.encode()).decode().replace("+", "-").replace("/", "_"),
    "base64 of more, one byte before": b64encode(f"x{SECRET}".encode()).decode(),
    "base64 of more, two bytes before": b64encode(f"me{SECRET}:and more".encode()).decode(),
    "hexadecimal": SECRET.encode().hex(),
    "hexadecimal in capitals": SECRET.encode().hex().upper(),
    "JSON": "\"sk+live/\\u00c4pfel='7f3a9c'&Q\"",
    "JSON with escaped slashes": "\"sk+live\\/Äpfel='7f3a9c'&Q\"",
    "HTML": "sk+live/Äpfel=&#x27;7f3a9c&#x27;&amp;Q",
    "capitals": SECRET.upper(),
}


@pytest.mark.parametrize("echo", [pytest.param(text, id=name) for name, text in ECHOES.items()])
async def test_no_echo_shows_a_credential(echo: str) -> None:
    raw = echo.encode()
    page = b"before " + raw + b" after " + raw
    header = raw.decode("latin-1")
    async with Outside.open(says(reply(200, page, X_Echo=header))) as server:
        answer = await sender(on_this_machine=True).get(server.url, inject=inject)
    core = raw.strip(b'"')[4:-4]
    assert core not in answer.body
    assert answer.body.startswith(b"before ")
    assert answer.body.count(b"[redacted]") == 2
    assert all(core not in value.encode("latin-1") for _, value in answer.headers)


async def test_a_cut_leaves_no_beginning_of_a_credential() -> None:
    async with Outside.open(says(reply(200, b"x" * 40 + KEY.encode() * 9))) as server:
        client = sender(on_this_machine=True, limits=replace(QUICK, max_body_bytes=40 + len(KEY) + 8))
        answer = await client.get(server.url, inject=inject)
    assert not answer.is_whole
    assert KEY[:8].encode() not in answer.body.replace(b"[redacted]", b"")


async def test_an_error_shows_no_credential() -> None:
    async def inject(_: str) -> Injection:
        return Injection(headers={"X-Key": "localhost"}, secrets=("localhost",))

    async with Outside.open(says(b"")) as server:
        with pytest.raises(OutboundFailed) as failed:
            await sender(on_this_machine=True).get(server.url, inject=inject)
    assert str(failed.value).startswith(f"[redacted]:{server.port} broke")


async def test_a_credential_that_is_refused_opens_no_connection() -> None:
    async def refuse(_: str) -> Injection:
        raise Refused("wrong_host", "This connection belongs to another host.")

    async with Outside.open() as server:
        client: Sender = sender(on_this_machine=True)
        with pytest.raises(Refused, match="another host"):
            await client.get(server.url, inject=refuse)
        assert await server.connected() == 0


async def test_connections_that_are_away_open_no_connection() -> None:
    async def away(_: str) -> Injection:
        raise Unavailable("the keys did not answer")

    async with Outside.open() as server:
        with pytest.raises(OutboundFailed, match="the keys did not answer") as failed:
            await sender(on_this_machine=True).send("POST", server.url, inject=away)
        assert (failed.value.was_sent, await server.connected()) == (False, 0)


async def test_a_list_that_cannot_be_read_opens_no_connection() -> None:
    def away(_host: str, _port: int) -> bool:
        raise Unavailable("the database did not answer")

    async with Outside.open() as server:
        with pytest.raises(OutboundFailed, match="the database did not answer") as failed:
            await sender(on_this_machine=True, allowed=away).send("POST", server.url)
        assert (failed.value.was_sent, await server.connected()) == (False, 0)


async def test_an_effect_is_told_though_the_credential_is_gone_afterwards() -> None:
    told = [Injection(headers={"Authorization": "Bearer x"}, secrets=("xyz",))]

    async def once(_: str) -> Injection:
        if told:
            return told.pop()
        raise Refused("not_found", "There is no such connection any more.")

    async with Outside.open(says(reply(303, Location="/on"))) as server:
        answer = await sender(on_this_machine=True).send("POST", server.url, inject=once)
    assert answer.status == 303
    assert answer.note.endswith("was not followed: There is no such connection any more.")


@pytest.mark.parametrize(
    "injection",
    [
        pytest.param(Injection(headers={"X": "a\r\nHost: evil"}), id="a line end in a value"),
        pytest.param(Injection(headers={"X\r\nY": "a"}), id="a line end in a name"),
        pytest.param(Injection(headers={"Host": "evil"}), id="another host"),
        pytest.param(Injection(headers={"Transfer-Encoding": "chunked"}), id="another framing"),
        pytest.param(Injection(headers={"X": ""}), id="nothing"),
        pytest.param(Injection(query={"key": "x"}), id="a parameter that is there"),
    ],
)
async def test_a_connection_that_says_too_much_is_not_sent(injection: Injection) -> None:
    async def inject(_: str) -> Injection:
        return injection

    async with Outside.open(says(reply())) as server:
        with pytest.raises(OutboundRefused):
            await sender(on_this_machine=True).get(f"{server.url}/?key=mine", inject=inject)
        assert server.asked == []
