"""Runs and messages over HTTP: asked once, limited, cancelled, answered, seen by their own people."""

import asyncio
import json

import httpx

from tests.functions.conftest import Pam, Person

QUESTION = {"agent": "engineer", "message": "Why is the list slow?"}


async def test_a_question_becomes_a_queued_run_with_its_message(pam: Pam, api: httpx.AsyncClient, ann: Person) -> None:
    limits = {"max_steps": 3, "max_cost_usd": 0.25}
    answer = await api.post(f"/v1/orgs/{ann.org_id}/runs", json=QUESTION | {"limits": limits}, headers=ann.headers)
    assert answer.status_code == 202
    started = answer.json()
    run = (await api.get(answer.headers["location"], headers=ann.headers)).json()
    assert (run["id"], run["status"], run["user_id"]) == (started["run_id"], "queued", ann.user_id)
    assert (run["max_steps"], float(run["max_cost_usd"]), run["max_tokens"]) == (3, 0.25, 400_000)
    said = await api.get(f"/v1/orgs/{ann.org_id}/threads/{started['thread_id']}/messages", headers=ann.headers)
    assert [(m["role"], m["content"], m["run_id"]) for m in said.json()["items"]] == [
        ("user", QUESTION["message"], started["run_id"])
    ]
    assert await pam.sql("select rung_at is not null from pam_private.run_heads where run_id = %s", run["id"])


async def test_ten_requests_with_one_idempotency_key_start_one_run(
    api: httpx.AsyncClient, ann: Person, bob: Person
) -> None:
    headers = ann.headers | {"idempotency-key": "deploy-42"}
    url = f"/v1/orgs/{ann.org_id}/runs"
    answers = await asyncio.gather(*(api.post(url, json=QUESTION, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert sorted(answer.json()["is_replay"] for answer in answers) == [False] + [True] * 9

    other = await api.post(url, json=QUESTION | {"message": "Something else"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    theirs = await api.post(
        f"/v1/orgs/{bob.org_id}/runs", json=QUESTION, headers=bob.headers | {"idempotency-key": "deploy-42"}
    )
    assert theirs.json()["is_replay"] is False
    for key in ("", "x" * 201):
        refused = await api.post(url, json=QUESTION, headers=ann.headers | {"idempotency-key": key})
        assert refused.status_code == 422


async def test_what_a_verb_refuses_keeps_its_words_and_gets_its_status(
    pam: Pam, api: httpx.AsyncClient, ann: Person
) -> None:
    vera = await pam.person(org_id=ann.org_id, role="viewer")
    url = f"/v1/orgs/{ann.org_id}/runs"
    unknown = await api.post(url, json=QUESTION | {"agent": "nobody"}, headers=ann.headers)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_agent")
    assert unknown.json()["detail"] == "There is no agent nobody in this organisation: import it first."
    watching = await api.post(url, json=QUESTION, headers=vera.headers)
    assert (watching.status_code, watching.json()["code"]) == (403, "forbidden")

    started = (await api.post(url, json=QUESTION, headers=ann.headers)).json()
    thread = f"/v1/orgs/{ann.org_id}/threads/{started['thread_id']}/messages"
    busy = await api.post(thread, json=QUESTION, headers=ann.headers)
    assert (busy.status_code, busy.json()["code"]) == (409, "busy")
    idle = await api.post(f"/v1/runs/{started['run_id']}/answer", json={"answer": "yes"}, headers=ann.headers)
    assert (idle.status_code, idle.json()["code"]) == (409, "conflict")


async def test_the_fifty_first_unfinished_run_is_told_to_wait(pam: Pam, api: httpx.AsyncClient) -> None:
    carl = await pam.person()
    url = f"/v1/orgs/{carl.org_id}/runs"
    for _ in range(5):
        await asyncio.gather(*(api.post(url, json=QUESTION, headers=carl.headers) for _ in range(10)))
    refused = await api.post(url, json=QUESTION, headers=carl.headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit")
    assert int(refused.headers["retry-after"]) > 0


async def test_runs_are_listed_newest_first_and_by_thread(pam: Pam, api: httpx.AsyncClient, ann: Person) -> None:
    carl = await pam.person()
    url = f"/v1/orgs/{carl.org_id}/runs"
    started = [(await api.post(url, json=QUESTION, headers=carl.headers)).json() for _ in range(3)]
    first = (await api.get(f"{url}?limit=2", headers=carl.headers)).json()
    rest = (await api.get(f"{url}?limit=2&cursor={first['next']}", headers=carl.headers)).json()
    assert [run["id"] for run in first["items"] + rest["items"]] == [s["run_id"] for s in reversed(started)]
    of_thread = await api.get(f"{url}?thread_id={started[1]['thread_id']}", headers=carl.headers)
    assert [run["id"] for run in of_thread.json()["items"]] == [started[1]["run_id"]]
    hers = (await api.get(f"/v1/orgs/{ann.org_id}/runs?limit=100", headers=ann.headers)).json()
    assert {run["id"] for run in hers["items"]}.isdisjoint(s["run_id"] for s in started)


async def test_a_queued_run_is_cancelled_at_once_and_only_once(
    pam: Pam, api: httpx.AsyncClient, ann: Person, run_id: str
) -> None:
    dora = await pam.person(org_id=ann.org_id, role="developer")
    door = f"/v1/runs/{run_id}/cancel"
    assert (await api.post(door, headers=dora.headers)).status_code == 403
    done = await api.post(door, headers=ann.headers)
    assert (done.status_code, done.json()["status"]) == (202, "cancelled")
    assert (await api.post(door, headers=ann.headers)).status_code == 409
    assert (await api.get(f"/v1/runs/{run_id}", headers=ann.headers)).json()["status"] == "cancelled"


async def test_a_run_rests_and_goes_on(pam: Pam, api: httpx.AsyncClient, ann: Person, run_id: str) -> None:
    dora = await pam.person(org_id=ann.org_id, role="developer")
    pause, resume = (f"/v1/runs/{run_id}/{verb}" for verb in ("pause", "resume"))
    assert (await api.post(resume, headers=ann.headers)).status_code == 409, "it does not rest"
    assert (await api.post(pause, headers=dora.headers)).status_code == 403
    for _ in range(2):
        paused = await api.post(pause, headers=ann.headers)
        assert (paused.status_code, paused.json()["status"]) == (202, "queued")
    assert (await api.get(f"/v1/runs/{run_id}", headers=ann.headers)).json()["paused_at"] is not None
    assert (await api.post(resume, headers=ann.headers)).status_code == 202
    run = (await api.get(f"/v1/runs/{run_id}", headers=ann.headers)).json()
    assert (run["paused_at"], run["turn"]) == (None, 2)


async def test_what_a_cancelled_run_was_asked_is_asked_again(
    pam: Pam, api: httpx.AsyncClient, ann: Person, run_id: str
) -> None:
    dora = await pam.person(org_id=ann.org_id, role="developer")
    door = f"/v1/runs/{run_id}/retry"
    assert (await api.post(door, headers=ann.headers)).status_code == 409, "it has not ended"
    await api.post(f"/v1/runs/{run_id}/cancel", headers=ann.headers)
    assert (await api.post(door, headers=dora.headers)).status_code == 403
    assert (await api.post(door, json={"despite": True}, headers=ann.headers)).status_code == 422
    again = await api.post(door, json={"despite_effects": True}, headers=ann.headers)
    assert (again.status_code, again.json()["status"]) == (202, "queued"), again.text
    assert again.json()["run_id"] != run_id
    old, new = [
        (await api.get(url, headers=ann.headers)).json() for url in (f"/v1/runs/{run_id}", again.headers["location"])
    ]
    assert (new["thread_id"], new["agent_id"]) == (old["thread_id"], old["agent_id"])
    assert (await api.post(door, headers=ann.headers)).status_code == 409, "one at a time"


async def test_an_answer_sends_an_interrupted_run_back_to_the_queue(
    pam: Pam, api: httpx.AsyncClient, ann: Person, run_id: str
) -> None:
    await pam.ask(run_id, await pam.claim(run_id))
    door = f"/v1/runs/{run_id}/answer"
    assert (await api.post(door, json={"answer": " "}, headers=ann.headers)).status_code == 422
    answered = await api.post(door, json={"answer": "Production."}, headers=ann.headers)
    assert (answered.status_code, answered.json()["status"]) == (202, "queued")
    assert (await api.get(f"/v1/runs/{run_id}", headers=ann.headers)).json()["turn"] == 2


async def test_a_second_message_waits_interrupts_or_goes_to_the_run_itself(
    pam: Pam, api: httpx.AsyncClient, ann: Person, run_id: str
) -> None:
    await pam.claim(run_id)
    thread = (await api.get(f"/v1/runs/{run_id}", headers=ann.headers)).json()["thread_id"]
    door = f"/v1/orgs/{ann.org_id}/threads/{thread}/messages"
    assert (await api.post(door, json=QUESTION, headers=ann.headers)).status_code == 409
    waits = await api.post(door, json=QUESTION | {"if_busy": "queue", "priority": 3}, headers=ann.headers)
    assert waits.status_code == 202, waits.text
    behind = (await api.get(waits.headers["location"], headers=ann.headers)).json()
    assert (behind["status"], behind["after_run"], behind["priority"]) == ("queued", run_id, 3)
    steering = f"/v1/runs/{run_id}/messages"
    assert (await api.post(steering, json={"message": " "}, headers=ann.headers)).status_code == 422
    told = await api.post(steering, json={"message": "And be brief."}, headers=ann.headers)
    assert (told.status_code, told.json()["status"]) == (202, "running")
    instead = await api.post(door, json=QUESTION | {"if_busy": "roll_back"}, headers=ann.headers)
    assert instead.status_code == 202
    assert (await api.get(waits.headers["location"], headers=ann.headers)).json()["status"] == "cancelled"
    for wrong in ({"if_busy": "shout"}, {"priority": 11}):
        assert (await api.post(door, json=QUESTION | wrong, headers=ann.headers)).status_code == 422
    assert (await api.post(steering, json={"message": "x"}, headers=ann.headers)).status_code == 409


async def test_messages_are_paged_in_the_order_they_were_said(pam: Pam, api: httpx.AsyncClient, ann: Person) -> None:
    made = await api.post(f"/v1/orgs/{ann.org_id}/threads", json={}, headers=ann.headers)
    url = f"{made.headers['location']}/messages"
    assert (await api.get(url, headers=ann.headers)).json() == {"items": [], "next": None}
    for n in range(3):
        asked = await api.post(url, json=QUESTION | {"message": f"Nr {n}"}, headers=ann.headers)
        assert asked.status_code == 202, asked.text
        await api.post(f"/v1/runs/{asked.json()['run_id']}/cancel", headers=ann.headers)
    first = (await api.get(f"{url}?limit=2", headers=ann.headers)).json()
    rest = (await api.get(f"{url}?limit=2&cursor={first['next']}", headers=ann.headers)).json()
    assert [m["content"] for m in first["items"] + rest["items"]] == ["Nr 0", "Nr 1", "Nr 2"]
    assert rest["next"] is None


async def test_unknown_fields_and_what_postgres_cannot_hold_are_refused_by_name(
    pam: Pam, api: httpx.AsyncClient, ann: Person
) -> None:
    url = f"/v1/orgs/{ann.org_id}/runs"
    count = "select count(*) from pam.runs where org_id = %s"
    before = await pam.sql(count, ann.org_id)
    for change, pointer in (
        ({"user_id": ann.user_id}, "#/user_id"),
        ({"limits": {"max_stepz": 1}}, "#/limits/max_stepz"),
        ({"limits": {"max_steps": 201}}, "#/limits/max_steps"),
        ({"limits": {"max_cost_usd": 0}}, "#/limits/max_cost_usd"),
        ({"message": "nul\0"}, "#/message"),
        ({"message": "half \ud800"}, "#/message"),
        ({"message": "   "}, "#/message"),
        ({"message": "x" * 100_001}, "#/message"),
        ({"thread_id": "1 or 1=1"}, "#/thread_id"),
        ({"agent": None}, "#/agent"),
    ):
        body = json.dumps(QUESTION | change)
        answer = await api.post(url, content=body, headers=ann.headers | {"content-type": "application/json"})
        assert answer.status_code == 422, (change, answer.text)
        assert answer.json()["errors"][0]["pointer"] == pointer
    assert await pam.sql(count, ann.org_id) == before
