"""Structures are parsed one after the other, the lightest first."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from bridge.baml.running import Turns


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12))
def test_lightest_is_next_and_nobody_is_forgotten(waiting: list[tuple[int, bool]]) -> None:
    """Each with a weight, and whether it is cancelled while it waits."""

    async def run() -> None:
        turns = Turns()
        order: list[int] = []
        running = 0
        begin = asyncio.Event()

        async def first() -> None:
            async with turns.turn(0):
                await begin.wait()

        async def take(weight: int) -> None:
            nonlocal running
            async with turns.turn(weight):
                running += 1
                assert running == 1
                order.append(weight)
                await asyncio.sleep(0)
                running -= 1

        holder = asyncio.create_task(first())
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(take(weight)) for weight, _ in waiting]
        await asyncio.sleep(0)
        for task, (_, is_cancelled) in zip(tasks, waiting, strict=True):
            if is_cancelled:
                task.cancel()
        begin.set()
        await asyncio.wait_for(asyncio.gather(holder, *tasks, return_exceptions=True), 5)
        assert order == sorted(weight for weight, is_cancelled in waiting if not is_cancelled)
        async with asyncio.timeout(1), turns.turn(0):
            pass

    asyncio.run(run())


async def test_turn_that_is_cancelled_as_it_comes_is_passed_on() -> None:
    turns = Turns()
    async with turns.turn(0):
        waiting = asyncio.create_task(_take(turns))
        last = asyncio.create_task(_take(turns))
        await asyncio.sleep(0)
    waiting.cancel()  # it has been given the turn, and has not run yet
    async with asyncio.timeout(1):
        await last
    assert waiting.cancelled()


async def _take(turns: Turns) -> None:
    async with turns.turn(0):
        pass
