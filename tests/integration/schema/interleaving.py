"""Transactions of several connections in a random order, and what must hold after each commit.

Each connection has at most one transaction open. A statement that waits for a lock of another connection is left
waiting, and the others go on. So every run with the same seed does the same, as far as the locks decide it.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.support import database
from tests.support.database import Row
from tests.support.users import ENDED

FUNCTIONS = ("Chat", "Code", "Nobody")
USER_KINDS = ("think", "insert", "cancel", "retry", "function", "delete", "answer")
# A call of a worker never fails. What a user may be told: the session is busy or gone, a limit, a deadlock with another
# transaction of several statements.
REFUSALS = ("PT409", "PT404", "PT429", "42501", "40P01")

STATE = """
select (select coalesce(jsonb_object_agg(j.question_id, to_jsonb(j) || jsonb_build_object(
            'is_held', j.worker is not null, 'is_over', j.lease_until < clock_timestamp())), '{}')
          from bridge.jobs j) as jobs,
       (select coalesce(jsonb_object_agg(m.id, to_jsonb(m) - 'content'), '{}') from public.messages m) as messages,
       (select coalesce(jsonb_object_agg(s.id, s.function), '{}') from public.sessions s) as sessions,
       (select coalesce(jsonb_object_agg(w.name, to_jsonb(w) || jsonb_build_object(
            'is_hearing', w.hears_until > clock_timestamp())), '{}') from bridge.workers w) as workers,
       (select coalesce(jsonb_object_agg(r.question_id || ' ' || r.attempt, to_jsonb(r)), '{}')
          from bridge.runs r) as runs,
       (select coalesce(jsonb_agg(jsonb_build_object('topic', b.topic, 'event', b.event, 'payload', b.payload)), '[]')
          from realtime.messages b
         where (b.topic ^@ 'worker:' or b.topic = 'bridge:inbox') and b.id <> all (%s)) as broadcasts,
       (select coalesce(array_agg(b.id), '{}') from realtime.messages b
         where b.topic ^@ 'worker:' or b.topic = 'bridge:inbox') as heard
"""


@dataclass(frozen=True)
class State:
    """What is committed."""

    jobs: Mapping[str, Row]  # by question
    messages: Mapping[str, Row]
    sessions: Mapping[str, str]  # the function of each
    workers: Mapping[str, Row]
    runs: Mapping[str, Row]  # by "question attempt"
    broadcasts: Sequence[Row]  # of the last transaction

    def held(self, **fields: Any) -> list[Row]:
        """The jobs that a worker holds, of those that have these fields."""
        return [j for j in self.jobs.values() if j["is_held"] and all(j[name] == fields[name] for name in fields)]

    def can_get(self, worker: str, functions: set[str]) -> bool:
        """Whether a job of one of these functions may be dispatched to this worker."""
        row = self.workers.get(worker)
        # one that fails is asked at times whether its model answers again
        able = set() if row is None else set(row["functions"] or ()) - (set(row["failing"]) - set(row["unproven"]))
        return row is not None and row["is_hearing"] and (row["capacity"] or 0) > 0 and not functions.isdisjoint(able)


@dataclass
class Step:
    """A statement of a transaction."""

    kind: str
    query: str
    parameters: Mapping[str, Any]
    caller: str  # a worker or a user
    answer: Any = None


@dataclass(eq=False)
class Hand:
    """A connection, with the steps of its open transaction."""

    connection: psycopg.AsyncConnection[Row]
    pid: int
    steps: list[Step] = field(default_factory=list)
    since: int = 0  # the newest state when its first step began
    task: asyncio.Task[None] | None = None

    async def run(self, step: Step, user: str | None) -> None:
        if not self.steps:
            await self.connection.execute("begin")
        self.steps.append(step)
        role = "authenticated" if user else "postgres"
        claims = json.dumps({"sub": user, "role": role}) if user else ""
        await self.connection.execute(
            "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", (role, claims)
        )
        cursor = await self.connection.execute(step.query.encode(), step.parameters)
        step.answer = (await cursor.fetchall())[0]["answer"] if cursor.description else None


@dataclass
class Worker:
    """What one worker would know."""

    name: str
    functions: tuple[str, ...] | None
    capacity: int | None  # None: an older version
    told: dict[str, int] = field(default_factory=dict)  # on the way to it: the attempts of questions
    known: dict[str, int] = field(default_factory=dict)
    is_steady: bool = True  # never claims without its capacity
    hears: float = 0.8  # the part of all broadcasts and answers that reach it


class Interleaving:
    """One run: random steps of users and workers, checked after each commit."""

    def __init__(self, seed: int, db: psycopg.AsyncConnection[Row], hands: list[Hand]) -> None:
        self.draw = random.Random(seed)
        self.db = db
        self.hands = hands
        self.limit = self.draw.choice([1, 2, 3, 8])
        self.users = [self._uuid() for _ in range(self.draw.randint(1, 3))]
        self.sessions: dict[str, str] = {}  # the user of each
        self.workers = [self._worker(n) for n in range(self.draw.randint(1, 4))]
        self.states: list[State] = []
        self.holders: dict[tuple[str, int], str] = {}
        self.attempts: dict[str, int] = {}
        self.pushes: Counter[tuple[str, int]] = Counter()
        self.done: Counter[str] = Counter()  # how many committed transactions had a step of each kind
        self._heard: list[Any] = []

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.draw.getrandbits(128), version=4))

    def _worker(self, number: int) -> Worker:
        draw = self.draw
        functions = draw.choice([("Chat",), ("Chat", "Code"), ("Chat", "Code"), ("Code",)])
        if draw.random() < 0.15:
            return Worker(f"w{number}-older", draw.choice([None, functions]), None)
        return Worker(f"w{number}", functions, draw.choice([1, 2, 4, 8]), is_steady=draw.random() < 0.8)

    # steps ------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Sign up the users, and let the workers call for the first time."""
        await self.db.execute("update bridge.limits set value = %s where name = 'running_replies'", (self.limit,))
        for user in self.users:
            await self.db.execute("insert into auth.users (id, email) values (%s, %s)", (user, f"{user}@example.com"))
            for _ in range(self.draw.randint(2, 6)):
                session = self._uuid()
                self.sessions[session] = user
                mode = self.draw.choice(["enqueue", "enqueue", "enqueue", "interrupt", "interrupt", "reject"])
                function = self.draw.choice(FUNCTIONS[:2])
                await self.db.execute(
                    "insert into public.sessions (id, user_id, title, function, on_new_message)"
                    " values (%s, %s, 'named', %s, %s)",
                    (session, user, function, mode),
                )
        await self._observe()
        for worker in self.workers:
            await self._begin(self.hands[0], self._claim(worker))
            await self._end(self.hands[0], commit=True)

    async def go(self, steps: int) -> None:
        """Do so many steps."""
        for _ in range(steps):
            await self._settle()
            ready = [hand for hand in self.hands if hand.task is None]
            if not ready:
                await asyncio.wait([h.task for h in self.hands if h.task], return_when=asyncio.FIRST_COMPLETED)
                continue
            hand = self.draw.choice(ready)
            if not hand.steps:
                await self._begin(hand, self._any_step())
            elif hand.steps[0].kind in USER_KINDS and len(hand.steps) < 4 and self.draw.random() < 0.4:
                await self._begin(hand, self._user_step(hand.steps[0].caller))
            else:
                await self._end(hand, commit=self.draw.random() < 0.85)
        await self._end_all()

    async def _begin(self, hand: Hand, step: Step) -> None:
        if all(earlier.kind == "think" for earlier in hand.steps):
            hand.since = len(self.states) - 1
        user = step.caller if step.kind in USER_KINDS else None
        hand.task = asyncio.create_task(hand.run(step, user))
        await self._settle()

    async def _settle(self) -> None:
        """Return when every statement has ended or waits for a lock."""
        for hand in self.hands:
            while hand.task is not None and not hand.task.done():
                cursor = await self.db.execute("select cardinality(pg_blocking_pids(%s)) as n", (hand.pid,))
                if (await cursor.fetchall())[0]["n"] and not hand.task.done():
                    self.done["waited"] += 1
                    break
            if hand.task is not None and hand.task.done():
                task, hand.task = hand.task, None
                error = task.exception()
                if error is not None:
                    if not isinstance(error, psycopg.Error):
                        raise error
                    step = hand.steps[-1]
                    assert step.kind in USER_KINDS, (step, error)
                    assert error.sqlstate in REFUSALS, (step, error)
                    self.done[f"{step.kind} {error.sqlstate}"] += 1
                    await self._end(hand, commit=False)

    async def _end(self, hand: Hand, *, commit: bool) -> None:
        await hand.connection.execute("commit" if commit else "rollback")
        steps, hand.steps = hand.steps, []
        if commit:
            before = self.states[-1]
            await self._observe()
            self.done.update({step.kind for step in steps})
            self._check(before, self.states[-1], steps, self.states[hand.since :])
            self._tell(steps)

    async def _end_all(self) -> None:
        while any(hand.steps for hand in self.hands):
            await self._settle()
            for hand in self.hands:
                if hand.steps and hand.task is None:
                    await self._end(hand, commit=True)
                    await self._settle()
            if waiting := [hand.task for hand in self.hands if hand.task]:
                await asyncio.wait(waiting, timeout=0.01)

    async def _observe(self) -> None:
        (row,) = await (await self.db.execute(STATE, (self._heard,))).fetchall()
        self._heard = row.pop("heard")
        self.states.append(State(**row))

    def _tell(self, steps: list[Step]) -> None:
        """Let the workers learn what was committed, or lose it."""
        workers = {worker.name: worker for worker in self.workers}
        for broadcast in self.states[-1].broadcasts:
            kind, _, name = broadcast["topic"].partition(":")
            if (
                kind == "worker"
                and broadcast["event"] == "job"
                and name in workers
                and self.draw.random() < workers[name].hears
            ):
                payload = broadcast["payload"]
                workers[name].told[payload["question_id"]] = payload["attempt"]
        for step in steps:
            if (
                step.kind in ("claim", "finish")
                and step.caller in workers
                and self.draw.random() < workers[step.caller].hears
            ):
                worker = workers[step.caller]
                worker.known |= {job["question_id"]: job["attempt"] for job in step.answer["jobs"]}
                if step.kind == "finish":
                    for question_id, state in step.answer["results"].items():
                        if state != "busy":
                            worker.known.pop(question_id, None)
        for worker in self.workers:
            if worker.told and self.draw.random() < 0.5:
                worker.known |= worker.told
                worker.told = {}

    def _any_step(self) -> Step:
        if self.draw.random() < 0.5:
            return self._user_step(self.draw.choice(self.users))
        worker = self.draw.choice(self.workers)
        kind = self.draw.choices(["claim", "beat", "finish", "other"], [4, 4, 6, 2])[0]
        if kind == "claim":
            return self._claim(worker)
        if kind == "beat":
            return self._beat(worker)
        if kind == "finish":
            return self._finish(worker)
        return self._other(worker)

    def _user_step(self, user: str) -> Step:
        draw = self.draw
        sessions = [s for s, owner in self.sessions.items() if owner == user and s in self.states[-1].sessions]
        questions = [
            row["id"]
            for row in self.states[-1].messages.values()
            if row["role"] == "user" and row["session_id"] in sessions
        ]
        kind = draw.choices(USER_KINDS, [4, 10, 2, 2, 1, 0.4, 0])[0]
        if kind == "think":  # the transaction's time is that of its begin
            return Step(kind, "select now()::text as answer", {}, user)
        if kind in ("cancel", "retry") and questions:
            query = f"select public.{kind}_message(%(id)s) as answer"
            return Step(kind, query, {"id": draw.choice(questions)}, user)
        if kind == "function":
            query = "update public.sessions set function = %(function)s where id = %(id)s"
            return Step(kind, query, {"function": draw.choice(FUNCTIONS), "id": draw.choice(sessions)}, user)
        if kind == "delete" and len(sessions) > 1:
            return Step(kind, "delete from public.sessions where id = %(id)s", {"id": draw.choice(sessions)}, user)
        rows = [
            {"id": self._uuid(), "session_id": draw.choice(sessions), "content": draw.choice(["hello", "x" * 30_000])}
            for _ in range(draw.choice([1, 1, 1, 2, 4]))
        ]
        if draw.random() < 0.8:
            rows.sort(key=lambda row: row["session_id"])
        query = (
            "insert into public.messages (id, session_id, content) select r.id, r.session_id, r.content"
            " from jsonb_to_recordset(%(rows)s) r (id uuid, session_id uuid, content text)"
        )
        return Step("insert", query, {"rows": json.dumps(rows)}, user)

    def _claim(self, worker: Worker) -> Step:
        draw = self.draw
        holding = [question for question in worker.known if draw.random() < 0.95]
        capacity = worker.capacity
        slots = max(0, (capacity or 4) - len(holding))
        if draw.random() < 0.2:
            slots = draw.randint(0, slots)
        if draw.random() < 0.05:
            slots, capacity = 0, None if capacity is None else 0  # it drains
        elif not worker.is_steady and draw.random() < 0.3:
            capacity = 0  # it does not hear its topic
        functions = worker.functions
        plan: dict[str, list[str]] = {"probing": [], "paused": [], "failing": []}
        if functions is not None and draw.random() < 0.2:
            plan[draw.choice(["probing", "paused"])] = [draw.choice(functions)]
            if draw.random() < 0.5:
                plan["failing"] = plan["paused"] or plan["probing"]
        query = (
            "select public.bridge_claim(%(worker)s, %(slots)s, %(holding)s::uuid[], 30, 20, %(functions)s::text[],"
            " %(reserve)s, %(probing)s::text[], %(paused)s::text[], %(failing)s::text[], %(capacity)s, 900) as answer"
        )
        parameters = {"worker": worker.name, "slots": slots, "holding": holding, "capacity": capacity, **plan}
        parameters |= {
            "functions": None if functions is None else list(functions),
            "reserve": draw.choice([0, 0, slots // 2]),
        }
        return Step("claim", query, parameters, worker.name)

    def _attempts_of(self, worker: Worker) -> list[tuple[str, int]]:
        """Most of what it knows, and at times what it must not touch."""
        found = [item for item in worker.known.items() if self.draw.random() < 0.8]
        if self.holders and self.draw.random() < 0.3:
            found.append(self.draw.choice(list(self.holders)))  # another worker's, or ended long ago
        if found and self.draw.random() < 0.2:
            found[-1] = (found[-1][0], found[-1][1] - 1)
        return list(dict(found).items())

    def _beat(self, worker: Worker) -> Step:
        jobs = [{"question_id": question, "attempt": attempt} for question, attempt in self._attempts_of(worker)]
        for job in jobs:
            if self.draw.random() < 0.3:
                job |= {"seq": self.draw.randint(1, 50), "content": "so far"}
        query = "select public.bridge_beat(%(worker)s, %(jobs)s) as answer"
        return Step("beat", query, {"worker": worker.name, "jobs": json.dumps(jobs)}, worker.name)

    def _finish(self, worker: Worker) -> Step:
        draw = self.draw
        results = []
        for question, attempt in self._attempts_of(worker):
            outcome = draw.choice(["done", "done", "done", "failed", "released", "cancelled"])
            result: dict[str, Any] = {
                "question_id": question,
                "attempt": attempt,
                "outcome": outcome,
                "content": "answer",
            }
            result |= {"seq": 99, "run": {"input_tokens": 1, "output_tokens": 1}, "user_id": self.users[0]}
            if outcome == "failed":
                result["error"] = {"code": "model_unreachable", "message": "x"}
                for way in ("retry_in_ms", "hand_over_in_ms"):
                    if draw.random() < 0.5:
                        result[way] = draw.choice([0, 0, 5, 60_000])
            results.append(result)
        query = "select public.bridge_finish(%(worker)s, %(results)s, %(knows_busy)s) as answer"
        parameters = {"worker": worker.name, "results": json.dumps(results), "knows_busy": worker.capacity is not None}
        return Step("finish", query, parameters, worker.name)

    def _other(self, worker: Worker) -> Step:
        kind = self.draw.choice(["leave", "unheard", "expire", "expire all"])
        query = {
            "leave": "select public.bridge_leave(%(worker)s)::text as answer",
            "unheard": "update bridge.workers set hears_until = clock_timestamp() where name = any (array("
            "select name from bridge.workers where name = %(worker)s for update skip locked))",
            "expire": "update bridge.jobs set lease_until = now() - interval '1 second' where id = any (array("
            "select id from bridge.jobs where worker = %(worker)s order by id limit 1 for update skip locked))",
            "expire all": "update bridge.jobs set lease_until = now() - interval '1 second' where id = any (array("
            "select id from bridge.jobs where worker is not null for update skip locked))",
        }[kind]
        return Step(kind, query, {"worker": worker.name}, worker.name)

    # what must hold -----------------------------------------------------------------------------------

    def _check(self, before: State, after: State, steps: list[Step], seen: list[State]) -> None:
        """`seen`: all states that the transaction may have read."""
        self._check_sessions(before, after)
        self._check_messages(after)
        self._check_attempts(after)
        self._check_ends(before, after, steps)
        self._check_new_holders(before, after, steps, seen)
        self._check_announcements(before, after, steps, seen)
        for worker in self.workers:
            held = after.held(worker=worker.name)
            slots = [job["slot"] for job in held if job["slot"] is not None]
            assert len(set(slots)) == len(slots), held
            if worker.capacity is not None:
                assert all(1 <= slot <= worker.capacity for slot in slots), held
                if worker.is_steady:
                    assert len(held) <= worker.capacity, held

    def _check_sessions(self, before: State, after: State) -> None:
        heads = Counter(job["session_id"] for job in after.jobs.values() if job["run_at"] is not None)
        assert heads == Counter({job["session_id"]: 1 for job in after.jobs.values()}), "a head for each session"
        for question, job in after.jobs.items():
            if job["run_at"] is None or (before.jobs.get(question) or {"run_at": None})["run_at"] is not None:
                continue
            earlier = [
                other
                for other in after.jobs
                # the same job: one that has ended and been retried since waits behind those that were there
                if before.jobs.get(other, {}).get("id") == after.jobs[other]["id"]
                and after.jobs[other]["session_id"] == job["session_id"]
                and after.jobs[other]["ordinal"] < job["ordinal"]
            ]
            assert not earlier, (job, earlier)

    def _check_messages(self, after: State) -> None:
        replies = {row["reply_to"]: row for row in after.messages.values() if row["reply_to"]}
        for question, row in after.messages.items():
            if row["role"] != "user":
                continue
            job, reply = after.jobs.get(question), replies.get(question)
            if job is None:
                assert row["status"] in ENDED, row
                assert reply is None or reply["status"] == row["status"], (row, reply)
            elif not job["is_held"]:
                assert row["status"] == "queued", (row, job)
                assert reply is None or reply["status"] == "queued", (reply, job)
            elif not job["cancel"]:
                assert row["status"] == "running", (row, job)
                assert reply is not None, job
                assert (reply["status"], reply["attempt"]) == ("running", job["attempt"]), (reply, job)
        assert set(after.jobs) <= set(after.messages)

    def _check_attempts(self, after: State) -> None:
        for question, job in after.jobs.items():
            assert job["attempt"] >= self.attempts.get(question, 0), job
            self.attempts[question] = job["attempt"]
            if job["is_held"]:
                assert self.holders.setdefault((question, job["attempt"]), job["worker"]) == job["worker"], job
        for run in after.runs.values():
            key = (run["question_id"], run["attempt"])
            assert self.holders.get(key) == run["worker"], run

    def _check_ends(self, before: State, after: State, steps: list[Step]) -> None:
        """Only its holder, its user or the end of its session ends a job."""
        states: dict[str, set[tuple[str, int]]] = {}
        for step in steps:
            if step.kind == "finish":
                for result in json.loads(step.parameters["results"]):
                    if step.answer["results"][result["question_id"]] in ("ok", "refused"):
                        states.setdefault(result["question_id"], set()).add((step.caller, result["attempt"]))
        for question, job in before.jobs.items():
            is_users = any(step.kind in ("cancel", "delete", "insert") for step in steps)
            now = after.jobs.get(question)
            if now is not None and now["id"] != job["id"]:  # it was retried in the same transaction
                now = None
            if now is None and not is_users:
                assert (job["worker"], job["attempt"]) in states.get(question, ()), (job, steps)
            if now is not None and job["is_held"] and not now["is_held"]:
                assert (job["worker"], job["attempt"]) in states.get(question, ()), (job, steps)

    def _check_new_holders(self, before: State, after: State, steps: list[Step], seen: list[State]) -> None:
        told = Counter[tuple[str, str, int]]()
        for step in steps:
            if step.kind in ("claim", "finish"):
                told.update((step.caller, job["question_id"], job["attempt"]) for job in step.answer["jobs"])
        for broadcast in after.broadcasts:
            if broadcast["event"] == "job":
                payload = broadcast["payload"]
                told[broadcast["topic"].removeprefix("worker:"), payload["question_id"], payload["attempt"]] += 1
                self.pushes[payload["question_id"], payload["attempt"]] += 1
                assert self.pushes[payload["question_id"], payload["attempt"]] == 1, payload
                assert "message" in payload or set(payload) <= {"id", "question_id", "attempt", "at_ms"}, payload
        new = []
        for question, job in after.jobs.items():
            old = before.jobs.get(question)
            if job["is_held"] and (old is None or (old["worker"], old["attempt"]) != (job["worker"], job["attempt"])):
                new.append(job)
                assert told.pop((job["worker"], question, job["attempt"]), 0) == 1, (job, steps, after.broadcasts)
                if not job["is_confirmed"]:
                    self.done[f"dispatched by {steps[-1].kind}"] += 1
                    functions = {job["function"], *(state.sessions.get(job["session_id"], "") for state in seen)}
                    assert any(state.can_get(job["worker"], functions) for state in seen), (job, steps)
                else:
                    assert steps[0].kind == "claim", (job, steps)
                if old is not None and old["is_held"]:
                    was_over = any(question in state.jobs and state.jobs[question]["is_over"] for state in seen[:-1])
                    assert was_over or steps[0].kind == "finish", (old, job, steps)
        for worker, question, attempt in told:  # the rest: what a claim brought again, or what is gone already
            now = after.jobs.get(question)
            is_over = now is None or now["attempt"] > attempt
            assert is_over or (now and (now["worker"], now["attempt"]) == (worker, attempt)), (now, worker, steps)
        if any(step.kind == "claim" and step.parameters["functions"] is None for step in steps):
            return  # an older worker counts nothing
        for user in self.users:
            more = len(after.held(user_id=user)) - len(before.held(user_id=user))
            least = min(len(state.held(user_id=user)) for state in seen)
            assert more <= 0 or least + more <= self.limit, (more, least, self.limit, steps)

    def _check_announcements(self, before: State, after: State, steps: list[Step], seen: list[State]) -> None:
        """Whatever becomes ready and was not dispatched is announced to all, unless they know of a backlog."""
        announced = {
            question
            for broadcast in after.broadcasts
            if broadcast["event"] == "work"
            for question in broadcast["payload"]["question_ids"]
        }
        for question, job in after.jobs.items():
            old = before.jobs.get(question)
            is_new = old is None or old["run_at"] is None or old["is_held"]
            if is_new and job["run_at"] is not None and not job["is_held"] and job["failed_by"] is None:
                before_it = [state.jobs.values() for state in seen[:-1]] + [
                    [other for id_, other in after.jobs.items() if id_ in announced]
                ]
                is_known = any(
                    other["function"] == job["function"] and not other["is_held"]
                    for jobs in before_it
                    for other in jobs
                )
                assert is_known or question in announced, (job, steps)

    # the end ----------------------------------------------------------------------------------------

    async def finish_all(self) -> None:
        """Let every lease end; then one healthy worker answers all that is left, and nothing is."""
        await self.db.execute(
            "update bridge.jobs set lease_until = now() - interval '1 second' where worker is not null"
        )
        await self.db.execute("update bridge.jobs set run_at = now() where run_at > now()")
        await self._observe()
        healer = Worker("healer", FUNCTIONS, 64, hears=1)
        self.workers.append(healer)
        for _ in range(1 + len(self.states[-1].messages)):
            await self._begin(self.hands[0], self._plain_claim(healer))
            await self._end(self.hands[0], commit=True)
            worked = bool(healer.known)
            await self._begin(self.hands[0], self._plain_finish(healer))
            await self._end(self.hands[0], commit=True)
            if not self.states[-1].jobs:
                break
            assert worked, self.states[-1].jobs
        last = self.states[-1]
        assert last.jobs == {}
        assert {row["status"] for row in last.messages.values()} <= set(ENDED)

    def _plain_claim(self, worker: Worker) -> Step:
        query = (
            "select public.bridge_claim(%(worker)s, 32, %(holding)s::uuid[], 30, 20, %(functions)s::text[],"
            " capacity => 64) as answer"
        )
        parameters = {"worker": worker.name, "holding": list(worker.known), "functions": list(FUNCTIONS)}
        return Step("claim", query, parameters, worker.name)

    def _plain_finish(self, worker: Worker) -> Step:
        results = [
            {"question_id": question, "attempt": attempt, "outcome": "done", "content": "answer", "seq": 99}
            for question, attempt in worker.known.items()
        ]
        query = "select public.bridge_finish(%(worker)s, %(results)s, true) as answer"
        return Step("finish", query, {"worker": worker.name, "results": json.dumps(results)}, worker.name)


@asynccontextmanager
async def interleaving(url: str, seed: int, hands: int = 4) -> AsyncIterator[Interleaving]:
    """A run on so many connections. At the end, all users and workers are deleted."""
    async with connected(url, hands) as (db, opened):
        yield Interleaving(seed, db, opened)


@asynccontextmanager
async def connected(url: str, hands: int) -> AsyncIterator[tuple[psycopg.AsyncConnection[Row], list[Hand]]]:
    """Connections for a run. At the end, all users and workers are deleted."""
    async with AsyncExitStack() as opened:
        db = await opened.enter_async_context(database.database(url))
        connections = [await opened.enter_async_context(database.database(url)) for _ in range(hands)]
        for connection in connections:
            await connection.execute("set deadlock_timeout = '100ms'")
        try:
            yield db, [Hand(one, one.info.backend_pid) for one in connections]
        finally:
            for connection in connections:
                await connection.cancel_safe()
                await connection.rollback()
            await db.execute("update bridge.limits set value = null where name = 'running_replies'")
            await database.delete_all_users(url)
