"""Structures are parsed one after the other, heavy ones as if they had come later; replies are read in turns."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import MagicMock, patch

from hypothesis import given
from hypothesis import strategies as st

from bridge.baml.running import ARE_KEPT, GO_BACK, READ_TURN, WEIGHT_A_SECOND, Running, Turns
from tests.support.waiting import turns_of_the_loop


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), min_size=1, max_size=12))
def test_order_is_that_of_arrival_and_weight_and_nobody_is_forgotten(waiting: list[tuple[int, int, bool]]) -> None:
    """Each with its weight in seconds, how long after the one before it came, and whether it is cancelled."""

    async def run() -> None:
        now = 0.0
        turns = Turns(lambda: now)
        order: list[float] = []
        running = 0
        begin = asyncio.Event()

        async def first() -> None:
            async with turns.turn(0):
                await begin.wait()

        async def take(weight: int, due: float) -> None:
            nonlocal running
            async with turns.turn(weight * WEIGHT_A_SECOND):
                running += 1
                assert running == 1
                order.append(due)
                await asyncio.sleep(0)
                running -= 1

        holder = asyncio.create_task(first())
        await asyncio.sleep(0)
        tasks, expected = [], []
        for weight, after, is_cancelled in waiting:
            now += after
            tasks.append(asyncio.create_task(take(weight, now + weight)))
            expected += [] if is_cancelled else [now + weight]
            await asyncio.sleep(0)
        for task, (*_, is_cancelled) in zip(tasks, waiting, strict=True):
            if is_cancelled:
                task.cancel()
        begin.set()
        await asyncio.wait_for(asyncio.gather(holder, *tasks, return_exceptions=True), 5)
        assert order == sorted(expected)
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


async def test_what_comes_at_once_is_read_in_several_turns_of_the_loop() -> None:
    running = Running()
    read: list[int] = []

    async def take() -> None:
        await running.may_read()
        read.append(turn())
        running.spend(READ_TURN * 0.6)

    with turns_of_the_loop() as turn:
        async with asyncio.timeout(5):
            await asyncio.gather(*(take() for _ in range(10)))
    assert sorted(read) == read
    assert [read.count(number) for number in dict.fromkeys(read)] == [2] * 5  # the second goes beyond the time


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["begin", "sent", "end", "fail", "late"])), max_size=20))
def test_memory_is_kept_exactly_while_calls_with_large_arguments_begin(moves: list[tuple[int, str]]) -> None:
    async def run() -> None:
        running = Running()
        thresholds: dict[int, int] = {}  # glibc does not tell them
        running._memory._mallopt = thresholds.__setitem__
        calls: dict[int, Any] = {}
        waiting: set[int] = set()
        with patch.object(asyncio.get_running_loop(), "call_later", late := MagicMock()):
            for which, move in moves:
                if move == "begin" and which not in calls:
                    block = running.copying(1000 if which == 0 else 14_000_000)
                    calls[which] = block, block.__enter__()
                    waiting |= {which} - {0}
                elif move == "sent" and which in calls:
                    calls[which][1]()
                    waiting.discard(which)
                elif move in ("end", "fail") and which in calls:
                    block, _ = calls.pop(which)
                    block.__exit__(*((ValueError, ValueError(), None) if move == "fail" else (None, None, None)))
                    waiting.discard(which)
                elif move == "late":  # the providers take long to begin
                    for call in late.call_args_list:
                        call.args[1]()
                    waiting.clear()
                assert tuple(thresholds.values() or GO_BACK) == (ARE_KEPT if waiting else GO_BACK)

    asyncio.run(run())
