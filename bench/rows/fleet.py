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
SELDOM_SECONDS = 6.0  # a question, so long after the one before it that nobody looks for both at once
SETTLE_SECONDS = 4.0  # until postgres_changes has come, and whoever waits for the end of a short lease has looked
QUESTION = "text=hello"  # its reply is one delta
Counts = dict[str, float]


async def run(world: World) -> Measured:
    """Measure fleets of each size, the smallest first; workers are added to it."""
    project, model = await world.project(), await world.model()
    sizes, questions = SIZES[: world.pick(2, 3)], world.pick(12, 32)
    async with AsyncExitStack() as opened:
        person = await opened.enter_async_context(world.person(project))
        workers: list[Program] = []
        each: dict[str, Counts] = {}
        for size in sizes:
            workers += await world.enter(opened, *(world.worker(project, model) for _ in range(size - len(workers))))
            # other ones each time: whoever has answered in a session stays joined to its topic for a while
            sessions = await _sessions(project, person)
            await _ask(person, sessions, len(sessions), EVERY_SECONDS)  # whoever answers joins their topics
            each[str(size)] = await _each(project, workers, person, sessions, questions, EVERY_SECONDS)
        seldom = await _each(project, workers, person, sessions, world.pick(2, 4), SELDOM_SECONDS)
    smallest, largest = each[str(sizes[0])], each[str(sizes[-1])]
    each |= {f"{sizes[-1]}, one question in {SELDOM_SECONDS:g} s": seldom}
    # not the difference of all: a worker that claims for another reason sweeps later
    claims = max(counts["claims"] - counts.get("claims: sweep", 0) for counts in each.values())
    detail = {"questions": questions, "by_workers": each, "what": "the most of all, without sweeps"}
    return Measured(
        [
            Figure("claims_for_one_question", claims, "claims", detail=detail),
            _growth("messages_for_one_question", smallest["messages"], largest["messages"], "messages", sizes),
            _growth("cpu_of_one_question", smallest["CPU, ms"], largest["CPU, ms"], "ms", sizes),
        ]
    )


def _growth(name: str, smallest: float, largest: float, unit: str, sizes: tuple[int, ...]) -> Figure:
    detail = {"ours": largest, "unit": unit, "workers": sizes[-1], "workers_of_baseline": sizes[0]}
    return Figure(name, largest / smallest, "×", smallest, detail=detail)


async def _sessions(project: Project, person: Person) -> list[str]:
    """Sessions with a reader each."""
    async with project.database() as db:
        sessions = [await conversation(db, person.id) for _ in range(SESSIONS)]
    for session in sessions:
        await person.listen(f"session:{session}")
    return sessions


async def _ask(person: Person, sessions: list[str], count: int, every: float) -> None:
    """Ask so many questions, one each `every` seconds, and wait until nothing follows from them any more."""
    asked, due = [], time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        asked.append(await person.ask(sessions[number % len(sessions)], unique(QUESTION)))
        due += every
    for question in asked:
        await person.reply(question)
    await asyncio.sleep(SETTLE_SECONDS)


async def _each(
    project: Project, workers: list[Program], person: Person, sessions: list[str], questions: int, every: float
) -> Counts:
    """What one question takes."""
    begin, began = await _so_far(project, workers), time.monotonic()
    await _ask(person, sessions, questions, every)
    end, seconds = await _so_far(project, workers), time.monotonic() - began
    began = time.monotonic()
    await asyncio.sleep(seconds)
    later, scale = await _so_far(project, workers), seconds / (time.monotonic() - began)
    return {
        name: (end.get(name, 0) - begin.get(name, 0) - scale * (value - end.get(name, 0))) / questions
        for name, value in sorted(later.items())
    }


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
