"""Steps of real handlers through REST, at 1 and at 64 at once: what each costs the worker, the project and the log.

A handler says a sentence and takes a step, again and again. What the same handler costs without its steps is
subtracted, but for the time: that is the time of `await turn.step()`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from bench import database, waldump
from bench.database import Database
from bench.handlers import FUNCTIONS
from bench.processes import Failed, Program
from bench.report import Figure, Measured, Spread
from bench.world import Project, World

STEPS = 20
BYTES = 200


@dataclass(frozen=True)
class Spent:
    """On some replies: CPU in ms, of the worker and of the project; kB of log; the handlers' times."""

    worker: float
    project: float
    wal: float
    ms: list[float]
    seconds: float


async def run(world: World) -> Measured:
    """The same handler with and without its steps."""
    project, model = await world.project(), await world.model()
    figures: list[Figure] = []
    async with (
        project.database() as db,
        database.no_autovacuum(db),
        world.person(project) as person,
        world.worker(project, model, concurrency=64, functions=FUNCTIONS, handlers="bench.handlers") as worker,
    ):
        for at_once in (1, 64):
            rounds = world.pick(4, 16) if at_once == 1 else world.pick(1, 3)
            sessions = await database.open_sessions(db, person.id, at_once, "Steps")
            await _spent(project, worker, db, sessions, steps=True)  # joins the sessions' topics
            with_steps = [await _spent(project, worker, db, sessions, steps=True) for _ in range(rounds)]
            without = [await _spent(project, worker, db, sessions, steps=False) for _ in range(rounds)]
            figures += _figures(at_once, with_steps, without)
    return Measured(figures)


def _figures(at_once: int, with_steps: list[Spent], without: list[Spent]) -> list[Figure]:
    def a_step(spent: list[Spent]) -> dict[str, float]:
        steps = STEPS * at_once * len(spent)
        return {
            "worker_cpu_ms": sum(one.worker for one in spent) / steps,
            "project_cpu_ms": sum(one.project for one in spent) / steps,
            "wal_kb": sum(one.wal for one in spent) / steps,
        }

    took = Spread.of([ms for one in with_steps for ms in one.ms])
    whole, rest = a_step(with_steps), a_step(without)
    more = {name: cost - rest[name] for name, cost in whole.items()}
    name = f"{at_once} at once"
    figures = [
        Figure(
            f"agent_step, {name}",
            took.median,
            "ms",
            spread=took.quartiles,
            detail={"samples": took.count, "without": rest},
        ),
        Figure(f"agent_step_worker_cpu, {name}", more["worker_cpu_ms"], "ms"),
        Figure(f"agent_step_project_cpu, {name}", more["project_cpu_ms"], "ms"),
        Figure(f"agent_step_wal, {name}", more["wal_kb"], "kB"),
    ]
    if at_once > 1:
        rates = Spread.of([STEPS * at_once / one.seconds for one in with_steps])
        figures.append(Figure("steps_a_second", rates.median, f"a second, {name}", spread=rates.quartiles))
    return figures


async def _spent(project: Project, worker: Program, db: Database, sessions: list[str], *, steps: bool) -> Spent:
    """Ask once in each session. Raises `Failed` if a reply is not done."""
    question = json.dumps({"count": STEPS, "size": BYTES, "steps": steps})
    cpu, parts, begin = worker.cpu(), project.cpu(), await waldump.position(db)
    asked = await database.ask(db, [(session, question) for session in sessions])
    await database.replies_done(db, asked)
    end = await waldump.position(db)
    used = worker.cpu() - cpu
    spent = sum(now - parts[part] for part, now in project.cpu().items())
    cursor = await db.execute("select data from public.messages where reply_to = any (%s::uuid[])", (asked,))
    told = [row["data"] for row in await cursor.fetchall()]
    if len(told) != len(asked):
        raise Failed(f"{len(told)} of {len(asked)} replies")
    wal = await waldump.written(project, begin, end)
    seconds = max(one["ended"] for one in told) - min(one["began"] for one in told)
    return Spent(used * 1000, spent * 1000, wal.records, [ms for one in told for ms in one["ms"]], seconds)
