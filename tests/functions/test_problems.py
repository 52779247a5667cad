"""What every answer looks like when something is wrong, and what is around every answer."""

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog

from functions import problems
from functions.envelope import BodyLimit, Envelope
from functions.main import MAX_BYTES, create_app
from functions.settings import ApiSettings, HookSettings, SweepSettings
from tests.functions.conftest import Pam, Person
from tests.functions.processes import Cable
from workers.kernel.errors import SettingMissing

SETTINGS = ApiSettings(supabase_url="http://127.0.0.1:1", publishable_key="k")
JSON = {"content-type": "application/json"}


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the form of a problem document (RFC 9457) and give it."""
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert (answer.status_code, said["status"], said["code"]) == (status, status, code), said
    assert said["type"] == f"urn:pam:problem:{code}"
    assert said["title"]
    assert said["detail"]
    assert said["request_id"] == answer.headers["x-request-id"]
    return said


async def test_nothing_here_and_not_like_this_are_problems_too(api: httpx.AsyncClient) -> None:
    is_problem(await api.get("/v2"), 404, "not_found")
    is_problem(await api.get("/v1/orgs/"), 404, "not_found")
    wrong = await api.delete("/health")
    is_problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET"


async def test_a_body_that_cannot_be_read_is_said_to_be_so(api: httpx.AsyncClient, ann: Person) -> None:
    url = f"/v1/orgs/{ann.org_id}/threads"
    for body in (b"{", b"[]", b"", b"\xff\xfe", b'{"title": 48151623}', b'{"title": NaN}', b'{"a~/b": 1}'):
        said = is_problem(
            await api.post(url, content=body, headers=ann.headers | JSON), 422, "invalid"
        )  # fmt: skip
        assert said["errors"][0]["in"] == "body", body
        assert "48151623" not in json.dumps(said)
    assert said["errors"][0]["pointer"] == "#/a~0~1b"
    deep = await api.post(url, content=b"[" * 200_000, headers=ann.headers | JSON)
    is_problem(deep, 400, "unreadable")
    odd = await api.post(url, content=b'{"\\ud800": 1}', headers=ann.headers | JSON)
    is_problem(odd, 422, "invalid")


async def test_a_form_with_too_much_in_it_is_no_fault_of_ours(api: httpx.AsyncClient) -> None:
    for form in ("a=1&b=2&c=3&d=4&e=5", "verdict=perhaps", "", "%ff=%00"):
        content = {"content-type": "application/x-www-form-urlencoded"}
        answer = await api.post("/v1/decisions/x", content=form, headers=content)
        assert 400 <= answer.status_code < 500, (form, answer.status_code)


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_before_it_is_parsed_or_anybody_asked(
    api: httpx.AsyncClient, ann: Person, is_chunked: bool
) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 16_384
            yield b" " * 16_384

    url = f"/v1/orgs/{ann.org_id}/threads"
    body: Any = chunks() if is_chunked else b" " * (MAX_BYTES + 1)
    is_problem(await api.post(url, content=body, headers=JSON), 413, "too_large")
    fits = json.dumps({"title": "x"}).encode().ljust(MAX_BYTES)
    assert (await api.post(url, content=fits, headers=ann.headers | JSON)).status_code == 201


async def test_a_chunked_body_is_not_taken_in_beyond_the_limit() -> None:
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1000
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    statuses = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    async def app(*_: object) -> None:
        raise AssertionError("the app was asked")

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"10")]}
    await Envelope(BodyLimit(app, max_bytes=4096))(scope, receive, send)
    assert statuses[0] == 413
    assert taken == 5000


async def test_a_fault_of_ours_shows_an_id_and_nothing_of_its_insides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "log", structlog.get_logger())  # one that nobody has bound to an earlier process's
    app = create_app(SETTINGS)

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("the secret is eyJhbGciOi")

    with structlog.testing.capture_logs() as logs:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pam") as client:
            answer = await client.get("/broken", headers={"authorization": "Bearer eyJhbGciOi"})
    said = is_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "ValueError" not in answer.text
    (entry,) = logs
    assert entry["request_id"] == said["request_id"]
    assert entry["error"] == "ValueError"
    assert "test_problems.py" in entry["at"][-1]
    assert "eyJhbGciOi" not in json.dumps(entry)


async def test_a_request_id_comes_back_when_it_is_one(api: httpx.AsyncClient) -> None:
    for given in ("deploy-2026.11_23", "a" * 64):
        assert (await api.get("/health", headers={"x-request-id": given})).headers["x-request-id"] == given
    made = set()
    for given in ("short", "a" * 65, "12345678 9", "é" * 10, "1234567890\t"):
        answer = await api.get("/health", headers={b"x-request-id": given.encode()})
        made.add(answer.headers["x-request-id"])
        assert given not in made
    assert len(made) == 5


async def test_every_answer_has_safe_headers(api: httpx.AsyncClient) -> None:
    for path in ("/health", "/nowhere", "/openapi.json"):
        headers = (await api.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "access-control-allow-origin" not in headers


async def test_only_named_origins_may_call_from_a_browser() -> None:
    app = create_app(dataclasses.replace(SETTINGS, allowed_origins=("https://app.example.com",)))
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pam") as client:
        friend = await client.options("/v1/runs", headers=ask | {"origin": "https://app.example.com"})
        stranger = await client.options("/v1/runs", headers=ask | {"origin": "https://evil.example.com"})
        refused = await client.get("/nowhere", headers={"origin": "https://app.example.com"})
    assert friend.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "access-control-allow-credentials" not in friend.headers
    assert stranger.status_code == 400
    assert "access-control-allow-origin" not in stranger.headers
    assert refused.headers["access-control-allow-origin"] == "https://app.example.com"


async def test_live_and_ready_differ_when_postgrest_is_away(pam: Pam, api: httpx.AsyncClient) -> None:
    assert (await api.get("/ready")).json() == {"status": "ok"}
    async with Cable.lay(pam.platform.url) as cable:
        app = create_app(dataclasses.replace(pam.settings, supabase_url=cable.url))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pam") as client:
            assert (await client.get("/ready")).status_code == 200
            cable.cut()
            assert (await client.get("/health")).status_code == 200
            away = await client.get("/ready")
            is_problem(away, 503, "unavailable")
            assert int(away.headers["retry-after"]) > 0
        await app.state.house.http.aclose()


async def test_the_api_describes_itself(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    names = set(document["components"]["schemas"])
    assert {"Problem", "Fault", "Run", "Thread", "Message", "Event", "Started"} <= names
    assert "HTTPValidationError" not in names
    operations_by_id = set()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            operations_by_id.add(operation["operationId"])
            assert operation["description"], path
            assert "application/problem+json" in operation["responses"]["default"]["content"], path
            is_signed_in = path.startswith("/v1/") and not path.startswith("/v1/decisions/")
            assert bool(operation.get("security")) == is_signed_in, path
    assert len(document["paths"]) == 19
    assert {"start_run", "steer_run", "say", "follow", "cancel_run", "retry_run"} <= operations_by_id
    assert len(operations_by_id) == 23


def test_a_missing_setting_is_named_and_no_secret_is_shown() -> None:
    given = {"SUPABASE_URL": "https://ref.supabase.co/", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_1"}
    settings = ApiSettings.read(
        given | {"PAM_ALLOWED_ORIGINS": "https://a.example.com, http://localhost:3000"}, hold_events=False
    )
    assert settings.supabase_url == "https://ref.supabase.co"
    assert settings.allowed_origins == ("https://a.example.com", "http://localhost:3000")
    assert "sb_publishable_1" not in repr(settings)
    for name in given:
        with pytest.raises(SettingMissing, match=name):
            ApiSettings.read({k: v for k, v in given.items() if k != name}, hold_events=False)
    for odd in ("*", "https://*.example.com", "app.example.com", "https://a.example.com/path"):
        with pytest.raises(SettingMissing, match="PAM_ALLOWED_ORIGINS"):
            ApiSettings.read(given | {"PAM_ALLOWED_ORIGINS": odd}, hold_events=False)
    with pytest.raises(SettingMissing, match="PAM_WEBHOOK_SECRET"):
        HookSettings.read({"REDIS_URL": "redis://x", "PAM_WEBHOOK_SECRET": "short"})
    with pytest.raises(SettingMissing, match="PAM_SWEEPER_DATABASE_URL"):
        SweepSettings.read({"REDIS_URL": "redis://x"})
