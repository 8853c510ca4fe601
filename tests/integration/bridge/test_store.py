"""The store's batches against a real database: a bad item fails without the rest of its batch."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from aiohttp import web

from bridge.errors import SetupError, StoreUnavailable
from bridge.model import Checkpoint, FileWrite, Outcome, Result
from bridge.store import Store
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until, waits_for_a_lock
from tests.support.workers import worker_settings


@pytest.fixture
async def store(environment: dict[str, str]) -> AsyncIterator[Store]:
    store = await Store.open(worker_settings(environment), "store-test")
    yield store
    await store.close()


async def questions(user: Person, count: int) -> list[str]:
    """Questions in separate sessions, so that all can be claimed at once."""
    return [await user.ask(await user.open_session(title="named"), f"question {n}") for n in range(count)]


async def test_claim_returns_everything_a_turn_needs(store: Store, user: Person) -> None:
    session_id = await user.open_session(title="named", metadata={"tone": "dry"})
    file = {"session_id": session_id, "path": "a.py", "content": "x"}
    await user.client.table("code_files").insert(file).execute()
    message_id = await user.ask(session_id, "hello", data={"city": "Bern"})
    (job,) = (await store.claim(5, [])).jobs
    assert (job.question_id, job.attempt, job.failures, job.cancel, job.broken) == (message_id, 1, 0, False, None)
    assert job.turn is not None
    assert (job.turn.message, job.turn.data, job.turn.user_id) == ("hello", {"city": "Bern"}, user.id)
    assert (job.turn.question_id, job.turn.attempt) == (message_id, 1)
    assert job.turn.session.metadata == {"tone": "dry"}
    assert [(file.path, file.content, file.revision) for file in job.turn.files] == [("a.py", "x", 1)]


async def test_claim_returns_jobs_of_lost_response_again(store: Store, user: Person) -> None:
    await questions(user, 3)
    first = await store.claim(5, [])
    again = await store.claim(5, [])
    assert {(job.question_id, job.attempt) for job in first.jobs} == {
        (job.question_id, job.attempt) for job in again.jobs
    }
    assert (await store.claim(5, [job.question_id for job in first.jobs])).jobs == ()


async def test_jobs_of_lost_responses_use_slots_and_come_in_parts(store: Store, user: Person) -> None:
    """However many responses are lost, a worker never holds more jobs than it has slots."""
    await questions(user, 5)
    first = {job.question_id for job in (await store.claim(2, [])).jobs}
    again = {job.question_id for job in (await store.claim(2, [])).jobs}
    assert first == again
    assert len(first) == 2
    assert len((await store.claim(3, [])).jobs) == 3
    parts: set[str] = set()
    for count in (1, 2, 3):
        parts |= {job.question_id for job in (await store.claim(0, list(parts))).jobs}
        assert len(parts) == count
    assert (await store.claim(0, list(parts))).jobs == ()


async def test_beat_times_out_before_lease_expires(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.rest.TRIES", 1)
    store = await Store.open(worker_settings(environment, lease_seconds=4), "store-test")
    try:
        (message_id,) = await questions(user, 1)
        (job,) = (await store.claim(1, [])).jobs
        async with db.transaction():
            await db.execute("lock table bridge.jobs in access exclusive mode")  # a locked row is not waited for
            async with asyncio.timeout(4):
                with pytest.raises(StoreUnavailable, match="TimeoutError"):
                    await store.beat([Checkpoint(message_id, job.attempt)])
    finally:
        await store.close()


async def test_bad_result_fails_without_its_batch(store: Store, user: Person) -> None:
    await questions(user, 32)
    jobs = (await store.claim(32, [])).jobs
    assert len(jobs) == 32
    results = [Result(job.question_id, job.attempt, "done", text=f"answer {n}") for n, job in enumerate(jobs)]
    bad = jobs[7]
    results[7] = Result(
        bad.question_id, bad.attempt, "done", text="x", seq=2**40
    )  # too large for an integer in Postgres
    ack = await store.finish(results)
    assert {state for id_, state in ack.states.items() if id_ != bad.question_id} == {"ok"}
    assert ack.states[bad.question_id] == "refused"
    row = await user.reply(bad.question_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "unstorable")


async def test_refused_file_loses_neither_reply_nor_other_files(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await questions(user, 1)
    (job,) = (await store.claim(1, [])).jobs
    files = (FileWrite("a\nb", "refused"), FileWrite("good.py", "x"), FileWrite("", "refused"))
    result = Result(job.question_id, job.attempt, "done", text="fine", files=files)
    assert (await store.finish([result])).states == {job.question_id: "ok"}
    assert (await user.reply(job.question_id))["content"] == "fine"
    assert [file["path"] for file in await user.rows("code_files")] == ["good.py"]
    (run,) = await (await db.execute("select error from bridge.runs")).fetchall()
    assert run["error"]["code"] == "files_refused"


async def test_file_renamed_to_path_of_replys_file_is_kept(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """The rename commits while the reply adds its file: both texts are kept, and an event reports the conflict."""
    (message_id,) = await questions(user, 1)
    (job,) = (await store.claim(1, [])).jobs
    (session,) = await user.rows("sessions")
    events = await user.listen(f"session:{session['id']}", "file")
    file = {"session_id": session["id"], "path": "old.py", "content": "the user's"}
    await user.client.table("code_files").insert(file).execute()
    files = (FileWrite("new.py", "the reply's"), FileWrite("other.py", "x"))
    result = Result(job.question_id, job.attempt, "done", text="fine", files=files)
    async with db.transaction():
        await db.execute("update public.code_files set path = 'new.py' where path = 'old.py'")
        finishing = asyncio.create_task(store.finish([result]))
        await until(lambda: waits_for_a_lock(db), 5)
    assert (await finishing).states == {message_id: "ok"}
    (run,) = await (await db.execute("select error from bridge.runs")).fetchall()
    assert run["error"] is None
    rows = {row["path"]: row for row in await user.rows("code_files")}
    assert {path: row["content"] for path, row in rows.items()} == {"new.py": "the user's", "other.py": "x"}
    (version,) = await user.rows("code_file_versions", file_id=rows["new.py"]["id"])
    assert (version["content"], version["conflict"], version["path"]) == ("the reply's", True, "new.py")
    await events.until(lambda events: events.of("file", id=rows["new.py"]["id"], conflict=True))


@asynccontextmanager
async def refusing(
    db: psycopg.AsyncConnection[Row], kind: str, timing: str, which: str, status: str = "<> 'running'"
) -> AsyncIterator[None]:
    """A trigger of the project that refuses rows which match `which` and end (or have another `status`)."""
    await db.execute(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'not in this project'; end $$"
    )
    try:
        await db.execute(
            f"create {kind} refuse after insert or update on public.messages {timing} for each row"
            f" when (new.status {status} and ({which})) execute function public.refuse()"
        )
        yield
    finally:
        await db.execute("drop function public.refuse cascade")


@pytest.mark.parametrize("timing", ["", "deferrable initially deferred"], ids=["at once", "at the commit"])
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["done", "cancelled"])
async def test_trigger_that_refuses_every_end_fails_only_that_attempt(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row], timing: str, is_cancelled: bool
) -> None:
    await questions(user, 3)
    jobs = (await store.claim(3, [])).jobs
    results = [Result(job.question_id, job.attempt, "done", text="fine") for job in jobs]
    bad = jobs[1].question_id
    if is_cancelled:
        await user.client.rpc("cancel_message", {"message_id": bad}).execute()
    async with refusing(db, "constraint trigger", timing, f"new.reply_to = '{bad}' or new.id = '{bad}'"):
        states = (await store.finish(results)).states
        assert states == {job.question_id: "refused" if job.question_id == bad else "ok" for job in jobs}
        assert (await store.finish(results)).states[bad] == "ok"  # it has ended already
        assert [row["content"] for row in await user.rows("messages", status="done", role="assistant")] == ["fine"] * 2
        assert (await store.claim(3, [])).jobs == ()
    (run,) = await (
        await db.execute("select outcome, error from bridge.runs where question_id = %s", (bad,))
    ).fetchall()
    assert run["outcome"] == ("cancelled" if is_cancelled else "failed")
    assert run["error"]["detail"] == "P0001 not in this project"
    letters = {letter["question_id"] for letter in await store.dead_letters(100)}
    assert (bad in letters) is not is_cancelled
    # the trigger is fixed: the user retries
    assert (await user.client.rpc("retry_message", {"message_id": bad}).execute()).data == "queued"
    (job,) = (await store.claim(3, [])).jobs
    assert (await store.finish([Result(bad, job.attempt, "done", text="late")])).states == {bad: "ok"}
    assert (await user.reply(bad))["content"] == "late"


@pytest.mark.parametrize("timing", ["", "deferrable initially deferred"], ids=["at once", "at the commit"])
async def test_trigger_that_refuses_start_or_checkpoint_affects_only_that_job(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row], timing: str
) -> None:
    bad, good = await questions(user, 2)
    async with refusing(db, "constraint trigger", timing, f"new.reply_to = '{bad}'", "= 'running'"):
        jobs = {job.question_id: job for job in (await store.claim(2, [])).jobs}
        assert "not in this project" in (jobs[bad].broken or "")
        assert jobs[good].broken is None
        checkpoints = [Checkpoint(id_, jobs[id_].attempt, 1, "so far") for id_ in (bad, good)]
        assert set((await store.beat(checkpoints)).states.values()) == {"ok"}
        assert (await user.reply(good, lambda row: row["seq"] > 0))["content"] == "so far"
    async with refusing(db, "constraint trigger", timing, f"new.reply_to = '{good}'", "= 'running'"):
        assert (await store.beat([Checkpoint(good, jobs[good].attempt, 2, "and more")])).states == {good: "ok"}
    assert (await user.reply(good, lambda row: row["seq"] > 0))["content"] == "so far"


@pytest.mark.parametrize("timing", ["", "deferrable initially deferred"], ids=["at once", "at the commit"])
@pytest.mark.parametrize("outcome", ["failed", "released"])
async def test_trigger_that_refuses_retry_fails_only_that_attempt(
    store: Store, user: Person, outcome: Outcome, timing: str, db: psycopg.AsyncConnection[Row]
) -> None:
    bad, good = await questions(user, 2)
    attempts = {job.question_id: job.attempt for job in (await store.claim(2, [])).jobs}
    results = [Result(bad, attempts[bad], outcome, retry_ms=1000), Result(good, attempts[good], "done", text="fine")]
    async with refusing(db, "constraint trigger", timing, f"new.reply_to = '{bad}' or new.id = '{bad}'"):
        assert (await store.finish(results)).states == {bad: "refused", good: "ok"}
    assert [letter["question_id"] for letter in await store.dead_letters(100)] == [bad]


async def test_reply_whose_question_refuses_to_end_is_shown_as_failed(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await questions(user, 1)
    (job,) = (await store.claim(1, [])).jobs
    async with refusing(db, "trigger", "", "new.role = 'user'"):
        ack = await store.finish([Result(job.question_id, job.attempt, "done", text="fine")])
    assert ack.states == {job.question_id: "refused"}
    row = await user.reply(job.question_id)
    assert (row["status"], row["error"]["code"], row["attempt"]) == ("failed", "unstorable", job.attempt)


async def test_users_deferred_constraints_stay_deferred_when_job_ends(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """In the middle of a transaction, a new question interrupts one that waits for its retry."""
    session_id = await user.open_session(title="named", on_new_message="interrupt")
    first = await user.ask(session_id, "first")
    (job,) = (await store.claim(1, [])).jobs
    await store.finish([Result(first, job.attempt, "failed", retry_ms=3_600_000)])
    await db.execute(
        "create table public.notes (message_id uuid primary key, beside uuid references public.notes"
        " deferrable initially deferred)"
    )
    try:
        one, other = uuid.uuid4(), uuid.uuid4()
        async with db.transaction():
            await db.execute("insert into public.notes values (%s, %s)", (one, other))
            await db.execute("insert into public.messages (session_id, content) values (%s, 'second')", (session_id,))
            await db.execute("insert into public.notes values (%s, %s)", (other, one))
    finally:
        await db.execute("drop table public.notes")
    assert (await user.rows("messages", id=first))[0]["status"] == "cancelled"


async def test_batch_refused_as_a_whole_is_halved(store: Store, user: Person) -> None:
    await questions(user, 8)
    jobs = (await store.claim(8, [])).jobs
    results = [Result(job.question_id, job.attempt, "done", text="fine") for job in jobs]
    results[3] = Result("no uuid at all", 1, "done", text="bad")
    ack = await store.finish(results)
    assert len(ack.states) == 7
    assert set(ack.states.values()) == {"ok"}


async def test_text_that_postgres_cannot_store_is_sanitised(store: Store, user: Person) -> None:
    await questions(user, 1)
    (job,) = (await store.claim(1, [])).jobs
    checkpoint = Checkpoint(job.question_id, job.attempt, 1, "a\0b\ud800c", {"x\0": float("nan")})
    assert (await store.beat([checkpoint])).states == {job.question_id: "ok"}
    row = await user.reply(job.question_id, lambda row: row["seq"] == 1)
    assert (row["content"], row["data"]) == ("ab?c", {"x": None})
    long = Result(job.question_id, job.attempt, "done", text="é" * 600_000, seq=2)
    assert (await store.finish([long])).states == {job.question_id: "ok"}
    assert len((await user.reply(job.question_id))["content"].encode()) == 1_000_000


async def test_write_under_lost_lease_changes_nothing(environment: dict[str, str], store: Store, user: Person) -> None:
    await questions(user, 1)
    other = await Store.open(worker_settings(environment), "another")
    try:
        (job,) = (await store.claim(1, [])).jobs
        stale: list[Any] = [
            await other.beat([Checkpoint(job.question_id, job.attempt, 1, "stolen")]),
            await other.finish([Result(job.question_id, job.attempt, "done", text="stolen")]),
            await store.beat([Checkpoint(job.question_id, job.attempt - 1, 1, "stolen")]),
            await store.finish([Result(job.question_id, job.attempt + 1, "done", text="stolen")]),
        ]
        assert [ack.states[job.question_id] for ack in stale] == ["lost"] * 4
        row = await user.reply(job.question_id, lambda _: True)
        assert (row["status"], row["content"], row["seq"]) == ("running", "", 0)
    finally:
        await other.close()


async def test_repeated_finish_returns_ok(store: Store, user: Person) -> None:
    await questions(user, 1)
    (job,) = (await store.claim(1, [])).jobs
    result = Result(job.question_id, job.attempt, "done", text="once")
    assert (await store.finish([result])).states == {job.question_id: "ok"}
    assert (await store.finish([result])).states == {job.question_id: "ok"}
    assert (await user.reply(job.question_id))["content"] == "once"


async def test_html_page_instead_of_json_fails_the_call(environment: dict[str, str]) -> None:
    """A gateway may respond to anything with a page and HTTP 200, which `supabase` returns as text."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>Be right back.</html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    store = await Store.open(worker_settings(environment | {"SUPABASE_URL": url}), "w")
    try:
        for call in (
            store.claim(1, []),
            store.beat([Checkpoint("id", 1)]),
            store.finish([Result("id", 1, "done", text="fine")]),
            store.check(),
            store.doctor(),
            store.dead_letters(5),
            store.retry_dead(None),
            store.drop_dead(None),
        ):
            with pytest.raises(StoreUnavailable, match="unexpected response"):
                await call
    finally:
        await store.close()
        await runner.cleanup()


async def test_check_reports_refused_key_and_unreachable_project(environment: dict[str, str]) -> None:
    wrong = await Store.open(worker_settings(environment | {"SUPABASE_SECRET_KEY": "sb_secret_wrong"}), "w")
    nowhere = await Store.open(worker_settings(environment | {"SUPABASE_URL": "http://127.0.0.1:9"}), "w")
    try:
        with pytest.raises(SetupError, match="refused SUPABASE_SECRET_KEY"):
            await wrong.check()
        with pytest.raises(StoreUnavailable):
            await nowhere.check()
    finally:
        await wrong.close()
        await nowhere.close()
