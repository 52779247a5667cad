"""The Realtime stand-in with realtime-py: who hears what, until when, and what a hostile client can do."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.exceptions import RealtimeHTTPError
from realtime.types import RealtimeSubscribeStates as State

_PRIVATE: Any = {"private": True, "broadcast": {"self": False, "ack": False}}


@dataclass
class Listener:
    """One channel of one client: what it heard and which states it went through."""

    channel: AsyncRealtimeChannel
    heard: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    states: asyncio.Queue[tuple[State, str]] = field(default_factory=asyncio.Queue)

    async def hear(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.heard.get(), 5)

    async def state(self) -> tuple[State, str]:
        return await asyncio.wait_for(self.states.get(), 8)

    async def send(self, event: str, payload: dict[str, Any]) -> None:
        await self.channel.send_broadcast(event, payload)


@dataclass
class Person:
    """A user with a signed token; Realtime asks nobody but the token who they are."""

    platform: Any
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def topic(self) -> str:
        return f"user:{self.id}"

    def token(self, *, seconds: int = 3600, secret: str | None = None, **claims: Any) -> str:
        content = {"sub": self.id, "role": "authenticated", "exp": int(time.time()) + seconds, **claims}
        return jwt.encode(content, secret or self.platform.jwt_secret, algorithm="HS256")


Open = Callable[..., Awaitable[Listener]]


@pytest.fixture(scope="session")
async def rules(platform: Any) -> None:
    """Everyone may hear and speak on `user:<own id>`, and only hear `news`."""
    async with await psycopg.AsyncConnection.connect(platform.owner_dsn, autocommit=True) as connection:
        for verb, clause in (("select", "using"), ("insert", "with check")):
            await connection.execute(
                f"create policy own_{verb} on realtime.messages for {verb} to authenticated"
                f" {clause} (realtime.topic() = 'user:' || (select auth.uid()))".encode()
            )
        await connection.execute(
            "create policy news on realtime.messages for select to authenticated using (realtime.topic() = 'news')"
        )
        await connection.execute(
            "create policy seats on realtime.messages for select to authenticated"
            " using (realtime.topic() = 'seats' and extension = 'presence')"
        )
        await connection.execute(
            "create policy broken on realtime.messages for select to authenticated"
            " using (realtime.topic() like 'broken:%'"
            " and split_part(realtime.topic(), ':', 2)::uuid is not null)"
        )


@pytest.fixture
async def listen(platform: Any, rules: None) -> AsyncIterator[Open]:
    clients: list[AsyncRealtimeClient] = []

    async def start(
        topic: str,
        token: str | None = None,
        *,
        private: bool = True,
        itself: bool = False,
        presence: str = "",
    ) -> Listener:
        client = AsyncRealtimeClient(f"{platform.url}/realtime/v1", platform.publishable_key)
        clients.append(client)
        await client.connect()
        if token:
            await client.set_auth(token)
        channel = client.channel(
            topic,
            {
                "config": {
                    "broadcast": {"ack": True, "self": itself},
                    "presence": {"key": presence, "enabled": bool(presence)},
                    "private": private,
                }
            },
        )
        listener = Listener(channel)
        channel.on_broadcast("*", lambda message: listener.heard.put_nowait(dict(message)))
        await channel.subscribe(lambda state, error: listener.states.put_nowait((state, str(error or ""))))
        return listener

    yield start
    for client in clients:
        await client.close()


async def joined(listening: Awaitable[Listener]) -> Listener:
    listener = await listening
    assert (await listener.state())[0] is State.SUBSCRIBED
    return listener


async def announce(platform: Any, topic: str, event: str, *, private: bool = True, **payload: Any) -> None:
    async with await psycopg.AsyncConnection.connect(platform.owner_dsn, autocommit=True) as connection:
        await connection.execute("select realtime.send(%s, %s, %s, %s)", (json.dumps(payload), event, topic, private))


async def test_a_message_of_the_database_reaches_only_its_own_private_topic(platform: Any, listen: Open) -> None:
    ada, bob = Person(platform), Person(platform)
    hers = await joined(listen(ada.topic, ada.token()))
    his = await joined(listen(bob.topic, bob.token()))
    await announce(platform, ada.topic, "for ada", n=1)
    await announce(platform, bob.topic, "for bob", n=2)
    await announce(platform, ada.topic, "end")
    message = await hers.hear()
    assert (message["event"], message["payload"]["n"]) == ("for ada", 1)
    assert message["meta"]["id"] == message["payload"]["id"]
    assert (await hers.hear())["event"] == "end"
    assert (await his.hear())["event"] == "for bob"


async def test_a_private_and_a_public_topic_of_one_name_do_not_hear_each_other(platform: Any, listen: Open) -> None:
    ada, bob = Person(platform), Person(platform)
    public = await joined(listen(ada.topic, bob.token(), private=False))
    await announce(platform, ada.topic, "private, and nobody listens")
    await announce(platform, ada.topic, "public", private=False)
    assert (await public.hear())["event"] == "public"
    hers = await joined(listen(bob.topic, bob.token()))
    await announce(platform, bob.topic, "public, and nobody listens", private=False)
    await announce(platform, bob.topic, "private")
    assert (await hers.hear())["event"] == "private"


async def test_who_may_see_presence_only_hears_no_broadcast(platform: Any, listen: Open) -> None:
    ada = Person(platform)
    seats = await joined(listen("seats", ada.token(), presence="ada"))
    await announce(platform, "seats", "whisper")
    same_socket = Listener(seats.channel.socket.channel("news", {"config": _PRIVATE}))
    same_socket.channel.on_broadcast("*", lambda message: same_socket.heard.put_nowait(dict(message)))
    await same_socket.channel.subscribe()
    await announce(platform, "news", "end")
    assert (await same_socket.hear())["event"] == "end"
    assert seats.heard.empty()


async def test_a_failing_send_warns_and_leaves_its_transaction_alone(platform: Any) -> None:
    warnings: list[str] = []
    async with await psycopg.AsyncConnection.connect(platform.owner_dsn) as connection:
        connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        await connection.execute("create temporary table kept as select 1 as n")
        await connection.execute("select realtime.send('{}', 'event', null)")
        cursor = await connection.execute("select n from kept")
        assert await cursor.fetchone() == (1,)
    assert warnings
    assert warnings[0].startswith("ErrorSendingBroadcastMessage")


async def test_a_long_message_and_a_burst_arrive_whole_and_in_order(platform: Any, listen: Open) -> None:
    ada = Person(platform)
    hers = await joined(listen(ada.topic, ada.token()))
    await announce(platform, ada.topic, "long", text="ü" * 50_000)
    assert len((await hers.hear())["payload"]["text"]) == 50_000
    async with await psycopg.AsyncConnection.connect(platform.owner_dsn, autocommit=True) as connection:
        await connection.execute(
            "select realtime.send(jsonb_build_object('n', n), 'burst', %s) from generate_series(1, 500) as n",
            (ada.topic,),
        )
    assert [(await hers.hear())["payload"]["n"] for _ in range(500)] == list(range(1, 501))


@pytest.mark.parametrize("topic", ["other", "user:", "USER:", "user: ", "broken:not-a-uuid", "x" * 10_000])
async def test_a_private_topic_without_a_policy_for_it_is_refused(platform: Any, listen: Open, topic: str) -> None:
    ada = Person(platform)
    name = Person(platform).topic if topic == "other" else topic
    state, reason = await (await listen(name, ada.token())).state()
    assert state is State.CHANNEL_ERROR
    assert "Unauthorized" in reason or "TopicNameRequired" in reason


async def test_a_person_without_a_token_hears_public_topics_only(platform: Any, listen: Open) -> None:
    state, reason = await (await listen("news")).state()
    assert state is State.CHANNEL_ERROR
    assert "Unauthorized" in reason
    await joined(listen("news", private=False))


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"secret": "another-secret-of-sufficient-length-for-hs256"}, "JwtSignatureError"),
        ({"seconds": -5}, "InvalidJWTToken"),
        ({"role": "postgres"}, "Unauthorized"),
        ({"role": "supabase_admin"}, "Unauthorized"),
        ({"role": None}, "InvalidJWTToken"),
        ({"sub": None}, "MalformedJWT"),
        ({"sub": "no-uuid"}, "Unauthorized"),
    ],
)
async def test_a_forged_or_spent_token_opens_nothing(
    platform: Any, listen: Open, claims: dict[str, Any], code: str
) -> None:
    ada = Person(platform)
    state, reason = await (await listen(ada.topic, ada.token(**claims))).state()
    assert state is State.CHANNEL_ERROR
    assert code in reason


async def test_an_unsigned_token_opens_nothing(platform: Any, listen: Open) -> None:
    ada = Person(platform)
    unsigned = jwt.encode({"sub": ada.id, "role": "authenticated", "exp": 4e9}, "", algorithm="none")
    state, reason = await (await listen(ada.topic, unsigned)).state()
    assert state is State.CHANNEL_ERROR
    assert "MalformedJWT" in reason


async def test_a_channel_ends_with_its_token_and_a_refresh_extends_it(platform: Any, listen: Open) -> None:
    ada = Person(platform)
    forgetful = await joined(listen(ada.topic, ada.token(seconds=2)))
    careful = await joined(listen(ada.topic, ada.token(seconds=2)))
    await careful.channel.socket.set_auth(ada.token())
    state, reason = await forgetful.state()
    assert state is State.CHANNEL_ERROR
    assert "Token has expired" in reason
    assert (await forgetful.state())[0] is State.CLOSED
    await announce(platform, ada.topic, "later")
    assert (await careful.hear())["event"] == "later"
    assert forgetful.heard.empty()
    assert careful.states.empty()


@pytest.mark.parametrize("stolen", ["other", "forged"])
async def test_a_refresh_with_a_token_that_may_not_read_closes_the_channel(
    platform: Any, listen: Open, stolen: str
) -> None:
    ada, bob = Person(platform), Person(platform)
    hers = await joined(listen(ada.topic, ada.token()))
    await hers.channel.socket.set_auth(bob.token() if stolen == "other" else ada.token(secret="x" * 40))
    assert (await hers.state())[0] is State.CHANNEL_ERROR
    assert (await hers.state())[0] is State.CLOSED


async def test_who_may_only_read_is_not_heard(platform: Any, listen: Open) -> None:
    ada, bob = Person(platform), Person(platform)
    reader, writer = await joined(listen("news", ada.token())), await joined(listen("news", bob.token()))
    await writer.send("fake", {})
    await writer.channel.socket.set_auth(bob.token())  # its reply order proves nothing; the marker below does
    with pytest.raises(RealtimeHTTPError, match="permissions to write"):
        await writer.channel.http_send("fake", {})
    await announce(platform, "news", "true")
    assert (await reader.hear())["event"] == "true"


async def test_a_broadcast_reaches_the_others_and_its_sender_only_on_request(platform: Any, listen: Open) -> None:
    name = f"room:{uuid.uuid4()}"
    one = await joined(listen(name, private=False))
    two = await joined(listen(name, private=False, itself=True))
    await one.send("hello", {"from": "one"})
    assert (await two.hear())["payload"] == {"from": "one"}
    await two.send("hello", {"from": "two"})
    assert (await two.hear())["payload"] == {"from": "two"}
    assert (await one.hear())["payload"] == {"from": "two"}


async def test_who_is_present_is_seen_to_come_and_go(platform: Any, listen: Open) -> None:
    name = f"room:{uuid.uuid4()}"
    one = await joined(listen(name, private=False, presence="one"))
    changes: asyncio.Queue[list[str]] = asyncio.Queue()
    one.channel.on_presence_sync(lambda: changes.put_nowait(sorted(one.channel.presence_state())))
    two = await joined(listen(name, private=False, presence="two"))
    await two.channel.track({"mood": "good"})
    async with asyncio.timeout(5):
        while await changes.get() != ["two"]:
            pass
        [seen] = one.channel.presence_state()["two"]
        assert dict(seen)["mood"] == "good"
        await two.channel.unsubscribe()
        while await changes.get() != []:
            pass


async def test_http_sends_pass_for_the_owner_and_the_secret_key_alone(platform: Any, listen: Open) -> None:
    ada, bob = Person(platform), Person(platform)
    hers = await joined(listen(ada.topic, ada.token()))
    his = await joined(listen(bob.topic, bob.token()))
    url = f"{platform.url}/realtime/v1/api/broadcast"
    message = {"topic": ada.topic, "event": "many", "payload": {"by": "?"}, "private": True}
    async with httpx.AsyncClient() as http:

        async def send(by: str, key: str, token: str | None) -> int:
            headers = {"apikey": key} | ({"Authorization": f"Bearer {token}"} if token else {})
            body = {"messages": [{**message, "payload": {"by": by}}]}
            return (await http.post(url, json=body, headers=headers)).status_code

        assert await send("nobody", "", None) == 401
        assert await send("bearer only", "wrong", ada.token()) == 401
        assert await send("forged", platform.publishable_key, ada.token(secret="x" * 40)) == 401
        assert await send("anon", platform.publishable_key, None) == 202  # left out in silence, as hosted
        assert await send("bob", platform.publishable_key, bob.token()) == 202
        assert await send("ada", platform.publishable_key, ada.token()) == 202
        assert await send("secret", platform.secret_key, None) == 202
    with pytest.raises(RealtimeHTTPError, match="permissions"):
        await _foreign_send(his, ada.topic)
    await hers.channel.http_send("one", {"by": "ada"})
    heard = [(m["event"], m["payload"]["by"]) for m in [await hers.hear() for _ in range(3)]]
    assert heard == [("many", "ada"), ("many", "secret"), ("one", "ada")]
    await announce(platform, bob.topic, "end")
    assert (await his.hear())["event"] == "end"


async def _foreign_send(listener: Listener, topic: str) -> None:
    foreign = listener.channel.socket.channel(topic, {"config": _PRIVATE})
    await foreign.http_send("one", {"by": "bob"})


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"messages": [1]}', '{"messages": [{"topic": 1}]}'])
async def test_a_malformed_http_send_is_told_so(platform: Any, body: str) -> None:
    async with httpx.AsyncClient(headers={"apikey": platform.publishable_key}) as http:
        answer = await http.post(f"{platform.url}/realtime/v1/api/broadcast", content=body)
    assert answer.status_code == 422
    assert answer.json()["message"]


async def test_listening_goes_on_after_postgres_dropped_every_connection(platform: Any, listen: Open) -> None:
    ada = Person(platform)
    hers = await joined(listen(ada.topic, ada.token()))
    async with await psycopg.AsyncConnection.connect(platform.admin_dsn, autocommit=True) as connection:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where usename = 'supabase_admin' and pid <> pg_backend_pid()"
        )
    async with asyncio.timeout(15):
        while True:
            await announce(platform, ada.topic, "again")
            try:
                assert (await asyncio.wait_for(hers.heard.get(), 0.3))["event"] == "again"
            except TimeoutError:
                continue
            break
    await joined(listen(ada.topic, ada.token()))
