"""From a question to the worker's model request, in a conversation of HISTORY messages.

`wakeup` and `wakeup_claim_path` count from the insert (the row's `created_at`), the comparisons with queues from the
client's request. Everything runs on one machine with one clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postgrest.types import ReturnMethod

from bench.baselines.conversation import EARLIER, HISTORY
from bench.baselines.procrastinate_app import QUEUE, TASK, deferring_app
from bench.claim_path import claim_path
from bench.processes import Failed
from bench.report import Figure, Measured, Spread, for_comparison, ratio
from bench.world import Model, Project, World, chat, conversation, insert_chat, mark, unique
from tests.support.users import Person

APART_SECONDS = 0.3  # until the previous question has been answered
ASLEEP_SECONDS = 0.8  # until the server polls at its idle pace again
# Seconds between two polls, and the share of it by which the times of asking differ.
POLLS = {"postgres_changes": 0.5, "polled every 0.1 s": 0.1, "polled every 1 s": 1.0}
GOLDEN = 0.618
TWICE = ("bridge", "claim path", "procrastinate")  # asked twice in each round
Samples = dict[str, list[float]]


@dataclass(frozen=True)
class System:
    """A way to ask a question; `ask` returns its id if its row, in `table`, tells when it was inserted."""

    ask: Callable[[str], Awaitable[str | None]]
    person: Person
    table: str = ""


async def run(world: World) -> Measured:
    """Measure against the claim path and queues, and against the tutorial's worker with and without its delay."""
    model = await world.model()
    hosted = await _waits(world, await world.project(), model, polled=True)
    at_once = await _waits(world, await world.project("at once"), model, polled=False)
    figures = [
        _inserted("wakeup", hosted, "postgres_changes"),
        _inserted("wakeup_without_polling", at_once, "postgres_changes"),
        _inserted("wakeup_claim_path", hosted, "claim path"),
        ratio("wakeup_procrastinate", hosted["bridge, with the request"], hosted["procrastinate"], unit="ms"),
    ]
    figures += [
        for_comparison(f"wakeup_{name.replace(' ', '_')}", waits, "a queue in the bridge's place, from the request")
        for name, waits in hosted.items()
        if name.startswith("polled")
    ]
    return Measured(figures, {"insert to start": hosted, "insert to start, changes not polled": at_once})


def _inserted(name: str, waits: Samples, baseline: str) -> Figure:
    return ratio(
        name, waits["bridge"], waits[baseline], unit="ms",
        with_the_request=Spread.of(waits["bridge, with the request"]).median,
        baseline_with_the_request=Spread.of(waits[f"{baseline}, with the request"]).median,
    )  # fmt: skip


async def _waits(world: World, project: Project, model: Model, *, polled: bool) -> Samples:
    """Milliseconds from the question to the model request for each system, alternating.

    `polled` is whether the project polls for `postgres_changes`; if so, the claim path and the queues are measured too.
    """
    waits: Samples = defaultdict(list)
    async with AsyncExitStack() as opened:
        systems = await _common(world, project, model, opened)
        take_claim_path = await opened.enter_async_context(claim_path(project))
        if polled:
            systems["claim path"] = systems["bridge"]
            systems |= await _queues(world, project, model, opened, systems["bridge"].person)
        order = [*systems, *(name for name in TWICE if name in systems)]
        for number in range(world.pick(6, 12) + 2):
            for name in order:
                # systems that poll are asked at varying moments of the interval, postgres_changes when it is idle
                pause = ASLEEP_SECONDS if polled and name == "postgres_changes" else APART_SECONDS
                await asyncio.sleep(pause + (number * GOLDEN) % 1 * POLLS.get(name, 0.0))
                await take_claim_path(name == "claim path")
                text, system = unique("tokens=4"), systems[name]
                began = time.monotonic()
                question = await system.ask(text)
                try:
                    (exchange,) = await model.exchange(mark(text), ended=True)
                except Failed as error:
                    raise Failed(f"{name}: {error}") from None
                if number < 2:  # the first ones fill caches
                    continue
                asked = (exchange["started_at"] - began) * 1000
                if question is None:
                    waits[name].append(asked)
                    continue
                (row,) = await system.person.rows(system.table, id=question)
                inserted = datetime.fromisoformat(row["created_at"]).timestamp()
                waits[name].append((exchange["started_wall"] - inserted) * 1000)
                waits[f"{name}, with the request"].append(asked)
    return dict(waits)


async def _common(world: World, project: Project, model: Model, opened: AsyncExitStack) -> dict[str, System]:
    """The bridge and the tutorial's worker."""
    person = await opened.enter_async_context(world.person(project))
    async with project.database() as db:
        session, chat_id = await conversation(db, person.id), await chat(db, person.id)
    await world.enter(
        opened,
        world.worker(project, model, history=HISTORY),
        world.baseline("tutorial_worker", project, model),
    )

    async def ask_bridge(text: str) -> str:
        return await person.ask(session, text)

    async def ask_tutorial(text: str) -> str:
        return await insert_chat(person, text, chat_id)

    return {
        "bridge": System(ask_bridge, person, "messages"),
        "postgres_changes": System(ask_tutorial, person, "chat_messages"),
    }


async def _queues(
    world: World, project: Project, model: Model, opened: AsyncExitStack, person: Person
) -> dict[str, System]:
    """Procrastinate, and the polled queue at two intervals. Their jobs carry what was said before."""
    async with project.database() as db:
        chat_id = await chat(db, person.id)
    job: dict[str, Any] = {"chat_id": chat_id, "user_id": person.id, "earlier": EARLIER}
    app = deferring_app(project.environment["SUPABASE_DB_URL"])
    await opened.enter_async_context(world.baseline("procrastinate_worker", project, model))
    await opened.enter_async_context(app.open_async())
    deferrer = app.configure_task(TASK, queue=QUEUE, allow_unknown=True)

    async def ask_procrastinate(text: str) -> None:
        await deferrer.defer_async(text=text, **job)

    async def polled(seconds: float) -> System:
        topic = f"every {seconds:g} s"
        arguments = ("--seconds", seconds, "--topic", topic)
        await opened.enter_async_context(world.baseline("polling_worker", project, model, *arguments))

        async def ask_queue(text: str) -> None:
            row = {"topic": topic, "message": {"text": text, **job}}
            await person.client.table("queue").insert(row, returning=ReturnMethod.minimal).execute()

        return System(ask_queue, person)

    found = {"procrastinate": System(ask_procrastinate, person)}
    if not world.quick:  # no bound depends on them
        found |= {"polled every 0.1 s": await polled(0.1), "polled every 1 s": await polled(1.0)}
    return found
