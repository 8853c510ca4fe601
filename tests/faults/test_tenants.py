"""A user who means harm: whatever one account does with the API, the replies of others come as before."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import psycopg
import pytest
from yarl import URL

from bridge import breaker
from bridge.health import Health
from bridge.model import AttemptStats, Result, Usage
from bridge.store import Store
from devstack.model import ModelServer
from tests.faults.tcp_proxy import TcpProxy
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_settings, working

# Found first, and locked; on the other title, Postgres does not finish before the request ends after 8 s.
SLOW = r"match.^mine$|^(a*)(a*)(a*)(a*)(a*)x\1\2\3\4\5y$"
TITLE = "a" * 150 + "x" + "a" * 151 + "y"
STREAMS = 1  # of requests at once, for each method
REPLIES = 24
PACE_SECONDS = 0.4
MINE = 16  # replies of the attacker


@asynccontextmanager
async def attack(user: Person, environment: dict[str, str]) -> AsyncIterator[None]:
    """Requests of a user that lock the user's sessions called `mine`, and then take as long as they may."""
    headers = {"apikey": environment["SUPABASE_PUBLISHABLE_KEY"], "Authorization": f"Bearer {user.token}"}
    await user.open_session(title=TITLE)
    begun = asyncio.Event()

    async def stream(http: httpx.AsyncClient, method: str) -> None:
        while True:
            body = {"on_new_message": "enqueue"} if method == "PATCH" else None
            sent = asyncio.create_task(
                http.request(method, "/rest/v1/sessions", params={"title": SLOW}, json=body, headers=headers)
            )
            begun.set()
            with contextlib.suppress(httpx.HTTPError):
                await sent

    async with (
        httpx.AsyncClient(base_url=environment["SUPABASE_URL"], timeout=30) as http,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(stream(http, method)) for method in ("PATCH", "DELETE") for _ in range(STREAMS)]
        await begun.wait()
        yield
        for task in tasks:
            task.cancel()


async def completions(user: Person, sessions: list[str]) -> list[float]:
    """How long the replies take, in seconds, to a question in each session, asked one after the other at a pace."""

    async def complete(session_id: str) -> float:
        began = time.monotonic()
        row = await user.reply(await user.ask(session_id, "[[tokens=100 delay=0.02]]"), within=60)
        assert (row["status"], row["attempt"]) == ("done", 1)
        return time.monotonic() - began

    async with asyncio.TaskGroup() as group:
        asked = []
        for session_id in sessions:
            asked.append(group.create_task(complete(session_id)))
            await asyncio.sleep(PACE_SECONDS)
    return [task.result() for task in asked]


@pytest.mark.quiet
async def test_slow_requests_of_one_user_delay_no_reply_of_another(
    environment: dict[str, str],
    user: Person,
    sign_up: Callable[[], Awaitable[Person]],
    db: psycopg.AsyncConnection[Row],
) -> None:
    attacker = await sign_up()
    async with working(environment):
        sessions = [await user.open_session(title="named") for _ in range(REPLIES)]

        async def start_replies() -> None:
            """Replies of the attacker that end one after the other, all the time that the others are answered."""
            for n in range(MINE):
                session_id = await attacker.open_session(title="mine")
                message_id = await attacker.ask(session_id, f"[[tokens={100 + 30 * n} delay=0.02]]")
                await attacker.reply(message_id, lambda row: row["seq"] > 0, within=60)

        await start_replies()
        before = await completions(user, sessions)
        await attacker.client.table("sessions").delete().eq("title", "mine").execute()
        await start_replies()
        async with attack(attacker, environment):

            async def is_locked() -> bool:
                rows = await db.execute(
                    "select count(*) as n from public.sessions where title = 'mine' and id not in"
                    " (select id from public.sessions where title = 'mine' for update skip locked)"
                )
                return bool((await rows.fetchall())[0]["n"] == MINE)

            await until(is_locked, within=20)
            during = await completions(user, sessions)
    assert statistics.median(during) <= 1.5 * statistics.median(before), (before, during)
    lost = await db.execute("select count(*) as n from bridge.runs where outcome = 'lost'")
    assert (await lost.fetchone()) == {"n": 0}


@pytest.fixture
async def as_shipped(db: psycopg.AsyncConnection[Row]) -> AsyncIterator[None]:
    """`running_replies` as shipped; tests lift the limits."""
    await db.execute("update bridge.limits set value = 8 where name = 'running_replies'")
    yield
    await db.execute("update bridge.limits set value = null where name = 'running_replies'")


@pytest.mark.quiet
@pytest.mark.parametrize(("accounts", "questions", "seconds"), [(2, 20, 60), (25, 20, 20)])
async def test_fresh_user_is_begun_before_any_reply_of_the_crowd_ends(
    environment: dict[str, str],
    as_shipped: None,
    sign_up: Callable[[], Awaitable[Person]],
    db: psycopg.AsyncConnection[Row],
    accounts: int,
    questions: int,
    seconds: int,
) -> None:
    """On one default worker that has proved its model, whatever few accounts have asked before."""
    crowd = [await sign_up() for _ in range(accounts)]
    fresh = await sign_up()
    async with working(environment, concurrency=32) as worker:
        first = await fresh.open_session(title="named")
        await fresh.reply(await fresh.ask(first, "[[text=hello]]"), within=seconds)
        for person in crowd:
            await db.execute(
                "with s as (insert into public.sessions (user_id, title)"
                " select %s, 'named' from generate_series(1, %s) returning id)"
                " insert into public.messages (session_id, content) select s.id, %s from s order by s.id",
                (person.id, questions, f"[[tokens={seconds} delay=1]]"),
            )
        await until(lambda: worker.jobs.count >= min(24, 8 * accounts), within=20)
        session_id = await fresh.open_session(title="named")
        await fresh.reply(await fresh.ask(session_id, "[[text=hello]]"), within=seconds)
        ended = await db.execute(
            "select count(*) as n from public.messages m join public.sessions s on s.id = m.session_id"
            " where m.role = 'assistant' and m.status <> 'running' and s.user_id <> %s",
            (fresh.id,),
        )
        assert (await ended.fetchone()) == {"n": 0}
        for person in crowd:  # or the drain would wait for them
            await db.execute("delete from public.sessions where user_id = %s", (person.id,))


async def test_broken_worker_beside_a_healthy_one_costs_no_question(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """A worker whose model refuses connections fails in milliseconds; it must not draw every retry."""
    nowhere = {"LLM_BASE_URL": "http://127.0.0.1:9/v1"}
    async with (
        working(environment, name="broken", variables=nowhere) as broken,
        working(environment, name="healthy"),
    ):
        sessions = [await user.open_session(title="named") for _ in range(45)]
        asked = await asyncio.gather(*(user.ask(session_id, "[[tokens=5]]") for session_id in sessions))
        rows = [await user.reply(message_id, within=40) for message_id in asked]
        assert {row["status"] for row in rows} == {"done"}
        tried = await db.execute("select count(*) as n from bridge.runs where worker = 'broken'")
        assert (await tried.fetchall())[0]["n"] <= 3  # in well under a minute
        failures = await db.execute("select count(*) as n from bridge.runs where outcome = 'failed'")
        assert (await failures.fetchall())[0]["n"] <= 3
        assert broken.breakers.open == {"Chat": "model_unreachable"}
        assert "out of order" in "\n".join(Health(broken, broken._store, broken._watchdog).problems())


async def test_worker_comes_back_when_its_model_answers(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch, model: ModelServer
) -> None:
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 3.0)
    port = URL(model.url).port
    assert port is not None
    async with TcpProxy("127.0.0.1", port) as way:
        await way.refuse()
        async with (
            working(
                environment, name="broken", variables={"LLM_BASE_URL": f"http://127.0.0.1:{way.port}/v1"}
            ) as broken,
            working(environment, name="healthy"),
        ):

            async def ask() -> None:
                session_id = await user.open_session(title="named")
                assert (await user.reply(await user.ask(session_id, "[[tokens=5]]")))["status"] == "done"

            async def is_open() -> bool:
                await ask()
                return bool(broken.breakers.open)

            await until(is_open, within=20)
            await way.listen()

            async def is_proven() -> bool:
                await ask()
                return broken.breakers.plan().failing == ()

            await until(is_proven, within=30)


async def test_every_attempt_that_reached_the_provider_is_charged(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async def used() -> int:
        rows = await (await db.execute("select tokens from bridge.usage where user_id = %s", (user.id,))).fetchall()
        return int(rows[0]["tokens"]) if rows else 0

    async def cost_of(question: str, function: str = "Chat", title: str | None = "named") -> int:
        before = await used()
        await user.reply(await user.ask(await user.open_session(function, title=title), question), within=40)
        return await used() - before

    long = "x" * 4000
    async with working(environment, max_failures=2, first_token_seconds=1) as worker:
        assert await cost_of("[[tokens=10 no_usage]]" + long) >= 1000
        assert await cost_of("[[error=500]]" + long) >= 2000  # two attempts
        assert await cost_of("[[error=429]]" + long) >= 2000
        assert await cost_of("[[tokens=20 cut=10]]" + long) >= 2000
        assert await cost_of("[[stall=0]]" + long) >= 2000
        assert await cost_of('[[json="no JSON"]]' + long, "Code") >= 2000
        assert await cost_of("[[error=400]]" + long) >= 1000
        # cancelled before the first token
        before = await used()
        message_id = await user.ask(await user.open_session(title="named"), "[[first=30]]" + long)
        await until(lambda: any(running.prompt_characters for running in worker.jobs), within=10)
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await user.reply(message_id)
        assert await used() - before >= 1000
        # a title, one for each session, however often the user removes it
        session_id = await user.open_session()
        await user.reply(await user.ask(session_id, "[[text=hello]]"))

        async def is_named() -> bool:
            (row,) = await user.rows("sessions", id=session_id)
            return row["title"] is not None

        await until(is_named, within=20)
        titles = await db.execute(
            "select tries, charged, is_named from bridge.titles where session_id = %s", (session_id,)
        )
        assert await titles.fetchall() == [{"tries": 1, "charged": 1, "is_named": True}]
        await user.client.table("sessions").update({"title": None}).eq("id", session_id).execute()
        await user.reply(await user.ask(session_id, "[[text=hello]]"))
        titles = await db.execute("select tries from bridge.titles where session_id = %s", (session_id,))
        assert await titles.fetchall() == [{"tries": 1}]
        assert worker.jobs.count == 0


async def test_unreachable_model_costs_nothing(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, max_failures=1, variables={"LLM_BASE_URL": "http://127.0.0.1:9/v1"}):
        row = await user.reply(await user.ask(await user.open_session(title="named"), "hello" * 1000))
    assert (row["status"], row["error"]["code"]) == ("failed", "model_unreachable")
    assert await (await db.execute("select tokens from bridge.usage")).fetchall() == []


async def test_lost_attempt_is_charged_once(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """When another worker takes over, by an estimate; and when the worker that lost it reports more, by the rest."""
    settings = worker_settings(environment, lease_seconds=200)
    stores = [await Store.open(settings, name) for name in ("first", "second")]
    try:
        await user.ask(await user.open_session(title="named"), "x" * 8000)
        (job,) = (await stores[0].claim(1, [], ["Chat"])).jobs
        await db.execute("update bridge.jobs set lease_until = now() - interval '1 second'")
        (taken,) = (await stores[1].claim(1, [], ["Chat"])).jobs
        assert taken.taken_over
        assert await tokens(db) == 2000
        stats = AttemptStats(usage=Usage(input_tokens=2500, output_tokens=30))
        late = Result(job.question_id, job.attempt, "cancelled", user.id, stats=stats)
        for _ in range(2):  # the second time, its answer was lost
            assert (await stores[0].finish([late])).states == {job.question_id: "lost"}
            assert await tokens(db) == 2530
    finally:
        for store in stores:
            await store.close()


async def tokens(db: psycopg.AsyncConnection[Row]) -> int:
    return int((await (await db.execute("select sum(tokens) as n from bridge.usage")).fetchall())[0]["n"])


async def test_used_up_tokens_end_the_questions_that_wait(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await db.execute("insert into bridge.limits (name, user_id, value) values ('tokens_per_day', %s, 10)", (user.id,))
    session_id = await user.open_session(title="named")
    asked = [await user.ask(session_id, "[[tokens=50]]") for _ in range(3)]
    async with working(environment):
        rows = [await user.reply(message_id) for message_id in asked]
    assert [row["status"] for row in rows] == ["done", "failed", "failed"]
    assert rows[1]["error"]["code"] == "tokens_used_up"
