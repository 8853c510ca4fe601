"""What one question costs a fleet that has little else to do: claims, Realtime's messages, and CPU.

All are counted while questions are asked one after the other, less what the idle fleet takes in as much time.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from bench.processes import Program
from bench.report import Figure, Measured
from bench.world import Project, World, conversation, metrics, unique
from tests.support.users import Person

SIZES = (1, 4, 16)
SESSIONS = 4
EVERY_SECONDS = 0.3  # a question, long after the one before it has been answered
SETTLE_SECONDS = 3.0  # until postgres_changes has come, and what waits for the end of a short lease
QUESTION = "text=hello"  # its reply is one delta
Counts = dict[str, float]


async def run(world: World) -> Measured:
    """Measure fleets of each size, the smallest first; workers are added to it."""
    project, model = await world.project(), await world.model()
    sizes, questions = SIZES[: world.pick(2, 3)], world.pick(12, 48)
    async with AsyncExitStack() as opened:
        person = await opened.enter_async_context(world.person(project))
        async with project.database() as db:
            sessions = [await conversation(db, person.id) for _ in range(SESSIONS)]
        for session in sessions:
            await person.listen(f"session:{session}")
        workers: list[Program] = []
        each: dict[int, Counts] = {}
        for size in sizes:
            workers += await world.enter(opened, *(world.worker(project, model) for _ in range(size - len(workers))))
            each[size] = await _a_question(project, workers, person, sessions, questions)
    detail = {"questions": questions, "by_workers": each}
    smallest, largest = each[sizes[0]], each[sizes[-1]]
    claims = max(counts["claims"] for counts in each.values())
    return Measured(
        [
            Figure("claims_for_one_question", claims, "claims", detail=detail | {"what": "the most of all sizes"}),
            _growth("messages_for_one_question", smallest["messages"], largest["messages"], "messages", sizes),
            _growth("cpu_of_one_question", smallest["CPU, ms"], largest["CPU, ms"], "ms", sizes),
        ]
    )


def _growth(name: str, smallest: float, largest: float, unit: str, sizes: tuple[int, ...]) -> Figure:
    detail = {"ours": largest, "unit": unit, "workers": sizes[-1], "workers_of_baseline": sizes[0]}
    return Figure(name, largest / smallest, "×", smallest, detail=detail)


async def _a_question(
    project: Project, workers: list[Program], person: Person, sessions: list[str], questions: int
) -> Counts:
    """What one question takes."""

    async def ask(count: int) -> None:
        asked, due = [], time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked.append(await person.ask(sessions[number % len(sessions)], unique(QUESTION)))
            due += EVERY_SECONDS
        for question in asked:
            await person.reply(question)
        await asyncio.sleep(SETTLE_SECONDS)

    await ask(len(sessions))  # whoever answers joins the sessions' topics
    begin, began = await _so_far(project, workers), time.monotonic()
    await ask(questions)
    busy, seconds = await _so_far(project, workers), time.monotonic() - began
    begin_idle, began = busy, time.monotonic()
    await asyncio.sleep(seconds)
    idle = await _so_far(project, workers)
    scale = seconds / (time.monotonic() - began)
    names = sorted({*busy, *idle})
    return {
        name: (
            busy.get(name, 0) - begin.get(name, 0) - scale * (idle.get(name, 0) - begin_idle.get(name, 0))
        ) / questions
        for name in names
    }  # fmt: skip


async def _so_far(project: Project, workers: list[Program]) -> Counts:
    """All counts since the start."""
    counters = await metrics(workers)
    topics = await project.events_by_topic()
    return {
        **{name: value for name, value in counters.items() if name.startswith(("claims", "dispatched"))},
        "messages": topics.total(),
        **{f"messages, {topic}": count for topic, count in topics.items()},
        "CPU, ms": sum(worker.cpu() for worker in workers) * 1000,
    }
