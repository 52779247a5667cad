"""Threads over HTTP, on real PostgREST, by people who must not see each other."""

import asyncio
import uuid

import httpx

from tests.functions.conftest import Pam, Person


async def test_a_thread_is_opened_read_and_listed_newest_first(pam: Pam, api: httpx.AsyncClient) -> None:
    carl = await pam.person()
    threads = f"/v1/orgs/{carl.org_id}/threads"
    made = [(await api.post(threads, json={"title": f"Nr {n}"}, headers=carl.headers)).json() for n in range(5)]
    opened = await api.get(f"{threads}/{made[0]['id']}", headers=carl.headers)
    assert opened.json() == made[0]
    assert opened.json()["created_by"] == carl.user_id

    titles, cursor = [], ""
    for _ in range(3):
        page = (await api.get(f"{threads}?limit=2{cursor}", headers=carl.headers)).json()
        titles += [thread["title"] for thread in page["items"]]
        cursor = f"&cursor={page['next']}"
    assert titles == ["Nr 4", "Nr 3", "Nr 2", "Nr 1", "Nr 0"]
    assert page["next"] is None


async def test_threads_made_at_the_same_instant_are_all_listed(pam: Pam, api: httpx.AsyncClient) -> None:
    carl = await pam.person()
    await pam.sql(
        "insert into pam.threads (org_id, title, created_by) select %s, n::text, %s from generate_series(1, 7) n",
        carl.org_id,
        carl.user_id,
    )
    seen, cursor = [], ""
    while True:
        url = f"/v1/orgs/{carl.org_id}/threads?limit=3{cursor}"
        page = (await api.get(url, headers=carl.headers)).json()
        seen += [thread["title"] for thread in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert sorted(seen) == list("1234567")


async def test_a_foreign_and_an_absent_thing_answer_alike(
    api: httpx.AsyncClient, ann: Person, bob: Person, run_id: str
) -> None:
    run = (await api.get(f"/v1/runs/{run_id}", headers=ann.headers)).json()
    nowhere = str(uuid.uuid4())
    doors = [
        ("GET", "/v1/orgs/{org}/threads", None),
        ("POST", "/v1/orgs/{org}/threads", {}),
        ("GET", "/v1/orgs/{org}/threads/{thread}", None),
        ("GET", "/v1/orgs/{org}/threads/{thread}/messages", None),
        ("POST", "/v1/orgs/{org}/threads/{thread}/messages", {"agent": "engineer", "message": "hi"}),
        ("GET", "/v1/orgs/{org}/runs", None),
        ("POST", "/v1/orgs/{org}/runs", {"agent": "engineer", "message": "hi"}),
        ("GET", "/v1/runs/{run}", None),
        ("GET", "/v1/runs/{run}/events", None),
        ("POST", "/v1/runs/{run}/cancel", None),
        ("POST", "/v1/runs/{run}/pause", None),
        ("POST", "/v1/runs/{run}/resume", None),
        ("POST", "/v1/runs/{run}/retry", None),
        ("POST", "/v1/runs/{run}/answer", {"answer": "yes"}),
    ]

    async def knock(method: str, path: str, body: object, ids: dict[str, str], who: Person) -> tuple[int, object]:
        answer = await api.request(method, path.format(**ids), json=body, headers=who.headers)
        said = answer.json()
        said.pop("request_id", None)
        return answer.status_code, said

    foreign = {"org": ann.org_id, "thread": run["thread_id"], "run": run_id}
    absent = dict.fromkeys(("org", "thread", "run"), nowhere)
    for method, path, body in doors:
        status, said = await knock(method, path, body, foreign, bob)
        assert (status, said) == await knock(method, path, body, absent, bob), path
        assert status == 404, path
        if method == "GET":  # the same door opens for the one it belongs to
            assert (await knock(method, path, body, foreign, ann))[0] == 200, path


async def test_a_viewer_may_read_and_not_open_threads(pam: Pam, api: httpx.AsyncClient, ann: Person) -> None:
    vera = await pam.person(org_id=ann.org_id, role="viewer")
    threads = f"/v1/orgs/{ann.org_id}/threads"
    read, refused = await asyncio.gather(
        api.get(threads, headers=vera.headers), api.post(threads, json={}, headers=vera.headers)
    )
    assert read.status_code == 200
    assert refused.status_code == 403
    assert refused.json()["code"] == "forbidden"


async def test_a_cursor_that_no_page_gave_out_is_refused(api: httpx.AsyncClient, ann: Person) -> None:
    for cursor in ("x", "%22),id.gt.0", "MjAyNi0wMS0wMXxh", "é", "a" * 201):
        answer = await api.get(f"/v1/orgs/{ann.org_id}/threads?cursor={cursor}", headers=ann.headers)
        assert answer.status_code == 422, cursor
        assert answer.json()["code"] == "invalid"
