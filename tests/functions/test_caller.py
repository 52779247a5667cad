"""Tokens against a real key server: rotation, outage, forged keys and ids, and every claim that must hold."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from functions import caller
from functions.caller import MAX_TOKEN_CHARACTERS, CallerCheck, KeyRing
from functions.main import create_app
from functions.settings import ApiSettings
from tests.functions.conftest import Person
from tests.functions.keyserver import KeyServer, key_server, public_jwk
from workers.kernel.caller_gateway import connect
from workers.kernel.errors import SignedOut, Unavailable

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
SECRET = "a-legacy-secret-of-more-than-32-bytes"
USER_ID = str(uuid.uuid4())


class Clock:
    """Time that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as state:
        state.keys = [public_jwk(EC_KEY, "ec-1"), public_jwk(RSA_KEY, "rsa-1")]
        yield state


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def check(server: KeyServer, clock: Clock) -> AsyncIterator[CallerCheck]:
    """A project with asymmetric keys only."""
    async with connect() as http:
        keys = KeyRing(url=f"{server.url}/auth/v1/.well-known/jwks.json", http=http, clock=clock)
        yield CallerCheck(issuer=f"{server.url}/auth/v1", keys=keys, jwt_secret=None)


def claims(server: KeyServer, **changed: object) -> dict[str, Any]:
    """A good token's claims; a change to None takes one out."""
    whole = {
        "sub": USER_ID, "aud": "authenticated", "role": "authenticated", "iss": f"{server.url}/auth/v1",
        "exp": int(time.time()) + 60, "iat": int(time.time()),
    }  # fmt: skip
    return {name: value for name, value in (whole | changed).items() if value is not None}


def sign(payload: dict[str, Any], key: Any = EC_KEY, algorithm: str = "ES256", kid: str = "ec-1") -> str:
    return jwt.encode(payload, key, algorithm, headers={"kid": kid})


def by_hand(header: dict[str, Any], payload: dict[str, Any], key: bytes) -> str:
    """A token that no library would sign."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    signed = f"{part(json.dumps(header).encode())}.{part(json.dumps(payload).encode())}"
    return f"{signed}.{part(hmac.new(key, signed.encode(), hashlib.sha256).digest()) if key else ''}"


async def test_both_kinds_of_published_keys_let_people_in(server: KeyServer, check: CallerCheck) -> None:
    by_ec = await check.verify(sign(claims(server)))
    by_rsa = await check.verify(sign(claims(server), RSA_KEY, "RS256", "rsa-1"))
    assert str(by_ec.user_id) == str(by_rsa.user_id) == USER_ID
    assert server.fetches == 1
    assert by_ec.token not in repr(by_ec)


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1}, {"exp": None}, {"exp": int(time.time()) - 30}, {"exp": "soon"}, {"aud": "anon"},
        {"aud": None},
        {"iss": "https://else.example/auth/v1"}, {"iss": None}, {"role": "anon"}, {"role": "service_role"},
        {"role": None}, {"sub": None}, {"sub": "1"}, {"sub": 7}, {"nbf": int(time.time()) + 86_400},
    ],
)  # fmt: skip
async def test_a_token_with_one_wrong_claim_is_refused(
    server: KeyServer, check: CallerCheck, changed: dict[str, object]
) -> None:
    await check.verify(sign(claims(server)))
    with pytest.raises(SignedOut):
        await check.verify(sign(claims(server, **changed)))


async def test_a_clock_that_is_three_seconds_off_is_forgiven(server: KeyServer, check: CallerCheck) -> None:
    await check.verify(sign(claims(server, exp=int(time.time()) - 3)))


def _forgeries(server: KeyServer) -> dict[str, str]:
    good = claims(server)
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stranger = ec.generate_private_key(ec.SECP256R1())
    head, body, signature = sign(good).split(".")
    other_body = sign(claims(server, sub=str(uuid.uuid4()))).split(".")[1]
    return {
        "no algorithm": by_hand({"alg": "none", "kid": "ec-1"}, good, b""),
        "no algorithm, in capitals": by_hand({"alg": "NoNe", "kid": "ec-1"}, good, b""),
        "the public key as a secret": by_hand({"alg": "HS256", "kid": "rsa-1"}, good, pem),
        "a secret where none is set": by_hand({"alg": "HS256"}, good, SECRET.encode()),
        "an rsa key called an ec key": sign(good, RSA_KEY, "RS256", "ec-1"),
        "an ec key called an rsa key": sign(good, EC_KEY, "ES256", "rsa-1"),
        "a padding nobody published": sign(good, RSA_KEY, "PS256", "rsa-1"),
        "a stranger's key": sign(good, stranger),
        "a key of its own": jwt.encode(good, stranger, "ES256", headers={"jwk": public_jwk(stranger, "x")}),
        "a key elsewhere": jwt.encode(good, stranger, "ES256", headers={"kid": "x", "jku": server.url}),
        "a long key id": sign(good, kid="k" * 201),
        "a body changed": f"{head}.{other_body}.{signature}",
        "no signature": f"{head}.{body}.",
        "a critical extension": jwt.encode(
            good, EC_KEY, "ES256", headers={"kid": "ec-1", "crit": ["b64"], "b64": True}
        ),
        "no token": "x.y.z",
        "nothing": "",
        "not ascii": sign(good) + "é",
        "too long": sign(claims(server, padding="p" * MAX_TOKEN_CHARACTERS)),
        "a list": by_hand([], good, b""),  # type: ignore[arg-type]
    }


async def test_forgeries_are_refused_without_a_word_of_the_token(server: KeyServer, check: CallerCheck) -> None:
    for name, token in _forgeries(server).items():
        (answer,) = await asyncio.gather(check.verify(token), return_exceptions=True)
        assert isinstance(answer, SignedOut), name
        said = str(answer)
        assert len(said) <= 200
        assert all(part not in said for part in token.split(".") if len(part) > 3), name
    assert server.fetches <= 2


async def test_the_legacy_secret_counts_only_where_it_is_set(server: KeyServer) -> None:
    token = jwt.encode(claims(server), SECRET, "HS256")
    async with connect() as http:
        keys = KeyRing(url=f"{server.url}/auth/v1/.well-known/jwks.json", http=http)
        legacy = CallerCheck(issuer=f"{server.url}/auth/v1", keys=keys, jwt_secret=SECRET)
        assert str((await legacy.verify(token)).user_id) == USER_ID
        with pytest.raises(SignedOut):
            await legacy.verify(jwt.encode(claims(server), SECRET[:-1] + "!", "HS256"))
        assert server.fetches == 0
        await legacy.verify(sign(claims(server)))


async def test_symmetric_weak_and_odd_published_keys_are_not_used(server: KeyServer, check: CallerCheck) -> None:
    octets = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505  (weak on purpose)
    other = ec.generate_private_key(ec.SECP384R1())
    server.keys = [
        {"kty": "oct", "k": octets, "kid": "oct-1", "alg": "HS256"},
        public_jwk(small, "small-1"),
        public_jwk(other, "p384-1"),
        public_jwk(EC_KEY, "enc-1", use="enc"),
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "", "kid": "broken-1"},
        {"kty": ["EC"]},
        "nonsense",  # type: ignore[list-item]
        public_jwk(EC_KEY, "ec-1"),
    ]
    good = claims(server)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        weak = sign(good, small, "RS256", "small-1")
    await check.verify(sign(good))
    for token in (
        jwt.encode(good, SECRET, "HS256", headers={"kid": "oct-1"}),
        weak,
        jwt.encode(good, other, "ES384", headers={"kid": "p384-1"}),
        sign(good, kid="enc-1"),
        sign(good, kid="broken-1"),
    ):
        with pytest.raises(SignedOut):
            await check.verify(token)


async def test_a_new_key_is_found_and_a_withdrawn_one_forgotten(
    server: KeyServer, check: CallerCheck, clock: Clock
) -> None:
    fresh = ec.generate_private_key(ec.SECP256R1())
    old, new = sign(claims(server)), sign(claims(server), fresh, kid="ec-2")
    await check.verify(old)
    server.keys = [public_jwk(EC_KEY, "ec-1"), public_jwk(fresh, "ec-2")]
    with pytest.raises(SignedOut):
        await check.verify(new)  # asked a moment ago
    clock.now += 61
    await check.verify(new)
    assert server.fetches == 2
    server.keys = [public_jwk(fresh, "ec-2")]
    clock.now += 599
    await check.verify(old)
    clock.now += 2
    with pytest.raises(SignedOut):
        await check.verify(old)
    assert server.fetches == 3


async def test_a_thousand_forged_key_ids_ask_the_key_server_twice_at_most(
    server: KeyServer, check: CallerCheck, clock: Clock
) -> None:
    good = claims(server)
    tokens = [sign(good, kid=f"forged-{n}") for n in range(1000)]
    with pytest.raises(SignedOut):
        await check.verify(sign(good, kid="k" * 201))
    assert server.fetches == 0
    answers = await asyncio.gather(*(check.verify(token) for token in tokens), return_exceptions=True)
    for token in tokens:
        clock.now += 0.1  # a hundred seconds in all
        answers += await asyncio.gather(check.verify(token), return_exceptions=True)
    assert {type(answer) for answer in answers} == {SignedOut}
    assert server.fetches == 2


@pytest.mark.parametrize("status", [500, 401, 404, 429, 302])
async def test_without_the_key_server_nobody_is_told_to_sign_in(
    server: KeyServer, check: CallerCheck, clock: Clock, status: int
) -> None:
    server.status = status
    token = sign(claims(server))
    for _ in range(5):
        with pytest.raises(Unavailable):
            await check.verify(token)
    assert server.fetches == 1
    server.status = 200
    clock.now += 6
    await check.verify(token)

    server.status = status
    clock.now += 601
    await check.verify(token)  # the key that we hold outlives an outage
    with pytest.raises(Unavailable):
        await check.verify(sign(claims(server), kid="ec-9"))
    clock.now += 3600
    with pytest.raises(Unavailable):
        await check.verify(token)


@pytest.fixture
def errors_of() -> Callable[[httpx.Response], str]:
    return lambda answer: f"{answer.status_code} {answer.json()['code']}"


async def test_the_api_says_401_with_a_challenge_and_503_when_keys_are_away(
    server: KeyServer, errors_of: Callable[[httpx.Response], str]
) -> None:
    app = create_app(ApiSettings(supabase_url=server.url, publishable_key="k"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pam") as api:
        url = f"/v1/runs/{uuid.uuid4()}"
        nobody = await api.get(url)
        assert errors_of(nobody) == "401 signed_out"
        assert nobody.headers["www-authenticate"].startswith("Bearer")
        for header in ("Basic eDp5", "Bearer", "Bearer  ", "Bearer a b"):
            assert errors_of(await api.get(url, headers={"authorization": header})) == "401 signed_out"
        server.status = 503
        away = await api.get(url, headers={"authorization": f"Bearer {sign(claims(server))}"})
        assert errors_of(away) == "503 unavailable"
        assert int(away.headers["retry-after"]) > 0
    await app.state.house.http.aclose()


async def test_a_real_session_is_let_in_and_an_altered_one_is_not(api: httpx.AsyncClient, ann: Person) -> None:
    url = f"/v1/orgs/{ann.org_id}/threads"
    assert (await api.get(url, headers=ann.headers)).status_code == 200
    altered = ann.token[:-4] + ("AAAA" if ann.token[-4:] != "AAAA" else "BBBB")
    assert (await api.get(url, headers={"authorization": f"Bearer {altered}"})).status_code == 401


@pytest.mark.parametrize("kind", ["oct", "OKP", None])
def test_a_published_key_of_another_kind_is_no_key(kind: str | None) -> None:
    published = {"kid": "x", "k": "c2VjcmV0", "x": "c2VjcmV0", "crv": "Ed25519"} | ({"kty": kind} if kind else {})
    assert caller._public_key(published) is None
