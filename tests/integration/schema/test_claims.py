"""What a claim returns: jobs in the right order, and when to claim again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from bridge.store import Store
from devstack.stack import Stack
from tests.support import database
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_settings


@pytest.fixture
async def store(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Store]:
    await db.execute("delete from bridge.workers")
    store = await Store.open(worker_settings(environment, lease_seconds=200), "claims-test")
    yield store
    await store.close()


async def test_claim_of_empty_queue_returns_no_time(store: Store) -> None:
    claim = await store.claim(5, [])
    assert (claim.jobs, claim.hints.next_in, claim.hints.fleet_size) == ((), None, 1)


async def test_claim_returns_when_lease_of_another_worker_ends(
    environment: dict[str, str], store: Store, user: Person
) -> None:
    other = await Store.open(worker_settings(environment, lease_seconds=70), "another")
    try:
        await user.ask(await user.open_session(), "hello")
        assert len((await other.claim(5, [])).jobs) == 1
        claim = await store.claim(5, [])
        assert claim.jobs == ()
        assert claim.hints.next_in is not None
        assert 50 < claim.hints.next_in <= 70
    finally:
        await other.close()


async def test_claim_returns_a_lease_for_a_job_being_claimed(stack: Stack, store: Store, user: Person) -> None:
    """Its lease is not visible yet; without this no worker would claim before the next sweep."""
    await user.ask(await user.open_session(), "hello")
    async with database.database(stack.admin_url) as other, other.transaction():
        await other.execute("select from bridge.jobs for update")
        claim = await store.claim(5, [])
        assert claim.jobs == ()
        assert claim.hints.next_in is not None
        assert 150 < claim.hints.next_in <= 200


async def test_times_a_year_away_are_capped(store: Store, user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    await user.ask(await user.open_session(), "hello")
    await db.execute("update bridge.jobs set queued_at = now() - interval '1 year', run_at = now() - interval '1 year'")
    (job,) = (await store.claim(5, [])).jobs
    assert job.broken is None
    await db.execute("update bridge.jobs set worker = null, lease_until = null, run_at = now() + interval '1 year'")
    claim = await store.claim(5, [])
    assert claim.hints.next_in == 86400


async def test_worker_that_leaves_is_not_counted(environment: dict[str, str], store: Store) -> None:
    other = await Store.open(worker_settings(environment), "another")
    try:
        await other.claim(5, [])
        assert (await store.claim(5, [])).hints.fleet_size == 2
        await other.leave()
        assert (await store.claim(5, [])).hints.fleet_size == 1
    finally:
        await other.close()


async def test_jobs_of_vanished_workers_come_first(
    environment: dict[str, str], store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    other = await Store.open(worker_settings(environment), "another")
    try:
        left = await user.ask(await user.open_session(), "left behind")
        await other.claim(1, [])
        await db.execute("update bridge.jobs set lease_until = now() - interval '1 second'")
        for _ in range(3):
            await user.ask(await user.open_session(), "new")
        (job,) = (await store.claim(1, [])).jobs
        assert (job.question_id, job.attempt, job.failures, job.taken_over) == (left, 2, 1, True)
        # a worker does not take over its own jobs, however late it is
        await db.execute("update bridge.jobs set lease_until = now() - interval '1 second' where worker is not null")
        assert all(job.question_id != left for job in (await store.claim(9, [left])).jobs)
    finally:
        await other.close()


async def test_job_of_a_long_transaction_is_found_by_the_next_horizon(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await store.claim(5, [])
    message_id = await user.ask(await user.open_session(), "hello")
    # as a transaction of a minute leaves it: before the horizon that was set meanwhile
    await db.execute("update bridge.jobs set run_at = now() - interval '1 minute'")
    assert (await store.claim(5, [])).jobs == ()
    await db.execute("update bridge.workers set horizon_set_at = horizon_set_at - interval '10 seconds'")
    assert [job.question_id for job in (await store.claim(5, [])).jobs] == [message_id]


async def test_horizon_covers_waiting_and_held_jobs(
    stack: Stack, environment: dict[str, str], store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    other = await Store.open(worker_settings(environment), "another")
    try:
        held = await user.ask(await user.open_session(), "an hour old, and held")
        waiting = await user.ask(await user.open_session(), "as old, and waiting")
        await db.execute("update bridge.jobs set run_at = now() - interval '1 hour'")
        await db.execute("update bridge.jobs set run_at = run_at - interval '1 hour' where question_id = %s", (held,))
        assert [job.question_id for job in (await other.claim(1, [])).jobs] == [held]
        async with database.database(stack.admin_url) as rival, rival.transaction():
            await rival.execute("select from bridge.jobs where question_id = %s for update", (waiting,))
            assert (await store.claim(5, [])).jobs == ()  # sets the horizon while the waiting job is locked
        assert [job.question_id for job in (await store.claim(5, [])).jobs] == [waiting]
        await db.execute("update bridge.jobs set lease_until = now() - interval '1 second' where worker = 'another'")
        assert [job.question_id for job in (await store.claim(5, [waiting])).jobs] == [held]
    finally:
        await other.close()


async def test_claim_returns_earliest_lease_of_other_workers(
    environment: dict[str, str], store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    other = await Store.open(worker_settings(environment), "another")
    try:
        sessions = [await user.open_session() for _ in range(3)]
        asked = [await user.ask(session, "hello") for session in sessions]
        assert len((await other.claim(2, [])).jobs) == 2
        (own,) = (await store.claim(1, [])).jobs
        lease = "update bridge.jobs set lease_until = now() + make_interval(secs => %s) where question_id = %s"
        others = [id_ for id_ in asked if id_ != own.question_id]
        seconds = {own.question_id: 20, **dict(zip(others, (90, 50), strict=True))}
        for message_id, ends in seconds.items():
            await db.execute(lease, (ends, message_id))
        claim = await store.claim(0, [own.question_id])
        assert claim.hints.next_in is not None
        assert 30 < claim.hints.next_in <= 50  # its own lease ends sooner and does not count
        await db.execute("update bridge.jobs set lease_until = now() - interval '1 hour' where worker = 'another'")
        await db.execute("update bridge.workers set horizon_set_at = horizon_set_at - interval '10 seconds'")
        taken = await store.claim(5, [own.question_id])
        assert {job.question_id for job in taken.jobs} == set(asked) - {own.question_id}
    finally:
        await other.close()


async def test_live_workers_are_the_same_in_claims_and_status(store: Store, db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute(
        "insert into bridge.workers (name, lease, seen_at) values "
        "('silent for its lease', '1 hour', now() - interval '6 minutes'), "
        "('within its lease', '1 hour', now() - interval '4 minutes'), "
        "('within half a minute', '1 second', now() - interval '20 seconds')"
    )
    names = {worker["name"] for worker in (await store.status())["workers"]}
    assert names == {"within its lease", "within half a minute"}
    assert (await store.claim(0, [])).hints.fleet_size == len(names | {"claims-test"})


async def test_claim_with_lease_of_zero_is_refused(db: psycopg.AsyncConnection[Row]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="workers_lease"):
        await db.execute("select public.bridge_claim('zero', 1, '{}', 0, 1)")
