"""Approvals in whole runs: the run waits without a worker, people decide at every door, and the run goes on."""

import httpx
import pytest

from infra.cli.person import CommandFailed
from tests.support.house import Engineer, House

WRITES = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    say: "I write two files."
    call:
      - {file_write: {path: a.txt, content: "one"}}
      - {file_list: {}}
      - {file_write: {path: b.txt, content: "two"}}
  - expect: {role: tool, result_of: file_write}
    say: "That is how it is."
"""


async def cautious(house: House) -> Engineer:
    """An engineer whose organisation asks before a file is written."""
    ada = await house.engineer()
    await ada.person.call(
        "set_policy", org_id=ada.org_id, role="owner", tool="file_write", effect="write", consent="ask",
        consent_after_untrusted="ask", decided_by="developer",
    )  # fmt: skip
    return ada


async def test_a_run_waits_for_both_and_goes_on_when_both_are_decided(house: House) -> None:
    ada = await cautious(house)
    run_id, waiting = await house.play_until_question(ada, WRITES)
    await house.until(run_id, "interrupted")
    asked = waiting.events[-1]["outcome"]["interrupts"]
    assert [one["reason"] for one in asked] == ["approval", "approval"]
    assert "file_write" in asked[0]["message"]
    assert waiting.outcomes() == [], "the list keeps its place behind the write"

    rows = await ada.person.select("approvals", run_id=run_id)
    assert {row["id"] for row in rows} == {one["id"] for one in asked}
    first, second = [next(row for row in rows if row["arguments"]["path"] == path) for path in ("a.txt", "b.txt")]
    answer = await ada.person.call(
        "decide", decisions=[{"approval_id": first["id"], "verdict": "reject", "note": "not this one"}]
    )
    assert answer["runs"] == [{"run_id": run_id, "status": "interrupted"}]
    edited = {"path": "b.txt", "content": "two, as Ada wants it"}
    await ada.person.call(
        "decide", decisions=[{"approval_id": second["id"], "verdict": "approve", "arguments": edited}]
    )
    assert (await house.until(run_id))["status"] == "succeeded"
    seen = await house.follow(ada.person, run_id)
    assert seen.outcomes() == ["refused", "succeeded", "succeeded"]
    assert "not this one" in seen.results()[0]
    assert (await ada.person.call("read_file", org_id=ada.org_id, path="b.txt"))["text"] == "two, as Ada wants it"
    with pytest.raises(CommandFailed, match="no such file"):
        await ada.person.call("read_file", org_id=ada.org_id, path="a.txt")


async def test_a_run_that_waits_can_be_cancelled_and_nothing_is_written(house: House) -> None:
    ada = await cautious(house)
    run_id, _ = await house.play_until_question(ada, WRITES)
    await house.until(run_id, "interrupted")
    await ada.person.call("cancel_run", run_id=run_id)
    rows = await ada.person.select("approvals", "id,status", run_id=run_id)
    assert {row["status"] for row in rows} == {"withdrawn"}
    answer = await ada.person.call("decide", decisions=[{"approval_id": rows[0]["id"], "verdict": "approve"}])
    assert answer["results"][0]["refused"]["code"] == "conflict"
    assert (await house.events(run_id))[-1]["outcome"] == {"type": "cancelled"}


async def test_http_lists_decides_and_links(house: House) -> None:
    ada, stranger = await cautious(house), await house.person()
    run_id, _ = await house.play_until_question(ada, WRITES)
    await house.until(run_id, "interrupted")
    session = await ada.person.client.auth.get_session()
    other = await stranger.client.auth.get_session()
    assert session is not None
    assert other is not None
    async with httpx.AsyncClient(base_url=house.facts.api_url, trust_env=False) as api:
        headers = {"authorization": f"Bearer {session.access_token}"}
        foreign = {"authorization": f"Bearer {other.access_token}"}
        listing = f"/v1/orgs/{ada.org_id}/approvals"
        page = (await api.get(listing, params={"status": "pending", "run_id": run_id}, headers=headers)).json()
        first, second = sorted(page["items"], key=lambda item: item["arguments"]["path"])
        assert (await api.get(listing, headers=foreign)).status_code == 404
        one = f"/v1/approvals/{first['id']}"
        assert (await api.get(one, headers=headers)).json()["why"]
        assert (await api.get(one, headers=foreign)).status_code == 404
        assert (await api.post(f"{one}/link", headers=foreign)).status_code == 404
        assert (await api.get(listing)).status_code == 401

        link = await api.post(f"{one}/link", headers=headers)
        assert link.status_code == 201
        door = f"/v1/decisions/{link.json()['token']}"
        assert (await api.get(door)).json()["tool"] == "file_write"
        html = await api.get(door, headers={"accept": "text/html"})
        assert html.headers["content-type"].startswith("text/html")
        assert "script" not in html.text
        assert html.headers["content-security-policy"].startswith("default-src 'none'")
        assert (await api.post(door, json={"verdict": "perhaps"})).status_code == 422
        forged = await api.post(f"{door}x", json={"verdict": "approve"})
        assert (forged.status_code, forged.json()["code"]) == (404, "not_found")
        form = {"content-type": "application/x-www-form-urlencoded"}
        pressed = await api.post(door, content="verdict=approve&note=", headers=form)
        assert (pressed.status_code, "approved" in pressed.text) == (200, True)
        again = await api.post(door, json={"verdict": "reject"})
        assert (again.status_code, again.json()["detail"]) == (409, "This link was used already.")
        assert (await api.get(door, headers={"accept": "text/html"})).status_code == 409

        batch = {"decisions": [{"approval_id": item["id"], "verdict": "approve"} for item in (first, second)]}
        assert (await api.post("/v1/approvals/decide", json={"decisions": []}, headers=headers)).status_code == 422
        nothing = (await api.post("/v1/approvals/decide", json=batch, headers=foreign)).json()
        assert [result["refused"]["code"] for result in nothing["results"]] == ["not_found", "not_found"]
        told = (await api.post("/v1/approvals/decide", json=batch, headers=headers)).json()
        assert told["results"][0]["refused"]["code"] == "conflict"
        assert told["results"][1]["status"] == "approved"
    assert (await house.until(run_id))["status"] == "succeeded"
    assert (await house.follow(ada.person, run_id)).outcomes() == ["succeeded", "succeeded", "succeeded"]


async def test_what_is_shown_on_the_page_of_a_link_is_text_and_nothing_else(house: House) -> None:
    ada = await cautious(house)
    evil = WRITES.replace('content: "one"', 'content: "<script>alert(1)</script><img src=x>"')
    run_id, _ = await house.play_until_question(ada, evil)
    await house.until(run_id, "interrupted")
    rows = await ada.person.select("approvals", run_id=run_id)
    evil_row = next(row for row in rows if row["arguments"]["path"] == "a.txt")
    link = await ada.person.call("make_decision_link", approval_id=evil_row["id"])
    async with httpx.AsyncClient(base_url=house.facts.api_url, trust_env=False) as api:
        page = await api.get(f"/v1/decisions/{link['token']}", headers={"accept": "text/html"})
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text
    assert "<img" not in page.text
    await ada.person.call("cancel_run", run_id=run_id)
