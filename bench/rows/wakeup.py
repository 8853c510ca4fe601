"""From the insert of a question to the worker's model request.

The insert counts from the row's `created_at`; `with the request` also includes the client's HTTP request. Everything
runs on one machine with one clock.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime

from postgrest.types import ReturnMethod

from bench.baselines.procrastinate_app import QUEUE, TASK, deferring_app
from bench.processes import Failed
from bench.report import Measured, Spread, for_comparison, ratio
from bench.world import Model, Project, World, insert_chat, mark, unique
from tests.support.users import Person

# The table and the id of a question; None if its row no longer exists.
Where = tuple[str, str] | None
Ask = Callable[[str], Awaitable[Where]]
APART_SECONDS = 0.3  # until the previous question has been answered
ASLEEP_SECONDS = 0.8  # until the server polls at its idle pace again
# Seconds between two polls, and the share of it by which the times of asking differ.
POLLS = {"postgres_changes": 0.5, "polled every 0.1 s": 0.1, "polled every 1 s": 1.0}
GOLDEN = 0.618


async def run(world: World) -> Measured:
    """Measure against the tutorial's worker with and without the polling delay, and against queues."""
    model = await world.model()
    # a quick run skips the queues: no bound depends on them
    hosted = await _waits(world, await world.project(), model, polled=True, queues=not world.quick)
    at_once = await _waits(world, await world.project("at once"), model, polled=False, queues=False)
    figures = [
        ratio(
            name, waits["bridge"], waits["postgres_changes"], unit="ms",
            with_the_request=Spread.of(waits["bridge, with the request"]).median,
            baseline_with_the_request=Spread.of(waits["postgres_changes, with the request"]).median,
        )
        for name, waits in (("wakeup", hosted), ("wakeup_without_polling", at_once))
    ]  # fmt: skip
    figures += [
        for_comparison(f"wakeup_{name.replace(' ', '_')}", waits, "a queue in the bridge's place")
        for name, waits in hosted.items()
        if "bridge" not in name and "postgres_changes" not in name
    ]
    return Measured(figures, {"insert to start": hosted, "insert to start, changes not polled": at_once})


async def _waits(world: World, project: Project, model: Model, *, polled: bool, queues: bool) -> dict[str, list[float]]:
    """Milliseconds from the question to the model request for each system, alternating.

    `polled` is whether the project polls for `postgres_changes`.
    """
    waits: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as opened:
        person = await opened.enter_async_context(world.person(project))
        await world.enter(opened, world.worker(project, model), world.baseline("tutorial_worker", project, model))
        session = await person.open_session(title="wakeup")
        chat = str(uuid.uuid4())

        async def ask_bridge(text: str) -> Where:
            return "messages", await person.ask(session, text)

        async def ask_tutorial(text: str) -> Where:
            return "chat_messages", await insert_chat(person, text, chat)

        systems: dict[str, Ask] = {"bridge": ask_bridge, "postgres_changes": ask_tutorial}
        if queues:
            systems |= await _queues(world, project, model, opened, person, chat)
        for number in range(world.pick(6, 16) + 2):
            for name, ask in systems.items():
                # systems that poll are asked at varying moments of the interval, postgres_changes when it is idle
                pause = ASLEEP_SECONDS if polled and name == "postgres_changes" else APART_SECONDS
                await asyncio.sleep(pause + (number * GOLDEN) % 1 * POLLS.get(name, 0.0))
                text = unique("tokens=4")
                began = time.monotonic()
                where = await ask(text)
                try:
                    (exchange,) = await model.exchange(mark(text), ended=True)
                except Failed as error:
                    raise Failed(f"{name}: {error}") from None
                if number < 2:  # the first ones fill caches
                    continue
                asked = (exchange["started_at"] - began) * 1000
                if where is None:
                    waits[name].append(asked)
                    continue
                table, question = where
                (row,) = await person.rows(table, id=question)
                inserted = datetime.fromisoformat(row["created_at"]).timestamp()
                waits[name].append((exchange["started_wall"] - inserted) * 1000)
                waits[f"{name}, with the request"].append(asked)
    return dict(waits)


async def _queues(
    world: World, project: Project, model: Model, opened: AsyncExitStack, person: Person, chat: str
) -> dict[str, Ask]:
    """The polled queue, at two intervals, and Procrastinate."""
    app = deferring_app(project.environment["SUPABASE_DB_URL"])
    await opened.enter_async_context(world.baseline("procrastinate_worker", project, model))
    await opened.enter_async_context(app.open_async())
    deferrer = app.configure_task(TASK, queue=QUEUE, allow_unknown=True)

    async def ask_procrastinate(text: str) -> Where:
        await deferrer.defer_async(text=text, chat_id=chat, user_id=person.id)
        return None

    async def polled(seconds: float) -> Ask:
        topic = f"every {seconds:g} s"
        arguments = ("--seconds", seconds, "--topic", topic)
        await opened.enter_async_context(world.baseline("polling_worker", project, model, *arguments))

        async def ask_queue(text: str) -> Where:
            row = {"topic": topic, "message": {"text": text, "chat_id": chat, "user_id": person.id}}
            await person.client.table("queue").insert(row, returning=ReturnMethod.minimal).execute()
            return None

        return ask_queue

    return {
        "procrastinate": ask_procrastinate,
        "polled every 0.1 s": await polled(0.1),
        "polled every 1 s": await polled(1.0),
    }
