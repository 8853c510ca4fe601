"""Which jobs a worker claims: those that it can answer, and those that nobody has known for half a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from bridge.model import Claim, Result
from bridge.store import Store
from devstack.stack import Stack
from tests.support import database
from tests.support.database import Row, jobs_read
from tests.support.users import Person
from tests.support.workers import worker_settings


class Worker:
    """A worker's claims, with the functions that it answers (None: an older worker, which does not say)."""

    def __init__(self, store: Store, functions: list[str] | None) -> None:
        self.store = store
        self.functions = functions
        self.hints: Any = None

    async def claim(self, slots: int = 9) -> list[str]:
        """The functions of the jobs that it takes, in order; it forgets them."""
        claim: Claim = await self.store.claim(slots, self.holding, self.functions)
        self.hints = claim.hints
        self.jobs = claim.jobs
        self.holding += [job.question_id for job in claim.jobs]
        return [job.turn.function for job in claim.jobs if job.turn is not None]

    holding: list[str]
    jobs: Any


@pytest.fixture
async def workers(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> AsyncIterator[dict[str, Worker]]:
    """One that answers Chat, one that answers Chat and Plan, and an older one."""
    await db.execute("truncate bridge.workers, bridge.functions")
    found: dict[str, Worker] = {}
    for name, functions in (("chat", ["Chat"]), ("plan", ["Chat", "Plan"]), ("older", None)):
        worker = found[name] = Worker(await Store.open(worker_settings(environment), name), functions)
        worker.holding = []
    yield found
    for worker in found.values():
        await worker.store.close()


async def asked(user: Person, *functions: str) -> list[str]:
    """Ask a question of each function, each in its own session."""
    return [await user.ask(await user.open_session(function, title="named"), "hello") for function in functions]


async def pass_time(db: psycopg.AsyncConnection[Row], seconds: float, *, lease: bool = False) -> None:
    """Set back every time that the rules look at, and with `lease` end all leases."""
    await db.execute("update bridge.jobs set run_at = run_at - make_interval(secs => %s)", (seconds,))
    await db.execute("update bridge.functions set known_until = known_until - make_interval(secs => %s)", (seconds,))
    if lease:
        await db.execute("update bridge.jobs set lease_until = now() - interval '1 second' where worker is not null")
    await db.execute("update bridge.workers set horizon_set_at = '-infinity'")


async def vanish(db: psycopg.AsyncConnection[Row], name: str) -> None:
    """A worker was killed long ago."""
    await db.execute("update bridge.workers set seen_at = now() - interval '10 minutes' where name = %s", (name,))
    await db.execute("update bridge.functions set known_until = now() - interval '9 minutes'")


async def test_worker_takes_only_what_it_answers(workers: dict[str, Worker], user: Person) -> None:
    chat, plan = workers["chat"], workers["plan"]
    await plan.claim(0)
    await asked(user, "Plan", "Chat", "Plan", "Chat")
    assert await chat.claim() == ["Chat", "Chat"]
    assert (chat.hints.ready, chat.hints.next_in) == (False, None)
    assert await plan.claim(1) == ["Plan"]
    assert plan.hints.ready is True
    assert await plan.claim() == ["Plan"]


async def test_older_worker_takes_everything(workers: dict[str, Worker], user: Person, environment: Any) -> None:
    await asked(user, "Plan", "Chat", "Nonesuch")
    older = workers["older"]
    await older.claim(0)
    assert older.hints.ready is True
    assert await older.claim() == ["Plan", "Chat", "Nonesuch"]


async def test_call_with_five_arguments_takes_everything(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    await asked(user, "Plan", "Nonesuch")
    call = "select public.bridge_claim('of version 1', 5, '{}', 30, 100) as answer"
    (row,) = await (await db.execute(call)).fetchall()
    assert len(row["answer"]["jobs"]) == 2
    (row,) = await (await db.execute("select functions from bridge.workers where name = 'of version 1'")).fetchall()
    assert row["functions"] is None


async def test_oldest_question_comes_first_whatever_its_function(workers: dict[str, Worker], user: Person) -> None:
    await asked(user, "Chat", "Plan", "Plan", "Chat", "Plan")
    plan = workers["plan"]
    taken = [*await plan.claim(2), *await plan.claim(2), *await plan.claim(2)]
    assert taken == ["Chat", "Plan", "Plan", "Chat", "Plan"]


async def test_claim_looks_behind_locked_jobs(stack: Stack, workers: dict[str, Worker], user: Person) -> None:
    locked = await asked(user, *["Chat"] * 12)
    free = await asked(user, "Plan", "Chat")
    async with database.database(stack.admin_url) as rival, rival.transaction():
        await rival.execute("select from bridge.jobs where question_id = any (%s::uuid[]) for update", (locked,))
        assert await workers["plan"].claim(1) == ["Plan"]
        assert await workers["chat"].claim(1) == ["Chat"]
        assert [job.question_id for worker in ("plan", "chat") for job in workers[worker].jobs] == free


async def test_expired_lease_is_taken_by_a_worker_that_can_answer(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row], environment: dict[str, str]
) -> None:
    chat, plan = workers["chat"], workers["plan"]
    other = Worker(await Store.open(worker_settings(environment), "other"), ["Plan"])
    other.holding = []
    try:
        await other.claim(0)
        await asked(user, "Plan")
        assert await plan.claim() == ["Plan"]
        await pass_time(db, 0, lease=True)
        assert await chat.claim() == []
        assert (chat.hints.ready, chat.hints.next_in) == (False, None)  # or it would claim again and again
        assert await other.claim() == ["Plan"]
        assert other.jobs[0].taken_over
    finally:
        await other.store.close()


async def test_lease_that_ended_first_is_taken_first(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    first, second = await asked(user, "Chat", "Chat")
    await workers["plan"].claim()
    for question, seconds in ((first, 1), (second, 2)):
        await db.execute(
            "update bridge.jobs set lease_until = now() - make_interval(secs => %s) where question_id = %s",
            (seconds, question),
        )
    await workers["chat"].claim(1)
    assert [job.question_id for job in workers["chat"].jobs] == [second]


async def test_expired_lease_that_was_cancelled_is_taken_by_any_worker(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    (question,) = await asked(user, "Plan")
    assert await workers["plan"].claim() == ["Plan"]
    await user.client.rpc("cancel_message", {"message_id": question}).execute()
    await pass_time(db, 0, lease=True)
    assert await workers["chat"].claim() == ["Plan"]
    assert workers["chat"].jobs[0].cancel


async def test_expired_lease_of_a_forgotten_function_is_taken_in_the_end(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await asked(user, "Plan")
    assert await workers["plan"].claim() == ["Plan"]
    await pass_time(db, 40, lease=True)
    assert await workers["chat"].claim() == []
    await vanish(db, "plan")
    await workers["chat"].claim(0)
    assert workers["chat"].hints.next_in == 0
    assert await workers["chat"].claim() == ["Plan"]


async def test_unknown_function_is_handed_out_after_half_a_minute(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    chat = workers["chat"]
    await asked(user, "Nonesuch")
    assert await chat.claim() == []
    assert chat.hints.ready is False
    assert 25 < chat.hints.next_in <= 30
    await pass_time(db, 20)
    assert await chat.claim() == []
    assert 5 < chat.hints.next_in <= 10
    await pass_time(db, 11)
    await chat.claim(0)
    assert chat.hints.ready is True
    assert await chat.claim() == ["Nonesuch"]
    assert (chat.hints.ready, chat.hints.next_in) == (False, None)


async def test_older_worker_does_not_count_as_knowing(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await workers["older"].claim(0)
    await asked(user, "Nonesuch")
    await pass_time(db, 31)
    assert await workers["chat"].claim() == ["Nonesuch"]


async def test_function_of_a_live_worker_is_left_to_it(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await workers["plan"].claim(0)
    await asked(user, "Plan")
    await db.execute("update bridge.jobs set run_at = now() - interval '1 hour'")
    assert await workers["chat"].claim() == []
    assert workers["chat"].hints.next_in is None


async def test_half_a_minute_counts_from_when_the_last_worker_left(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    chat, plan = workers["chat"], workers["plan"]
    await plan.claim(0)
    await asked(user, "Plan")
    await db.execute("update bridge.jobs set run_at = now() - interval '1 hour'")
    await plan.store.leave()
    await pass_time(db, 10)
    assert await chat.claim() == []
    assert 15 < chat.hints.next_in <= 20
    assert chat.hints.ready is False
    await pass_time(db, 21)
    assert await chat.claim() == ["Plan"]


async def test_function_that_another_worker_knows_stays_known_when_one_leaves(
    workers: dict[str, Worker], db: psycopg.AsyncConnection[Row]
) -> None:
    for name in ("chat", "plan"):
        await workers[name].claim(0)
    await workers["plan"].store.leave()
    rows = await (await db.execute("select name from bridge.functions where known_until > now()")).fetchall()
    assert [row["name"] for row in rows] == ["Chat"]


async def test_beats_keep_a_function_known(workers: dict[str, Worker], db: psycopg.AsyncConnection[Row]) -> None:
    await workers["chat"].claim(0)
    await db.execute("update bridge.functions set known_until = now()")
    await db.execute("update bridge.workers set seen_at = now() - interval '6 seconds'")
    await workers["chat"].store.beat([])
    (row,) = await (
        await db.execute("select known_until > now() + interval '25 s' as known from bridge.functions")
    ).fetchall()
    assert row["known"]


async def test_functions_are_forgotten_after_a_day(
    workers: dict[str, Worker], db: psycopg.AsyncConnection[Row]
) -> None:
    await db.execute(
        "insert into bridge.functions values ('Old', now() - interval '25 hours'), ('Newer', now() - interval '1 hour')"
    )
    await workers["chat"].claim(0)
    rows = await (await db.execute("select name from bridge.functions order by 1")).fetchall()
    assert [row["name"] for row in rows] == ["Chat", "Newer"]


async def test_heartbeat_waits_for_no_other_workers_transaction(
    stack: Stack, workers: dict[str, Worker], db: psycopg.AsyncConnection[Row]
) -> None:
    async with database.database(stack.admin_url) as rival, rival.transaction():
        await rival.execute("select public.bridge_claim('rival', 0, '{}', 30, 1, '{Plan,Chat}')")  # stays open
        async with asyncio.timeout(5):
            await workers["plan"].claim(0)
            await workers["plan"].store.leave()
    async with database.database(stack.admin_url) as rival, rival.transaction():
        await db.execute("update bridge.functions set known_until = now() - interval '1 minute'")
        await rival.execute("update bridge.workers set seen_at = now() - interval '1 minute' where name = 'rival'")
        await rival.execute("select public.bridge_claim('rival', 0, '{}', 30, 1, '{Plan,Chat}')")
        async with asyncio.timeout(5):
            await workers["plan"].claim(0)


async def test_change_of_function_moves_a_waiting_question(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    chat = workers["chat"]
    (question,) = await asked(user, "Nonesuch")
    (session,) = await user.rows("sessions")
    await pass_time(db, 31)
    await db.execute("delete from realtime.messages")
    await user.client.table("sessions").update({"function": "Other"}).eq("id", session["id"]).execute()
    assert await chat.claim() == []  # it counts from the change
    events = await (await db.execute("select payload from realtime.messages where event = 'work'")).fetchall()
    assert [event["payload"]["question_ids"] for event in events] == [[question]]
    await user.client.table("sessions").update({"function": "Chat"}).eq("id", session["id"]).execute()
    assert await chat.claim() == ["Chat"]


async def test_change_of_function_waits_for_a_retry(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    (question,) = await asked(user, "Chat")
    await workers["chat"].claim()
    (job,) = workers["chat"].jobs
    await workers["chat"].store.finish([Result(question, job.attempt, "failed", retry_ms=60_000)])
    await user.client.table("sessions").update({"function": "Plan"}).neq("id", question).execute()
    assert await workers["plan"].claim() == []
    assert 50 < workers["plan"].hints.next_in <= 60


async def test_change_of_function_counts_when_a_lease_ends(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await user.open_session("Chat", title="named")
    first = await user.ask(session_id, "first")
    await user.ask(session_id, "second")
    assert await workers["older"].claim() == ["Chat"]
    await user.client.table("sessions").update({"function": "Plan"}).eq("id", session_id).execute()
    await pass_time(db, 0, lease=True)
    assert await workers["chat"].claim() == []
    assert await workers["plan"].claim() == ["Plan"]
    # and for the question behind it, which becomes the head
    await user.client.table("sessions").update({"function": "Chat"}).eq("id", session_id).execute()
    (job,) = workers["plan"].jobs
    await workers["plan"].store.finish([Result(first, job.attempt, "done", text="fine")])
    assert await workers["chat"].claim() == ["Chat"]


async def test_job_and_session_always_name_the_same_function(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session_id = await user.open_session("Chat", title="named")
    for text in ("first", "second"):
        await user.ask(session_id, text)
    await user.client.table("sessions").update({"function": "Plan"}).eq("id", session_id).execute()
    rows = await (await db.execute("select function, run_at is null as waits from bridge.jobs order by id")).fetchall()
    assert [(row["function"], row["waits"]) for row in rows] == [("Plan", False), (None, True)]


@pytest.mark.parametrize("function", ["Another", "#"], ids=["one function", "each another function"])
async def test_claim_reads_few_jobs_of_other_functions(
    workers: dict[str, Worker], user: Person, db: psycopg.AsyncConnection[Row], function: str
) -> None:
    """However many questions wait for functions that the worker does not answer."""
    # entries of deleted jobs would count too, and a vacuum leaves those that an open snapshot can see
    await db.execute("truncate bridge.jobs")
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")
        await db.execute(
            """
            with s as (
                insert into public.sessions (user_id, function)
                select %s, replace(%s, '#', 'F' || n) from generate_series(1, 3000) n returning id, function
            )
            insert into bridge.jobs (question_id, session_id, user_id, ordinal, run_at, function)
            select gen_random_uuid(), s.id, %s, 2, now() - interval '10 s', s.function from s
            """,
            (user.id, function, user.id),
        )
    await db.execute("analyze bridge.jobs")
    await asked(user, "Chat", "Chat")
    try:
        for slots, jobs in ((0, 0), (1, 1), (9, 2)):
            async with db.transaction():
                before = await jobs_read(db)
                call = "select public.bridge_claim('probe', %s, '{}', 30, 100, '{Chat,Code}') as answer"
                (row,) = await (await db.execute(call, (slots,))).fetchall()
                assert len(row["answer"]["jobs"]) == jobs
                assert await jobs_read(db) - before < 300
    finally:
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute("delete from bridge.jobs where function <> 'Chat'")


async def test_status_counts_questions_that_nobody_can_answer(workers: dict[str, Worker], user: Person) -> None:
    await workers["chat"].claim(0)
    await workers["older"].claim(0)
    await asked(user, "Chat", "Nonesuch", "Plan")
    assert (await workers["chat"].store.status())["unknown_function"] == 2
    await workers["plan"].claim(0)
    assert (await workers["chat"].store.status())["unknown_function"] == 1


async def test_names_are_taken_as_a_set(workers: dict[str, Worker], user: Person) -> None:
    await asked(user, "Chat", "Chat")
    chat = workers["chat"]
    chat.functions = ["Chat", "", "Chat", "Chat"]
    assert await chat.claim(2) == ["Chat", "Chat"]
    chat.functions = []
    await asked(user, "Chat")
    assert await chat.claim() == []
