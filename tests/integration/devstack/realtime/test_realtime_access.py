"""Keys, tokens and policies: what the recordings do not cover."""

from __future__ import annotations

import time

import aiohttp
import pytest

from devstack.postgres import Postgres
from devstack.realtime.access import TokenRefused, Tokens
from tests.integration.devstack.realtime.service import (
    PUBLISHABLE,
    SECRET,
    SECRET_KEY,
    USER_1,
    USER_2,
    Service,
    Sql,
    policy,
    token,
)


def test_api_key_has_its_role() -> None:
    tokens = Tokens(SECRET, {PUBLISHABLE: "anon"})
    assert tokens.verify(PUBLISHABLE).role == "anon"
    with pytest.raises(TokenRefused):
        tokens.verify("sb_publishable_other")


@pytest.mark.parametrize("key", ["sb_publishable_other", "", "x.y.z", token(lifetime=-5)])
async def test_bad_key_is_rejected(service: Service, key: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await service.connect(key=key)
    assert refused.value.status == 401


async def test_opaque_token_uses_socket_key(service: Service) -> None:
    client = await service.connect(key=SECRET_KEY)
    assert (await client.join("secret:1", SECRET_KEY, private=True))["status"] == "ok"
    other = await service.connect(key=PUBLISHABLE)
    # the hosted server does not look up the token, even if it is another valid key
    assert (await other.join("secret:1", SECRET_KEY, private=True))["status"] == "error"


async def test_user_cannot_join_topic_of_other_user(service: Service, sql: Sql) -> None:
    first, second = await service.connect(), await service.connect()
    assert (await first.join(f"user:{USER_1}", token(), private=True))["status"] == "ok"
    assert (await second.join(f"user:{USER_1}", token(sub=USER_2), private=True))["status"] == "error"
    # A public channel of the same name is separate from the private one.
    assert (await second.join(f"user:{USER_1}", token(sub=USER_2)))["status"] == "ok"
    await sql("select realtime.send('{}', 'e', %s)", f"user:{USER_1}")
    await first.event("broadcast")
    assert await second.silent() == []


async def test_policy_can_read_topic_extension_and_claims(service: Service, postgres: Postgres) -> None:
    condition = (
        "realtime.topic() = 'fine' and topic = 'fine' and extension = 'broadcast'"
        f" and (select auth.uid()) = '{USER_1}' and (select auth.role()) = 'authenticated'"
        " and (select auth.jwt()) ->> 'role' = 'authenticated'"
    )
    async with policy(postgres, condition):
        client = await service.connect()
        assert (await client.join("fine", token(), private=True))["status"] == "ok"
        assert (await client.join("fine", token(sub=USER_2), private=True))["status"] == "error"


async def test_failing_policy_rejects_join(service: Service, postgres: Postgres) -> None:
    condition = "substring(realtime.topic() from 8)::uuid is not null and realtime.topic() like 'broken:%'"
    async with policy(postgres, condition):
        client = await service.connect()
        assert (await client.join("broken:x", token(), private=True))["status"] == "error"


async def test_policy_can_call_public_function_without_schema(service: Service, postgres: Postgres) -> None:
    before = (
        "create table public.members (topic text primary key); insert into public.members values ('club');"
        "create function public.is_member() returns boolean language plpgsql security definer"
        " as 'begin return exists (select from members where topic = realtime.topic()); end'"
    )
    after = "drop function public.is_member(); drop table public.members"
    async with policy(postgres, "is_member()", before=before, after=after):
        client = await service.connect()
        assert (await client.join("club", token(), private=True))["status"] == "ok"
        assert (await client.join("other", token(), private=True))["status"] == "error"


@pytest.mark.parametrize("role", ["none", "nobody", "supabase_realtime_admin;"])
async def test_unknown_role_is_rejected(service: Service, role: str) -> None:
    client = await service.connect()
    assert (await client.join("secret:1", token(role), private=True))["status"] == "error"


async def test_permission_checks_leave_no_rows(service: Service, sql: Sql) -> None:
    client = await service.connect()
    await client.join("room:probe", token(), private=True, broadcast={"ack": True})
    ref = await client.send("realtime:room:probe", "broadcast", {"event": "e", "type": "broadcast"})
    assert (await client.reply(ref))["status"] == "ok"
    assert await sql("select 1 from realtime.messages where topic = 'room:probe'") == []


async def test_http_broadcast_checks_role_of_caller(service: Service) -> None:
    client = await service.connect()
    await client.join("room:http", token(), private=True)
    body = {"messages": [{"topic": "room:http", "event": "e", "payload": {"n": 1}, "private": True}]}

    async def post(key: str, bearer: str) -> int:
        headers = {"apikey": key, "Authorization": f"Bearer {bearer}"}
        async with service.session.post(f"{service.url}/api/broadcast", json=body, headers=headers) as response:
            return response.status

    assert await post(PUBLISHABLE, "sb_secret_wrong") == 401
    assert await post(PUBLISHABLE, PUBLISHABLE) == 202
    assert await client.silent() == []
    assert await post(SECRET_KEY, SECRET_KEY) == 202
    await client.event("broadcast")
    assert await post(PUBLISHABLE, token()) == 202
    await client.event("broadcast")


async def test_channel_closes_when_token_expires(service: Service) -> None:
    client = await service.connect()
    ends_at = int(time.time() + 5)
    assert (await client.join("room:1", token(lifetime=5), private=True))["status"] == "ok"
    assert "Token has expired" in (await client.event("system"))["message"]  # raises after 10 s
    assert time.time() >= ends_at
    await client.event("phx_close")
    ref = await client.send("realtime:room:1", "broadcast", {})
    assert (await client.reply(ref))["response"] == {"reason": "unmatched topic"}
