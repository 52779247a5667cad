"""The task list of a member, and of others; the projects 42, 147 and 259 have open invitations."""

import httpx


async def test_somebody_without_a_project_has_no_tasks(api: httpx.AsyncClient) -> None:
    assert (await api.get("/tasks")).json() == []


async def test_a_member_lists_the_newest_open_tasks_of_their_projects(api: httpx.AsyncClient) -> None:
    for project_id in (42, 147, 259):
        assert (await api.post(f"/projects/{project_id}/join")).status_code == 204
    listed = (await api.get("/tasks")).json()
    assert len(listed) == 50
    assert [task["created_at"] for task in listed] == sorted((t["created_at"] for t in listed), reverse=True)
    assert {task["project"] for task in listed} == {p["name"] for p in (await api.get("/projects")).json()}


async def test_a_finished_task_leaves_the_list(api: httpx.AsyncClient) -> None:
    await api.post("/projects/42/join")
    added = (await api.post("/tasks", json={"project_id": 42, "title": "Answer the client"})).json()
    assert added["status"] == "open"
    assert (await api.post(f"/tasks/{added['id']}/done")).json()["status"] == "done"
    assert added["id"] not in {task["id"] for task in (await api.get("/tasks")).json()}


async def test_nobody_adds_a_task_to_a_project_of_others(api: httpx.AsyncClient) -> None:
    refused = await api.post("/tasks", json={"project_id": 1, "title": "Not mine"})
    assert refused.status_code == 403
