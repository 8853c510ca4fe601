"""Transactions about steps in a random order, and what must hold after each commit; as in `interleaving`."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping

import psycopg

from tests.integration.schema.interleaving import Hand, Interleaving, State, Step, Worker
from tests.support.database import Row
from tests.support.users import ENDED

STEPS = """
select coalesce(jsonb_object_agg(s.question_id || ' ' || s.name, to_jsonb(s)), '{}') as steps from bridge.steps s
"""
NAMES = ("a", "b", "c", "d")
OPEN = ("ask", "sleep", "run")


class Remembering(Interleaving):
    """One run: workers remember steps and wait, users answer, and everything else that can become of a question."""

    def __init__(self, seed: int, db: psycopg.AsyncConnection[Row], hands: list[Hand]) -> None:
        super().__init__(seed, db, hands)
        self.draw = random.Random(f"steps {seed}")  # ids of its own: those of deleted rows are refused
        self.limit = 8
        self.workers = [
            Worker("w0", ("Chat", "Code"), 4),
            Worker("w1", ("Chat",), self.draw.choice([1, 4])),
            Worker("w2-older", ("Chat", "Code"), self.draw.choice([None, 4])),
        ]
        self.remembered: list[Mapping[str, Row]] = []  # the steps in each state, by "question name"

    async def _observe(self) -> None:
        await super()._observe()
        (row,) = await (await self.db.execute(STEPS.encode())).fetchall()
        self.remembered.append(row["steps"])

    # steps ------------------------------------------------------------------------------------------

    def _any_step(self) -> Step:
        if self.draw.random() < 0.4:
            return self._user_step(self.draw.choice(self.users))
        worker = self.draw.choice(self.workers)
        match self.draw.choices(["claim", "step", "finish", "beat", "due", "other"], [6, 6, 6, 1, 3, 1])[0]:
            case "step" if "older" not in worker.name:
                return self._remember(worker)
            case "finish":
                return self._finish(worker)
            case "beat":
                return self._beat(worker)
            case "due":
                return self._due()
            case "other":
                return self._other(worker)
        return self._claim(worker)

    def _user_step(self, user: str) -> Step:
        asked = [s for s in self.remembered[-1].values() if s["kind"] == "ask"]
        if asked and self.draw.random() < 0.5:
            step = self.draw.choice(asked)
            parameters = {"id": step["question_id"], "name": self.draw.choice([step["name"], step["name"], "a"])}
            parameters["answer"] = json.dumps({"n": self.draw.randint(0, 10**9)})
            query = "select public.answer_message(%(id)s, %(name)s, %(answer)s) as answer"
            return Step("answer", query, parameters, user)
        return super()._user_step(user)

    def _claim(self, worker: Worker) -> Step:
        holding = [question for question in worker.known if self.draw.random() < 0.95]
        query = (
            "select public.bridge_claim(%(worker)s, %(slots)s, %(holding)s::uuid[], 30, 20, %(functions)s::text[],"
            " capacity => %(capacity)s, hears_seconds => 900, knows_steps => %(knows)s) as answer"
        )
        parameters: Row = {"worker": worker.name, "holding": holding, "functions": list(worker.functions or ())}
        slots = max(0, (worker.capacity or 4) - len(holding))
        parameters |= {"slots": slots, "capacity": worker.capacity, "knows": "older" not in worker.name}
        return Step("claim", query, parameters, worker.name)

    def _place(self, question: str) -> Row:
        """Where a step ends: behind all that is known."""
        ordinals = [s["ordinal"] for s in self.remembered[-1].values() if s["question_id"] == question]
        return {"ordinal": max(ordinals, default=0) + 1, "chars": 0, "n_parts": 0, "emitted_before": 0, "emitted": 0}

    def _remember(self, worker: Worker) -> Step:
        items = []
        for question, attempt in self._attempts_of(worker):
            item = {"question_id": question, "attempt": attempt, "name": self.draw.choice(NAMES)}
            item |= {
                "kind": self.draw.choice(["done", "done", "failed", "begun"]),
                "value": self.draw.randint(0, 10**9),
            }
            if self.draw.random() < 0.5:
                item |= {"seq": self.draw.randint(1, 50), "content": "so far", "chars": 6}
            items.append(self._place(question) | item)
        query = "select public.bridge_step(%(worker)s, %(steps)s) as answer"
        return Step("step", query, {"worker": worker.name, "steps": json.dumps(items)}, worker.name)

    def _finish(self, worker: Worker) -> Step:
        step = super()._finish(worker)
        if "older" in worker.name:
            return step
        results = json.loads(step.parameters["results"])
        for result in results:
            if self.draw.random() < 0.6:
                names = self.draw.sample(NAMES, self.draw.randint(0, 2))
                result |= {"outcome": "waiting", "waits": [self._wait(result["question_id"], name) for name in names]}
        return Step(step.kind, step.query, {**step.parameters, "results": json.dumps(results)}, step.caller)

    def _wait(self, question: str, name: str) -> Row:
        kind = self.draw.choice(OPEN)
        wait = self._place(question) | {"name": name, "kind": kind, "within_ms": self.draw.choice([0, 60_000, 90_000])}
        if kind == "run":
            wait["value"] = {
                "session_id": self._uuid(),
                "question_id": self._uuid(),
                "function": "Chat",
                "message": "hi",
            }
        return wait

    def _due(self) -> Step:
        """Time passes until what a question waits for is due."""
        query = (
            "with due as (update bridge.jobs j set run_at = now() where j.id = any (array("
            "   select w.id from bridge.jobs w where w.worker is null and w.run_at > now()"
            "    order by w.id limit 1 for update skip locked))"
            "  returning j.question_id)"
            " update bridge.steps s set due_at = now() from due"
            "  where s.question_id = due.question_id and not s.is_done and s.due_at is not null"
        )
        return Step("due", query, {}, "")

    def _plain_claim(self, worker: Worker) -> Step:
        step = super()._plain_claim(worker)
        query = step.query.replace("capacity => 64", "capacity => 64, knows_steps => true")
        return Step(step.kind, query, step.parameters, step.caller)

    # what must hold -----------------------------------------------------------------------------------

    def _check(self, before: State, after: State, steps: list[Step], seen: list[State]) -> None:
        self._check_sessions(before, after)
        self._check_attempts(after)
        self._check_statuses(after)
        self._check_counts(after)
        self._check_older(after)
        self._check_values(steps)
        for step in steps:
            if step.kind == "step":
                self._check_fence(step, seen)
            elif step.kind == "answer":
                self._check_answer(step, seen)

    def _check_statuses(self, after: State) -> None:
        replies = {row["reply_to"]: row for row in after.messages.values() if row["reply_to"]}
        for question, row in after.messages.items():
            if row["role"] != "user":
                continue
            job, reply = after.jobs.get(question), replies.get(question)
            if job is None:
                assert row["status"] in ENDED, row
            elif job["is_held"]:
                assert job["cancel"] or row["status"] == "running", (row, job)
            elif row["status"] == "waiting":
                due = [
                    s["due_at"]
                    for s in self.remembered[-1].values()
                    if s["question_id"] == question and not s["is_done"]
                ]
                due = [at for at in due if at is not None]
                assert due, (row, "waits for nothing")
                assert job["run_at"] is not None, job
                assert job["run_at"] <= min(due), (job, due)
            else:
                assert row["status"] == "queued", (row, job)
            if reply is not None and not (job and job["cancel"]):
                assert reply["status"] == row["status"], (row, reply)
        assert set(after.jobs) <= set(after.messages)

    def _check_counts(self, after: State) -> None:
        for question, job in after.jobs.items():
            own = [s for s in self.remembered[-1].values() if s["question_id"] == question]
            assert (job["steps"] > 0) == (len(own) > 0), (job, own)
            assert job["steps"] <= len(own), (job, own)

    def _check_older(self, after: State) -> None:
        for job in after.held():
            assert "older" not in job["worker"] or job["steps"] == 0 or job["cancel"], job

    def _check_values(self, steps: list[Step]) -> None:
        """What was given once stays, until the question is answered anew."""
        before, after = self.remembered[-2:]
        for key, step in before.items():
            now = after.get(key)
            if step["is_done"] and now is not None and now["created_at"] == step["created_at"]:
                assert (now["is_done"], now["kind"], now["value"]) == (True, step["kind"], step["value"]), (
                    step,
                    now,
                    steps,
                )

    def _check_fence(self, step: Step, seen: list[State]) -> None:
        for item in json.loads(step.parameters["steps"]):
            state = step.answer["results"][f"{item['question_id']} {item['name']}"]
            self.done[f"step {state}"] += 1
            holds = [self._holds(one, step.caller, item) for one in seen]
            assert state in ("ok", "lost", "cancel", "busy", "given"), (state, item)
            assert any(holds) if state != "lost" else not all(holds), (state, item, holds)

    def _holds(self, state: State, worker: str, item: Row) -> bool:
        job = state.jobs.get(item["question_id"])
        return job is not None and (job["worker"], job["attempt"]) == (worker, item["attempt"])

    def _check_answer(self, step: Step, seen: list[State]) -> None:
        self.done[f"answer {step.answer}"] += 1
        question = step.parameters["id"]
        jobs = [state.jobs[question] for state in seen if question in state.jobs]
        if step.answer in ("taken", "answered", "late"):
            assert step.caller in {job["user_id"] for job in jobs}, (step, jobs)
        now = self.remembered[-1].get(f"{question} {step.parameters['name']}")
        if step.answer == "taken" and now is not None:  # otherwise the same transaction has deleted or retried it
            assert (now["is_done"], now["value"]) == (True, json.loads(step.parameters["answer"])), (step, now)
