"""An event loop whose time passes only while nothing else can happen: what sleeps for a day ends at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")


class Deadlock(Exception):
    """Every task waits, and no time is set at which one would go on."""


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, it lets the time pass."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise Deadlock
        self.passed += max(timeout, 0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._timeless = _Selector()
        super().__init__(self._timeless)

    def time(self) -> float:
        return self._timeless.passed


def run(main: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine to its end. Raises Deadlock, and AssertionError if a task is left."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(_leave_nothing(main))


async def _leave_nothing(main: Coroutine[Any, Any, Value]) -> Value:
    value = await main
    await asyncio.sleep(1000)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, [task.get_stack() for task in left]
    return value
