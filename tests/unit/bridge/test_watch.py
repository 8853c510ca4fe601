"""When a worker looks for questions that nobody may have confirmed."""

from __future__ import annotations

import asyncio
import time

import pytest

from bridge import watch
from bridge.watch import Watch
from tests.support.waiting import until


class Looks:
    """A watch with short times, what it knows, and when it looked."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.at: list[float] = []
        self.watch = Watch(self.known.__contains__, lambda: self.at.append(time.monotonic()))

    @property
    def is_done(self) -> bool:
        return self.watch._timer is None


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    for name, seconds in {"LOOK_SECONDS": 0.1, "ALONE_SECONDS": 0.02, "PAUSE_SECONDS": 0.3}.items():
        monkeypatch.setattr(watch, name, seconds)
    return Looks()


async def test_question_that_becomes_known_needs_no_look(looks: Looks) -> None:
    looks.known.add("before")
    looks.watch.note(["before"], is_alone=False)
    assert looks.is_done
    looks.watch.note(["after"], is_alone=False)
    looks.known.add("after")
    await until(lambda: looks.is_done, within=5)
    assert looks.at == []


@pytest.mark.parametrize(("is_alone", "seconds"), [(False, 0.1), (True, 0.02)])
async def test_unknown_question_is_looked_for_once(looks: Looks, is_alone: bool, seconds: float) -> None:
    began = time.monotonic()
    looks.watch.note(["q"], is_alone=is_alone)
    looks.watch.note(["q"], is_alone=is_alone)
    await until(lambda: looks.is_done, within=5)
    (looked_at,) = looks.at
    assert looked_at - began >= seconds * 0.9


async def test_many_questions_lead_to_few_looks_and_none_is_left_out(looks: Looks) -> None:
    began = time.monotonic()
    for number in range(60):
        looks.watch.note([str(number)], is_alone=False)
        await asyncio.sleep(0.01)
    last = time.monotonic()
    await until(lambda: looks.is_done, within=5)
    assert len(looks.at) <= (time.monotonic() - began) / 0.3 + 1
    assert looks.at[-1] >= last + 0.1 * 0.8  # the last question's lease has ended too


async def test_questions_remembered_are_bounded(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST", 3)
    looks.watch.note([str(number) for number in range(10)], is_alone=False)
    assert len(looks.watch._questions) == 3
    looks.watch.close()
    assert looks.is_done
