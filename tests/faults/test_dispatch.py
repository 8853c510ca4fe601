"""Faults of dispatch: an event is lost, a worker is gone, frozen or older. No question is lost, late or asked twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.store import Store
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.audit import Audit, Write
from tests.faults.checker import late_writes, out_of_order, two_at_once
from tests.faults.proxy import Proxy
from tests.support import ROOT
from tests.support.database import Row, database
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import WorkerProcess, worker_process, worker_settings, working

pytestmark = pytest.mark.quiet

BEFORE_DISPATCH = "9b4149f"
DISPATCH_LEASE_SECONDS = 3
# until another worker has taken over what was dispatched in vain
BOUND_SECONDS = DISPATCH_LEASE_SECONDS + 2
SLACK_SECONDS = 1.0  # what a busy machine may add
# so that no sweep stands in for what is tested, and each request to the model contains one question
SETTINGS: dict[str, Any] = {"sweep_seconds": 60, "history": 0}

LOSE = """
create schema faults;
create table faults.losses (lost int not null, most int not null);
insert into faults.losses values (0, %s);
create function faults.lose() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    update faults.losses l set lost = l.lost + 1 where l.lost < l.most;
    return case when not found then new end;
end
$$;
create trigger lose before insert on realtime.messages
    for each row when (new.topic ^@ 'worker:' and new.event = 'job') execute function faults.lose();
"""


@asynccontextmanager
async def losing(db: psycopg.AsyncConnection[Row], most: int) -> AsyncIterator[None]:
    """Lose that many dispatched jobs on their way to Realtime."""
    await db.execute(LOSE.replace("%s", str(most)).encode())
    try:
        yield
        assert await (await db.execute("select lost from faults.losses")).fetchall() == [{"lost": most}]
    finally:
        await db.execute("drop trigger lose on realtime.messages; drop schema faults cascade")


@dataclass(frozen=True)
class Member:
    """A worker of a fleet; its name in the database."""

    name: str
    process: WorkerProcess

    async def count(self, metric: str) -> float:
        """The sum of a metric over its labels."""
        return sum(value for name, value in (await self.process.metrics()).items() if name.partition("{")[0] == metric)

    def texts(self) -> list[str]:
        """The lines that it has logged."""
        return [line["text"] for line in self.process.lines()]


class Fleet:
    """Workers to which questions are dispatched, and a user who asks them."""

    def __init__(self, user: Person, db: psycopg.AsyncConnection[Row], model: ModelServer) -> None:
        self.members: list[Member] = []
        self._user, self._db, self._model = user, db, model

    async def rows(self, query: str, *values: Any) -> list[Row]:
        return await (await self._db.execute(query.encode(), values)).fetchall()

    async def join(self, process: WorkerProcess) -> Member:
        """Add a worker that has started; return when questions are dispatched to it."""
        (row,) = await self.rows("select name from bridge.workers where name like %s", f"%%-{process.process.pid}-%%")
        member = Member(row["name"], process)
        self.members.append(member)
        await until(lambda: self.hears(member.name), 20)
        return member

    async def prove(self, worker: str) -> None:
        """Let a worker answer a question: one whose model has not answered yet gets few."""
        await until(lambda: self.hears(worker), 20)
        await self.ask(await self.sessions(1, first=worker), "text=first")
        await until(lambda: self.hears(worker, proven=True), 20)

    async def hears(self, worker: str, *, proven: bool = False) -> bool:
        """Whether questions are dispatched to it; if it is `proven`, as many as it has slots."""
        query = (
            "select from bridge.workers where name = %s and capacity > 0 and hears_until > now()"
            " and (not %s or 'Chat' <> all (unproven))"
        )
        return bool(await self.rows(query, worker, proven))

    async def sessions(self, count: int, *, first: str | None = None, owner: Person | None = None) -> list[str]:
        """New sessions, of those that prefer the worker `first`."""
        found: list[str] = []
        while len(found) < count:
            # in the order of bridge.choose_worker
            found += [
                row["id"]
                for row in await self.rows(
                    "select s.id::text from (select gen_random_uuid() as id from generate_series(1, 100)) s"
                    " cross join lateral (select w.name from bridge.workers w where w.capacity is not null"
                    "  order by hashtextextended(w.name, hashtextextended(s.id::text, 0)) limit 1) w"
                    " where %s::text is null or w.name = %s",
                    first, first,
                )
            ]  # fmt: skip
        await self._db.execute(
            "insert into public.sessions (id, user_id, title) select id, %s, 'named' from unnest(%s::uuid[]) id",
            ((owner or self._user).id, found[:count]),
        )
        return found[:count]

    async def ask(
        self, sessions: Sequence[str], directive: str = "text=fine", *, owner: Person | None = None
    ) -> list[str]:
        """Ask a question in each session, all at once, as a user does."""
        asking = owner or self._user
        return list(
            await asyncio.gather(
                *(asking.ask(session_id, f"{uuid.uuid4().hex} [[{directive}]]") for session_id in sessions)
            )
        )

    async def announce(self) -> None:
        """Let all workers claim."""
        await self._db.execute("select bridge.announce('bridge:inbox', 'work', '{}')")

    async def cancel(self, message_id: str) -> None:
        await self._user.client.rpc("cancel_message", {"message_id": message_id}).execute()

    async def all_ended(self, within: float = 60) -> None:
        async def have_ended() -> bool:
            return not await self.rows("select from bridge.jobs limit 1")

        await until(have_ended, within, 0.05)

    async def assert_answered(self, asked: Sequence[str]) -> None:
        """Each question has one reply, and it is complete."""
        rows = await self.rows(
            "select q.status, count(r.id), min(r.status) as reply from public.messages q"
            " left join public.messages r on r.reply_to = q.id where q.id = any (%s::uuid[]) group by q.id, q.status",
            list(asked),
        )
        assert rows == [{"status": "done", "count": 1, "reply": "done"}] * len(asked)

    async def requests(self, asked: Sequence[str]) -> list[int]:
        """How often the model was asked each question."""
        marks = {
            row["id"]: row["mark"]
            for row in await self.rows(
                "select id::text, split_part(content, ' ', 1) as mark from public.messages where id = any (%s::uuid[])",
                list(asked),
            )
        }
        bodies = [json.dumps(exchange.body) for exchange in self._model.requests]
        return [sum(1 for body in bodies if marks[message_id] in body) for message_id in asked]

    async def runs(self, asked: Sequence[str]) -> list[Row]:
        return await self.rows(
            "select question_id::text as id, attempt, worker, outcome, input_tokens + output_tokens as tokens"
            " from bridge.runs where question_id = any (%s::uuid[]) order by question_id, attempt", list(asked),
        )  # fmt: skip


@pytest.fixture
async def fleet(user: Person, db: psycopg.AsyncConnection[Row], model: ModelServer) -> Fleet:
    return Fleet(user, db, model)


@asynccontextmanager
async def running(
    fleet: Fleet, environment: dict[str, str], folder: Path, count: int, **changes: Any
) -> AsyncIterator[list[Member]]:
    """Start workers."""
    async with AsyncExitStack() as opened:
        processes = [
            await opened.enter_async_context(
                worker_process(environment, folder / f"{n}.log", ready=False, **SETTINGS | changes)
            )
            for n in range(count)
        ]
        for process in processes:
            await process.ready()
            await fleet.join(process)
        for member in fleet.members:
            await fleet.prove(member.name)
        await fleet.all_ended()
        claims = [await member.count("bridge_claims_total") for member in fleet.members]
        await fleet.announce()  # so that each knows how many they are

        async def have_claimed() -> bool:
            """A claim that is running locks the slots, and a question would go to another worker."""
            return all(
                [await member.count("bridge_claims_total") > before
                 for member, before in zip(fleet.members, claims, strict=True)]
            )  # fmt: skip

        await until(have_claimed, 20)
        yield fleet.members


def opened(writes: Sequence[Write], asked: Sequence[str], attempt: int) -> dict[str, Write]:
    """The writes that gave these questions to a worker under this attempt."""
    found: dict[str, Write] = {}
    for write in writes:
        if write.relation == "jobs" and write.worker is not None and write.attempt == attempt:
            found.setdefault(write.message_id, write)
    return {message_id: found[message_id] for message_id in asked if message_id in found}


def seconds_until_taken_over(writes: Sequence[Write], asked: Sequence[str]) -> list[float]:
    """For each of these questions that another worker has taken over, how long after it was dispatched."""
    first, second = opened(writes, asked, 1), opened(writes, asked, 2)
    return [(second[id_].at - first[id_].at).total_seconds() for id_ in second]


def assert_consistent(writes: Sequence[Write]) -> None:
    assert late_writes(writes) + out_of_order(writes) + two_at_once(writes) == []


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_question_whose_event_is_lost_is_answered(
    count: int,
    environment: dict[str, str],
    fleet: Fleet,
    audit: Audit,
    db: psycopg.AsyncConnection[Row],
    tmp_path: Path,
) -> None:
    async with running(fleet, environment, tmp_path, count) as members:
        sessions = await fleet.sessions(4, first=members[0].name)
        async with losing(db, 1):
            asked = await fleet.ask(sessions[:1])
            await fleet.all_ended(BOUND_SECONDS + SLACK_SECONDS)
        assert opened(await audit.writes(), asked, 1)[asked[0]].worker == members[0].name
        await fleet.assert_answered(asked)
        assert await fleet.requests(asked) == [1]
        runs = [(run["worker"] == members[0].name, run["outcome"]) for run in await fleet.runs(asked)]
        found_by_itself = [(True, "done")]
        taken_over = [(True, "lost"), (False, "done")]
        assert runs == found_by_itself or (count > 1 and runs == taken_over)

        if count > 1:
            # at its next call it learns that it has missed something, and subscribes again
            if runs == taken_over:
                await fleet.announce()
            await until(lambda: members[0].texts().count("bridge:inbox: subscribed") == 2, 20)
        await until(lambda: fleet.hears(members[0].name, proven=True), 20)
        dispatched = await members[0].count("bridge_dispatched_total")
        asked = await fleet.ask(sessions[1:])
        await fleet.all_ended()
        assert {run["worker"] for run in await fleet.runs(asked)} == {members[0].name}
        assert await members[0].count("bridge_dispatched_total") == dispatched + 3
        assert_consistent(await audit.writes())


async def test_questions_of_dead_worker_are_taken_over(
    environment: dict[str, str], fleet: Fleet, audit: Audit, user: Person, tmp_path: Path
) -> None:
    async with running(fleet, environment, tmp_path, 3) as (dead, *_):
        before = await fleet.rows("select tokens from bridge.usage")
        sessions = await fleet.sessions(60, first=dead.name)
        await dead.process.kill()
        asked = await fleet.ask(sessions[:10])
        for session_id in sessions[10:40]:  # for so long that some come just before the first takeover
            asked += await fleet.ask([session_id])
            await asyncio.sleep(0.15)
        await fleet.all_ended()
        later = await fleet.ask(sessions[40:])
        await fleet.all_ended()
        writes = await audit.writes()
        await fleet.assert_answered(asked + later)
        first = opened(writes, asked + later, 1)
        missed = [message_id for message_id, write in first.items() if write.worker == dead.name]
        taken_over = [opened(writes, [message_id], 2)[message_id].at for message_id in missed]
        assert len(missed) >= 10
        # one whose transaction was under way may still be dispatched to it
        assert [id_ for id_ in missed if (first[id_].at - min(taken_over)).total_seconds() > 0.25] == []
        assert max(seconds_until_taken_over(writes, asked)) < BOUND_SECONDS + SLACK_SECONDS
        assert set(await fleet.requests(asked + later)) == {1}
        runs = await fleet.runs(asked + later)
        assert {run["id"] for run in runs if run["outcome"] == "lost"} == set(missed)
        assert {run["tokens"] for run in runs if run["outcome"] == "lost"} == {None}
        assert Counter(run["outcome"] for run in runs) == {"lost": len(missed), "done": len(asked + later)}
        # what was charged is what the others report
        after = await fleet.rows("select tokens from bridge.usage")
        charged = sum(row["tokens"] for row in after) - sum(row["tokens"] for row in before)
        assert charged == sum(run["tokens"] for run in runs if run["outcome"] == "done")
        assert_consistent(writes)


async def test_worker_killed_in_a_burst(
    environment: dict[str, str], fleet: Fleet, audit: Audit, tmp_path: Path
) -> None:
    async with running(fleet, environment, tmp_path, 2, lease_seconds=4) as (killed, _):
        sessions = await fleet.sessions(40)
        asking = asyncio.create_task(fleet.ask(sessions, "tokens=40 delay=0.02"))

        async def is_in_the_middle() -> bool:
            return len(await fleet.rows("select from bridge.jobs where worker = %s", killed.name)) >= 5

        await until(is_in_the_middle, 10, 0.001)
        await killed.process.kill()
        asked = await asking
        await fleet.all_ended()
        writes = await audit.writes()
        await fleet.assert_answered(asked)
        runs = await fleet.runs(asked)
        assert Counter(run["outcome"] for run in runs)["done"] == 40
        assert {run["worker"] for run in runs if run["outcome"] == "lost"} == {killed.name}
        assert max(run["attempt"] for run in runs) == 2
        assert_consistent(writes)


@pytest.mark.parametrize("seconds", [2, 5])
async def test_frozen_worker_asks_for_nothing_that_was_taken_over(
    seconds: int, environment: dict[str, str], fleet: Fleet, audit: Audit, tmp_path: Path
) -> None:
    async with running(fleet, environment, tmp_path, 2) as (frozen, other):
        sessions = await fleet.sessions(12, first=frozen.name)
        frozen.process.signal(signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        asked = await fleet.ask(sessions[:6])
        for session_id in sessions[6:]:
            asked += await fleet.ask([session_id])
            await asyncio.sleep(0.25)
        await asyncio.sleep(max(0.0, began + seconds - asyncio.get_running_loop().time()))
        frozen.process.signal(signal.SIGCONT)
        await fleet.all_ended()
        first = opened(await audit.writes(), asked, 1)
        pushed = [message_id for message_id in asked if first[message_id].worker == frozen.name]
        assert len(pushed) >= 6

        taken_over = {run["id"] for run in await fleet.runs(asked) if run["outcome"] == "lost"}

        def came_late() -> set[str]:
            lines = frozen.process.lines()
            return {line["question_id"] for line in lines if line["text"] == "a dispatch came late"}

        await until(lambda: came_late() >= taken_over, 10)  # it has read all that was in its socket
        # and it goes on
        more = await fleet.ask(await fleet.sessions(6, first=frozen.name))
        await fleet.all_ended()
        await fleet.assert_answered(asked + more)
        assert set(await fleet.requests(asked + more)) == {1}
        answered = Counter(run["worker"] for run in await fleet.runs(asked) if run["outcome"] == "done")
        lost = [run["id"] for run in await fleet.runs(asked) if run["outcome"] == "lost"]
        if seconds < DISPATCH_LEASE_SECONDS:
            assert lost == []
            assert answered == {frozen.name: len(pushed)} | (
                {other.name: len(asked) - len(pushed)} if len(pushed) < len(asked) else {}
            )
        else:
            assert sorted(lost) == sorted(pushed)
            assert answered == {other.name: len(asked)}
        assert_consistent(await audit.writes())


async def test_drain_in_a_burst_gives_back_to_the_other(
    environment: dict[str, str], fleet: Fleet, audit: Audit, tmp_path: Path
) -> None:
    async with running(fleet, environment, tmp_path, 2, concurrency=64, drain_seconds=0) as (drained, other):
        sessions = await fleet.sessions(40)
        asking = asyncio.create_task(fleet.ask(sessions, "tokens=20 delay=0.1"))

        async def is_in_the_middle() -> bool:
            return len(await fleet.rows("select from bridge.jobs where worker = %s", drained.name)) >= 5

        await until(is_in_the_middle, 10, 0.001)
        drained.process.signal(signal.SIGTERM)
        asked = await asking
        assert await drained.process.ended(20) == 0
        await fleet.all_ended()
        writes = await audit.writes()
        await fleet.assert_answered(asked)
        runs = await fleet.runs(asked)
        counts = Counter(run["outcome"] for run in runs)
        assert counts["released"] >= 5
        assert counts == {"released": counts["released"], "done": 40}
        assert {run["worker"] for run in runs if run["outcome"] == "done"} == {other.name}
        # dispatched in the call that gave it back; or claimed, if a question of the burst was waiting then
        again = opened(writes, asked, 2)
        assert len(again) == counts["released"]
        assert {write.worker for write in again.values()} == {other.name}
        assert {write.call for write in again.values()} <= {"bridge_finish", "bridge_claim"}
        assert_consistent(writes)


async def test_nothing_is_dispatched_while_realtime_is_away(
    stack: Stack, environment: dict[str, str], fleet: Fleet, audit: Audit, tmp_path: Path
) -> None:
    async with running(fleet, environment, tmp_path, 2, sweep_seconds=2) as members:
        sessions = await fleet.sessions(40)

        async def none_hears() -> bool:
            return not await fleet.rows("select from bridge.workers where capacity > 0 and hears_until > now()")

        await stack.realtime.stop()
        try:
            asked = await fleet.ask(sessions[:10])  # perhaps before the workers have said so
            await until(none_hears, DISPATCH_LEASE_SECONDS + SLACK_SECONDS)
            later = await fleet.ask(sessions[10:20])
            await fleet.all_ended()
        finally:
            await stack.realtime.start()
        writes = await audit.writes()
        assert {write.call for write in opened(writes, later, 1).values()} == {"bridge_claim"}  # of a sweep
        for member in members:
            await until(lambda member=member: fleet.hears(member.name), 60)
        again = await fleet.ask(sessions[20:])
        await fleet.all_ended()
        writes = await audit.writes()
        assert {write.call for write in opened(writes, again, 1).values()} == {None}  # of the insert itself
        assert opened(writes, again, 2) == {}
        assert {run["worker"] for run in await fleet.runs(again)} == {member.name for member in members}
        await fleet.assert_answered(asked + later + again)
        assert set(await fleet.requests(asked + later + again)) == {1}
        assert_consistent(writes)


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's code before it had dispatch, with the functions of that time."""
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(
        ["git", "archive", BEFORE_DISPATCH, "bridge", "baml_src", "devstack", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
    )
    if archive.returncode != 0:
        pytest.skip(f"this clone has no commit {BEFORE_DISPATCH}: {archive.stderr.decode()}")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    cli = Path(sys.executable).with_name("baml-cli")
    subprocess.run([cli, "generate"], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


async def test_worker_of_the_previous_version_works_beside_a_new_one(
    environment: dict[str, str], fleet: Fleet, audit: Audit, tmp_path: Path, previous: Path
) -> None:
    async with (
        worker_process(environment | {"PYTHONPATH": str(previous)}, tmp_path / "old.log", previous, **SETTINGS) as old,
        running(fleet, environment, tmp_path, 1, concurrency=4) as (new,),
    ):
        names = [row["name"] for row in await fleet.rows("select name from bridge.workers where capacity is null")]
        assert len(names) == 1
        # the new one hears and has room, until it is full
        sessions = await fleet.sessions(40)
        asked = await fleet.ask(sessions[:2], "tokens=20 delay=0.02")
        await fleet.all_ended()
        assert {run["worker"] for run in await fleet.runs(asked)} == {new.name}
        asked += await fleet.ask(sessions[2:36], "tokens=40 delay=0.05")
        await fleet.all_ended()
        shares = Counter(run["worker"] for run in await fleet.runs(asked))
        assert set(shares) == {new.name, *names}
        assert shares[names[0]] >= 20
        # the old one answers a question that it fails with, and what follows in a session
        more = await fleet.ask(sessions[36:] * 3, "tokens=20 delay=0.02")
        cancelled = (await fleet.ask(sessions[:1], "tokens=1000 delay=0.05"))[0]
        await fleet.cancel(cancelled)
        await fleet.all_ended()
        # and when the new one has left
        new.process.signal(signal.SIGTERM)
        assert await new.process.ended(20) == 0
        alone = await fleet.ask(sessions[:10])
        await fleet.all_ended()
        asked += more + alone
        await fleet.assert_answered(asked)
        assert set(await fleet.requests(asked)) == {1}
        assert {run["worker"] for run in await fleet.runs(alone)} == set(names)
        assert Counter(run["outcome"] for run in await fleet.runs(asked)) == {"done": len(asked)}
        for process in (old, new.process):
            assert [line for line in process.lines() if line["level"] in ("warning", "error", "critical")] == []
        assert_consistent(await audit.writes())


@pytest.fixture
async def as_shipped(db: psycopg.AsyncConnection[Row]) -> AsyncIterator[None]:
    """`running_replies` as shipped; tests lift the limits."""
    await db.execute("update bridge.limits set value = 8 where name = 'running_replies'")
    yield
    await db.execute("update bridge.limits set value = null where name = 'running_replies'")


async def test_fresh_user_is_begun_before_any_reply_of_a_crowd_ends(
    environment: dict[str, str],
    as_shipped: None,
    fleet: Fleet,
    sign_up: Callable[[], Awaitable[Person]],
    audit: Audit,
    db: psycopg.AsyncConnection[Row],
    tmp_path: Path,
) -> None:
    fresh = await sign_up()
    crowd = [await sign_up() for _ in range(2)]
    async with running(fleet, environment, tmp_path, 1):
        for person in crowd:
            sessions = await fleet.sessions(20, owner=person)
            await fleet.ask(sessions, "tokens=60 delay=1", owner=person)

        async def is_full() -> bool:
            return len(await fleet.rows("select from bridge.jobs where worker is not null")) >= 16

        await until(is_full, 20)
        running_replies = await fleet.rows("select count(*) from bridge.jobs where worker is not null group by user_id")
        assert running_replies == [{"count": 8}] * 2
        asked = await fleet.ask(await fleet.sessions(1, owner=fresh), owner=fresh)
        await fresh.reply(asked[0])
        ended = await fleet.rows(
            "select from public.messages where role = 'assistant' and status <> 'running'"
            " and reply_to <> %s and created_at > now() - interval '1 minute'"
            " and session_id in (select id from public.sessions where user_id = any (%s))",
            asked[0],
            [person.id for person in crowd],
        )
        assert ended == []
        for person in crowd:  # or the drain would wait for them
            await db.execute("delete from public.sessions where user_id = %s", (person.id,))


async def test_backlog_is_not_overtaken(
    environment: dict[str, str],
    fleet: Fleet,
    sign_up: Callable[[], Awaitable[Person]],
    audit: Audit,
    tmp_path: Path,
) -> None:
    """A user who waits in a backlog is next, before all who come later, wherever a slot becomes free."""
    people = [await sign_up() for _ in range(24)]
    async with running(fleet, environment, tmp_path, 2, concurrency=2):
        asked = []
        for person in people:
            asked += await fleet.ask(await fleet.sessions(1, owner=person), "tokens=10 delay=0.05", owner=person)
        await fleet.all_ended()
        first = opened(await audit.writes(), asked, 1)
        order = [message_id for message_id, _ in sorted(first.items(), key=lambda item: item[1].id)]
        # two workers that claim at the same moment may change places
        assert max(abs(order.index(message_id) - n) for n, message_id in enumerate(asked)) <= 3, order
        assert any(write.call is None for write in first.values())
        assert any(write.call == "bridge_claim" for write in first.values())


async def test_next_question_comes_although_answer_to_finish_is_lost(
    proxied: dict[str, str], proxy: Proxy, fleet: Fleet, user: Person
) -> None:
    async with working(proxied, **SETTINGS):
        (session_id,) = await fleet.sessions(1)
        first = await fleet.ask([session_id], "tokens=20 delay=0.05")
        second = await fleet.ask([session_id])
        assert await fleet.rows("select from bridge.jobs where question_id = %s and run_at is null", second[0])
        proxy.rest.lose["bridge_finish"] = 1
        await fleet.all_ended(within=10)
        assert proxy.lost["bridge_finish"] == 1
        await fleet.assert_answered(first + second)
        assert [(run["attempt"], run["outcome"]) for run in await fleet.runs(first + second)] == [(1, "done")] * 2
        assert await fleet.requests(first + second) == [1, 1]


async def test_worker_goes_on_after_a_failure_of_its_model(environment: dict[str, str], fleet: Fleet) -> None:
    """Another worker is better for a moment, but not for good."""
    async with working(environment, name="one", **SETTINGS) as one, working(environment, name="other", **SETTINGS):
        for worker in ("one", "other"):
            await fleet.prove(worker)
        sessions = await fleet.sessions(20, first="one")
        (failed,) = await fleet.ask(sessions[:1], "error=500 times=1 text=fine")
        await fleet.all_ended()
        assert [(run["worker"], run["outcome"]) for run in await fleet.runs([failed])] == [
            ("one", "failed"), ("other", "done"),
        ]  # fmt: skip
        assert one.breakers.plan().failing == ("Chat",)
        asked = []
        for session_id in sessions[1:]:
            asked += await fleet.ask([session_id])
            await fleet.all_ended()
        workers = [run["worker"] for run in await fleet.runs(asked)]
        assert workers.count("one") >= 17
        assert one.breakers.plan().failing == ()


@pytest.mark.parametrize("call", ["claim", "beat"])
async def test_worker_that_missed_a_question_gets_none_until_it_has_subscribed_again(
    call: str, environment: dict[str, str], db: psycopg.AsyncConnection[Row], user: Person
) -> None:
    store = await Store.open(worker_settings(environment), "deaf")

    async def hears() -> bool:
        rows = await (
            await db.execute("select capacity > 0 and hears_until > now() as hears from bridge.workers")
        ).fetchall()
        return bool(rows[0]["hears"])

    try:
        assert not (await store.claim(1, [], ["Chat"], capacity=4)).hints.missed
        assert await hears()
        await db.execute("update bridge.workers set hears_until = now()")  # as bridge.record_lost does
        answer = await (store.claim(1, [], ["Chat"], capacity=4) if call == "claim" else store.beat([]))
        assert answer.hints.missed
        assert not await hears()
        await store.claim(1, [], ["Chat"], capacity=0)  # it has left its topic
        assert not (await store.claim(1, [], ["Chat"], capacity=4)).hints.missed
        assert await hears()
    finally:
        await store.close()


async def test_idle_worker_is_told_of_a_question_although_others_wait(
    environment: dict[str, str], fleet: Fleet, sign_up: Callable[[], Awaitable[Person]], stack: Stack
) -> None:
    """What waits may be locked by its user: nobody else waits for that."""
    other = await sign_up()
    store = await Store.open(worker_settings(environment), "idle")
    try:
        await store.claim(4, [], ["Chat"], capacity=0)  # nothing is dispatched
        (locked,) = await fleet.sessions(1)
        await fleet.ask([locked])
        async with database(stack.admin_url) as slow, slow.transaction():
            await slow.execute("select from public.sessions where id = %s for update", (locked,))
            assert (await store.claim(4, [], ["Chat"], capacity=4)).jobs == ()
            asked = await fleet.ask(await fleet.sessions(1, owner=other), owner=other)
            told = await fleet.rows(
                "select from realtime.messages where (event = 'work' and payload -> 'question_ids' ? %s)"
                " or (event = 'job' and payload ->> 'question_id' = %s)", asked[0], asked[0],
            )  # fmt: skip
            assert len(told) == 1
    finally:
        await store.close()
