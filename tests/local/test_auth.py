"""Auth and PostgREST of the embedded stack, with supabase-py as a product uses it."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from postgrest.exceptions import APIError
from supabase_auth.errors import AuthApiError

from supabase import AsyncClient, acreate_client

PASSWORD = "Passw0rd!x"


async def client_of(platform: Any) -> AsyncClient:
    return await acreate_client(platform.url, platform.publishable_key)


async def sign_up(platform: Any, **data: str) -> tuple[AsyncClient, Any]:
    client = await client_of(platform)
    email = f"{uuid.uuid4().hex}@example.com"
    answer = await client.auth.sign_up({"email": email, "password": PASSWORD, "options": {"data": data}})
    assert answer.session is not None
    return client, answer.session


async def test_a_new_person_signs_up_signs_in_and_is_recognised(platform: Any) -> None:
    _, session = await sign_up(platform, name="Ada")
    client = await client_of(platform)
    signed_in = await client.auth.sign_in_with_password({"email": session.user.email, "password": PASSWORD})
    assert signed_in.user is not None
    assert signed_in.user.id == session.user.id
    found = await client.auth.get_user()
    assert found is not None
    assert found.user.user_metadata["name"] == "Ada"


async def test_a_wrong_password_is_refused(platform: Any) -> None:
    client, session = await sign_up(platform)
    with pytest.raises(AuthApiError, match="Invalid login credentials"):
        await client.auth.sign_in_with_password({"email": session.user.email, "password": "wrong"})


async def test_an_access_token_carries_the_claims_of_hosted_auth(platform: Any) -> None:
    client, session = await sign_up(platform, name="Ada")
    refreshed = await client.auth.refresh_session()
    assert refreshed.session is not None
    for token in (session.access_token, refreshed.session.access_token):
        claims = jwt.decode(token, platform.jwt_secret, algorithms=["HS256"], audience="authenticated")
        assert claims["iss"] == f"{platform.url}/auth/v1"
        assert claims["sub"] == session.user.id
        assert claims["role"] == "authenticated"
        assert claims["app_metadata"] == {"provider": "email", "providers": ["email"]}
        assert claims["user_metadata"]["name"] == "Ada"
        assert claims["session_id"]
        assert (claims["aal"], claims["is_anonymous"]) == ("aal1", False)
        assert claims["amr"][0]["method"] == "password"


async def test_a_refresh_token_is_rotated_and_signing_out_ends_it(platform: Any) -> None:
    client, session = await sign_up(platform)
    refreshed = await client.auth.refresh_session()
    assert refreshed.session is not None
    assert refreshed.session.refresh_token != session.refresh_token
    await client.auth.sign_out()
    with pytest.raises(AuthApiError):
        await client.auth.refresh_session(refreshed.session.refresh_token)


async def test_metadata_reaches_sql_as_an_object(platform: Any) -> None:
    _, session = await sign_up(platform, name="Ada")
    async with await psycopg.AsyncConnection.connect(platform.owner_dsn) as connection:
        cursor = await connection.execute(
            "select raw_user_meta_data ->> 'name', raw_app_meta_data ->> 'provider', (select"
            " i.email from auth.identities as i where i.user_id = u.id)"
            " from auth.users as u where id = %s",
            (session.user.id,),
        )
        assert await cursor.fetchone() == ("Ada", "email", session.user.email)


async def test_rows_of_another_schema_are_seen_by_their_owner_only(
    platform: Any, migrate: Callable[[str], Awaitable[None]]
) -> None:
    await migrate("""
        create schema if not exists pam; grant usage on schema pam to authenticated;
        create table if not exists pam.pages (
          id uuid primary key default gen_random_uuid(), owner uuid not null default auth.uid(),
          title text not null, secret text, made_at timestamptz not null default now());
        alter table pam.pages enable row level security;
        grant select (id, owner, title, made_at), insert (title) on pam.pages to authenticated;
        create policy "own" on pam.pages for all to authenticated using (owner = (select auth.uid()));
    """)
    (ada, session), (bob, _) = await sign_up(platform), await sign_up(platform)
    inserted = ada.schema("pam").table("pages").insert({"title": "hers"}, returning="minimal")  # type: ignore[arg-type]
    await inserted.execute()
    hers: Any = (await ada.schema("pam").table("pages").select("owner,title,made_at").execute()).data
    assert [(row["owner"], row["title"]) for row in hers] == [(session.user.id, "hers")]
    assert "T" in hers[0]["made_at"]
    assert (await bob.schema("pam").table("pages").select("title").execute()).data == []
    # lite would grant every API role all rights on tables with RLS at its first request: columns stay closed.
    with pytest.raises(APIError, match="permission denied"):
        await ada.schema("pam").table("pages").select("secret").execute()
    with pytest.raises(APIError, match="permission denied"):
        await ada.schema("pam").table("pages").delete().eq("owner", session.user.id).execute()
    with pytest.raises(APIError, match="Invalid schema"):
        await ada.schema("auth").table("users").select("id").execute()
    async with await psycopg.AsyncConnection.connect(platform.admin_dsn) as connection:
        cursor = await connection.execute(
            "select count(*) from pg_default_acl where defaclrole = 'supabase_lite'::regrole"
        )
        assert await cursor.fetchone() == (0,)


async def test_a_raised_error_answers_400_with_its_code_as_hosted(
    platform: Any, migrate: Callable[[str], Awaitable[None]]
) -> None:
    await migrate("""
        create or replace function public.refuse(code text) returns void language plpgsql as
        $$ begin raise exception 'no' using errcode = code, hint = 'ask'; end $$;
    """)
    async with httpx.AsyncClient(base_url=platform.url, headers={"apikey": platform.publishable_key}) as http:
        for code, status in {"P0001": 400, "23514": 400, "PT402": 402, "57014": 500, "53300": 503}.items():
            answer = await http.post("/rest/v1/rpc/refuse", json={"code": code})
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert (answer.json()["message"], answer.json()["hint"]) == ("no", "ask")


@pytest.mark.parametrize("role", ["postgres", "supabase_admin", "supabase_auth_admin"])
async def test_a_signed_token_cannot_name_a_role_beyond_the_api_roles(platform: Any, role: str) -> None:
    token = jwt.encode({"role": role, "exp": 4_000_000_000}, platform.jwt_secret)
    headers = {"apikey": platform.publishable_key, "Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=platform.url, headers=headers) as http:
        answer = await http.get("/rest/v1/anything")
        assert answer.status_code in (403, 404)
        answer = await http.post("/rest/v1/rpc/refuse", json={"code": "P0001"})
        assert (answer.status_code, answer.json()["code"]) == (403, "42501")


async def test_without_a_key_nothing_is_answered_and_unknown_doors_are_named(platform: Any) -> None:
    async with httpx.AsyncClient(base_url=platform.url) as http:
        assert (await http.get("/rest/v1/anything")).status_code == 401
        assert (await http.post("/auth/v1/signup", json={})).status_code == 401
        unknown = await http.get("/functions/v1/hello")
        assert unknown.status_code == 404
        assert "/realtime/v1" in unknown.json()["message"]
        health = await http.get("/health")
        assert (health.status_code, health.json()["lite"]) == (200, "up")


@pytest.mark.parametrize(
    "path", ["/auth/v1/token", "/rest/v1/anything", "/realtime/v1/api/broadcast", "/auth/v1/signup"]
)
async def test_a_browser_of_another_origin_may_call(platform: Any, path: str) -> None:
    wanted = {
        "Origin": "http://localhost:5173",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "apikey,authorization,content-type",
    }
    async with httpx.AsyncClient(base_url=platform.url, headers=wanted) as http:
        answer = await http.options(path)
        plain = await http.get(path)
    assert plain.headers.get_list("access-control-allow-origin") == ["*"]
    assert len(plain.headers.get_list("date")) == 1
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] in ("*", "http://localhost:5173")
    assert "apikey" in answer.headers["access-control-allow-headers"].lower()
