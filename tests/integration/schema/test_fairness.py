"""Claims are fair: who has nothing running is next, and no user has more running than `running_replies`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest

from bridge.breaker import Plan
from bridge.model import AttemptStats, Job, Result, Usage
from bridge.store import Store
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_settings

FUNCTIONS = ("Chat", "Code")


@pytest.fixture
async def stores(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> AsyncIterator[list[Store]]:
    """Three workers, with `running_replies` as shipped."""
    await db.execute("update bridge.limits set value = 8 where name = 'running_replies'")
    stores = [await Store.open(worker_settings(environment, lease_seconds=200), f"fair-{n}") for n in range(3)]
    yield stores
    for store in stores:
        await store.close()
    await db.execute("update bridge.limits set value = null where name = 'running_replies'")


async def queue(db: psycopg.AsyncConnection[Row], user: Person, count: int, function: str = "Chat") -> None:
    """Questions of a user, each in a session of its own. (As the superuser: REST would take minutes.)"""
    await db.execute(
        "with s as (insert into public.sessions (user_id, function, title)"
        " select %s, %s, 'named' from generate_series(1, %s) returning id)"
        " insert into public.messages (session_id, content) select s.id, 'hello' from s order by s.id",
        (user.id, function, count),
    )


def users_of(jobs: tuple[Job, ...]) -> Counter[str]:
    return Counter(job.turn.user_id for job in jobs if job.turn is not None)


async def test_who_has_nothing_running_is_next(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    other = await sign_up()
    await queue(db, user, 500)
    first = await stores[0].claim(4, [], FUNCTIONS)
    assert users_of(first.jobs) == {user.id: 4}
    await queue(db, other, 3)
    second = await stores[1].claim(2, [], FUNCTIONS)
    assert users_of(second.jobs) == {other.id: 2}
    # the other has two running, the first one four
    third = await stores[2].claim(3, [], FUNCTIONS)
    assert users_of(third.jobs) == {other.id: 1, user.id: 2}


async def test_user_has_no_more_running_than_the_limit(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person
) -> None:
    await queue(db, user, 30)
    # all at the same moment: together they must not exceed it
    claims = await asyncio.gather(*(store.claim(32, [], FUNCTIONS) for store in stores))
    jobs = [job for claim in claims for job in claim.jobs]
    assert len(jobs) <= 8
    holders = [(store, job) for store, claim in zip(stores, claims, strict=True) for job in claim.jobs]
    more = [await store.claim(32, [j.question_id for s, j in holders if s is store], FUNCTIONS) for store in stores]
    holders += [(store, job) for store, claim in zip(stores, more, strict=True) for job in claim.jobs]
    assert len(holders) == 8
    assert more[-1].is_held_back
    store, job = holders[0]
    await store.finish([Result(job.question_id, job.attempt, "done", text="answer")])
    (job,) = (await stores[1].claim(32, [j.question_id for s, j in holders if s is stores[1]], FUNCTIONS)).jobs
    assert job.turn is not None
    # a limit of a user's own
    await db.execute("insert into bridge.limits (name, user_id, value) values ('running_replies', %s, 10)", (user.id,))
    mine = [j.question_id for s, j in [*holders, (stores[1], job)] if s is stores[1]]
    assert len((await stores[1].claim(32, mine, FUNCTIONS)).jobs) == 2


async def test_reserve_is_for_who_has_nothing_running(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    await queue(db, user, 20)
    taken = await stores[0].claim(8, [], FUNCTIONS, 5)
    assert users_of(taken.jobs) == {user.id: 3}
    assert taken.is_held_back
    hog, other = await sign_up(), await sign_up()
    await queue(db, hog, 20)
    await queue(db, other, 2)
    taken = await stores[1].claim(5, [], FUNCTIONS, 5)
    assert users_of(taken.jobs) == {other.id: 1}
    taken = await stores[2].claim(5, [], FUNCTIONS, 4)
    assert users_of(taken.jobs) == {hog.id: 1}


async def test_fresh_user_is_found_behind_any_crowd(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    """However many questions, of however many users, came before."""
    crowd = [await sign_up() for _ in range(12)]
    for hog in crowd:
        await queue(db, hog, 40)
        await db.execute("update bridge.jobs set run_at = run_at - interval '1 minute' where user_id = %s", (hog.id,))
    assert len(users_of((await stores[0].claim(12, [], FUNCTIONS)).jobs)) == 12
    await queue(db, user, 5, "Code")
    taken = await stores[1].claim(1, [], FUNCTIONS)
    assert users_of(taken.jobs) == {user.id: 1}


async def test_probing_and_paused_functions(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person
) -> None:
    await queue(db, user, 3, "Chat")
    await queue(db, user, 3, "Code")
    await stores[1].claim(0, [], FUNCTIONS)
    taken = await stores[0].claim(9, [], FUNCTIONS, 0, Plan(probing=("Chat",), paused=("Code",), failing=("Code",)))
    assert [job.turn.function for job in taken.jobs if job.turn] == ["Chat"]
    assert taken.is_held_back
    other = await stores[1].claim(0, [], FUNCTIONS)
    assert other.elsewhere == {"Chat"}
    assert (await stores[2].claim(0, [], FUNCTIONS)).elsewhere == set(FUNCTIONS)
    # a worker alone takes all, whatever its plan
    await stores[1].leave()
    await stores[2].leave()
    holding = [job.question_id for job in taken.jobs]
    alone = await stores[0].claim(9, holding, FUNCTIONS, 0, Plan(probing=("Chat",), paused=("Code",)))
    assert len(alone.jobs) == 5


async def test_retry_goes_to_another_worker(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person
) -> None:
    await queue(db, user, 1)
    await stores[1].claim(0, [], FUNCTIONS)
    (job,) = (await stores[0].claim(1, [], FUNCTIONS)).jobs
    error = {"code": "model_unreachable", "message": "x"}
    await stores[0].finish([Result(job.question_id, job.attempt, "failed", error=error, retry_ms=0)])
    assert (await stores[0].claim(1, [], FUNCTIONS)).jobs == ()
    (again,) = (await stores[1].claim(1, [], FUNCTIONS)).jobs
    assert (again.question_id, again.failures) == (job.question_id, 1)
    await stores[1].finish([Result(again.question_id, again.attempt, "failed", error=error, retry_ms=0)])
    # nobody else for eight seconds: then the one that failed may try again
    await db.execute("update bridge.jobs set run_at = run_at - interval '10 seconds'")
    assert len((await stores[1].claim(1, [], FUNCTIONS)).jobs) == 1


async def test_fault_of_a_worker_does_not_count_while_another_lives(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person
) -> None:
    await queue(db, user, 1)
    (job,) = (await stores[0].claim(1, [], FUNCTIONS)).jobs
    error = {"code": "model_refused", "message": "x"}
    await stores[1].claim(0, [], FUNCTIONS)
    # no `retry_ms`: this worker would give up
    await stores[0].finish([Result(job.question_id, job.attempt, "failed", error=error, hand_over_ms=0)])
    (again,) = (await stores[1].claim(1, [], FUNCTIONS)).jobs
    assert (again.question_id, again.failures) == (job.question_id, 0)
    await stores[0].leave()
    await stores[1].finish([Result(again.question_id, again.attempt, "failed", error=error, hand_over_ms=0)])
    (reply,) = await user.rows("messages", reply_to=job.question_id)
    assert reply["status"] == "failed"  # nobody is left to hand it over to


@pytest.mark.parametrize("seed", range(10))
async def test_places_are_kept_whatever_happens(
    stores: list[Store],
    db: psycopg.AsyncConnection[Row],
    sign_up: Callable[[], Awaitable[Person]],
    seed: int,
) -> None:
    """Claims and ends in any order: nobody exceeds the limit, and nobody waits behind one with more running."""
    draw = random.Random(seed)
    people = [await sign_up() for _ in range(4)]
    limit = draw.choice([1, 2, 8])
    await db.execute("update bridge.limits set value = %s where name = 'running_replies'", (limit,))
    holding: dict[Store, list[Job]] = {store: [] for store in stores}
    for _ in range(12):
        await queue(db, draw.choice(people), draw.randint(0, 6), draw.choice(FUNCTIONS))
        store = draw.choice(stores)
        if draw.random() < 0.3 and holding[store]:
            job = holding[store].pop()
            await store.finish([Result(job.question_id, job.attempt, "done", text="answer")])
        before = await running(db)
        taken = await store.claim(draw.randint(1, 6), [job.question_id for job in holding[store]], FUNCTIONS)
        holding[store] += taken.jobs
        after = await running(db)
        assert all(count <= limit for count in after.values())
        waiting = await db.execute("select distinct user_id::text as id from bridge.jobs where worker is null")
        for row in await waiting.fetchall():
            served = [after[user_id] for user_id in after if after[user_id] > before[user_id]]
            assert after[row["id"]] >= min(limit, max(served, default=0) - 1)
    for store, jobs in holding.items():
        await store.finish([Result(job.question_id, job.attempt, "done", text="answer") for job in jobs])


async def running(db: psycopg.AsyncConnection[Row]) -> Counter[str]:
    rows = await db.execute("select user_id::text as id from bridge.jobs where worker is not null")
    return Counter(row["id"] for row in await rows.fetchall())


async def test_probing_worker_is_not_stopped_by_who_asked_first(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    """The oldest question may belong to a user who has enough running."""
    await queue(db, user, 20)
    assert len((await stores[0].claim(32, [], FUNCTIONS)).jobs) == 8
    other = await sign_up()
    await queue(db, other, 2)
    probing = Plan(probing=("Chat",))
    assert users_of((await stores[1].claim(9, [], FUNCTIONS, 0, probing)).jobs) == {other.id: 1}
    twice = Plan(probing=("Chat", "Chat"))
    await queue(db, await sign_up(), 5)
    assert len((await stores[2].claim(9, [], FUNCTIONS, 0, twice)).jobs) == 2


async def test_reply_that_ends_lets_other_workers_know_of_the_next(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person
) -> None:
    await queue(db, user, 20)
    jobs = (await stores[0].claim(32, [], FUNCTIONS)).jobs
    await stores[1].claim(0, [], FUNCTIONS)
    before = await announced(db)
    await stores[0].finish([Result(jobs[0].question_id, jobs[0].attempt, "done", text="answer")])
    assert await announced(db) == before + 1
    # below the limit, nobody was held back
    await db.execute("update bridge.limits set value = 12 where name = 'running_replies'")
    await stores[0].finish([Result(jobs[1].question_id, jobs[1].attempt, "done", text="answer")])
    assert await announced(db) == before + 1


async def announced(db: psycopg.AsyncConnection[Row]) -> int:
    rows = await db.execute("select count(*)::int as n from realtime.messages where event = 'work'")
    return int((await rows.fetchall())[0]["n"])


async def test_cancelled_attempt_whose_lease_had_ended_is_charged(
    stores: list[Store], db: psycopg.AsyncConnection[Row], user: Person
) -> None:
    """Its worker may have streamed the whole answer meanwhile."""
    await queue(db, user, 1)
    (job,) = (await stores[0].claim(1, [], FUNCTIONS)).jobs
    await db.execute("update bridge.jobs set lease_until = now() - interval '1 second'")
    cancelled = await user.client.rpc("cancel_message", {"message_id": job.question_id}).execute()
    assert cancelled.data == "cancelled"
    stats = AttemptStats(usage=Usage(input_tokens=500, output_tokens=58_000))
    late = Result(job.question_id, job.attempt, "done", user.id, text="answer", stats=stats)
    assert (await stores[0].finish([late])).states == {job.question_id: "lost"}
    used = await db.execute("select tokens from bridge.usage where user_id = %s", (user.id,))
    assert await used.fetchall() == [{"tokens": 58_500}]


async def test_file_and_question_at_the_same_time_do_not_deadlock(user: Person) -> None:
    session_id = await user.open_session()

    async def write(n: int) -> None:
        row = {"session_id": session_id, "path": f"{n}", "content": "x"}
        await user.client.table("code_files").insert(row).execute()

    for round_ in range(10):
        await asyncio.gather(*(write(10 * round_ + n) for n in range(3)), user.ask(session_id, "hello"))


async def test_nobody_relies_on_a_worker_that_drains(stores: list[Store]) -> None:
    await stores[1].claim(0, [], FUNCTIONS)
    assert (await stores[0].claim(0, [], FUNCTIONS)).elsewhere == set(FUNCTIONS)
    await stores[1].retire([], FUNCTIONS)
    assert (await stores[0].claim(0, [], FUNCTIONS)).elsewhere == set()
