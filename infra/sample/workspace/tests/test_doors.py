"""Who gets in: tokens, invitations, and invoices for owners only."""

import httpx


async def test_a_forged_token_is_refused(api: httpx.AsyncClient) -> None:
    refused = await api.get("/tasks", headers={"authorization": "Bearer forged"})
    assert refused.status_code == 401


async def test_nobody_joins_without_an_open_invitation(api: httpx.AsyncClient) -> None:
    assert (await api.post("/projects/7/join")).status_code == 403


async def test_a_member_who_is_no_owner_sees_no_invoices(api: httpx.AsyncClient) -> None:
    await api.post("/projects/42/join")
    assert (await api.get("/projects/42/invoices")).json() == []
