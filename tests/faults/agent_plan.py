"""Questions of a chaos run for the handler `Walk` of tests/support/agents.py, and the replies that they must get."""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults.checker import Expected, Pieces
from tests.faults.load import TRANSIENT_FAULTS, WORDS, Question

QUESTIONS_PER_SESSION = 4
MOST_STEPS = 20
# Asks by the beginnings of their names: answered as soon as they are seen, near their deadline, or never.
ASKED, LATE, NEVER = "ask", "late", "never"
LATE_SECONDS = 1.0


def plan(count: int, seed: int) -> list[Question]:
    """All questions of a run, in order."""
    rng = random.Random(seed)
    sessions = max(1, count // QUESTIONS_PER_SESSION)
    return [_question(rng, n, rng.randrange(sessions)) for n in range(count)]


def _question(rng: random.Random, n: int, session: int) -> Question:
    walk = _Walk(rng, n)
    operations: list[Any] = [["text", f"m{n:05d} "]]
    most = min(MOST_STEPS, 1 + int(rng.expovariate(1 / 6)))
    while walk.steps < most:
        operations.append(walk.operation())
    error = None
    if rng.random() < 0.03:
        operations.append(["call", "[[error=400]]"])
        error = "model_refused"
    pieces = [piece for operation in operations for piece in pieces_of(operation)]
    expected = Expected(str(uuid.UUID(int=rng.getrandbits(128), version=4)), "", error=error, pieces=tuple(pieces))
    cancels = rng.uniform(0, 3) if rng.random() < 0.06 else None
    retries = rng.uniform(2, 15) if cancels is None and rng.random() < 0.03 else None
    return Question(session, json.dumps(operations), expected, cancels, retries, "Walk")


class _Walk:
    """Makes operations with names of their own, and counts their steps."""

    def __init__(self, rng: random.Random, n: int) -> None:
        self.steps = 0
        self._rng = rng
        self._n = n
        # by name: how often compared with the others
        self._kinds: dict[Callable[[], list[Any]], float] = {
            lambda: ["step", self._name(rng.choice(("step", "step", "step", "slow")))]: 6,
            lambda: ["tool", self._name("tool")]: 4,
            lambda: ["once", self._name("once")]: 2,
            lambda: ["fail", self._name("fail"), rng.choice((1, 1, 2))]: 0.7,
            lambda: ["refuse", self._name("refuse")]: 1,
            lambda: ["ask", self._name(ASKED)]: 1,
            lambda: ["ask", self._name(LATE), LATE_SECONDS]: 0.4,
            lambda: ["ask", self._name(NEVER), rng.uniform(0, 0.5)]: 0.3,
            lambda: ["sleep", self._name("nap"), round(rng.uniform(0, 1), 2)]: 1,
            lambda: ["say", self._model()]: 2,
            lambda: ["call", self._model()]: 1.5,
        }

    def operation(self) -> list[Any]:
        """Something to do, of one step or several."""
        chance = self._rng.random()
        if chance < 0.12:
            several = [self._act() for _ in range(self._rng.randrange(2, 5))]
            says = [act for act in several if act[0] == "say"]
            return ["both", [act for act in several if act not in says[1:]]]  # two texts at once have no order
        if chance < 0.15:
            self.steps += 1
            return ["run", "Walk", [["text", f"inner{self.steps} "], ["step", self._name("step")]]]
        if chance < 0.3:
            return ["text", f"{self._rng.choice(WORDS)} "]
        return self._act()

    def _act(self) -> list[Any]:
        (make,) = self._rng.choices(list(self._kinds), list(self._kinds.values()))
        return make()

    def _name(self, kind: str) -> str:
        self.steps += 1
        return f"{kind}{self.steps}"

    def _model(self) -> str:
        self.steps += 1
        text = " ".join(f"{self._rng.choice(WORDS)}{k}" for k in range(self._rng.randrange(3, 20)))
        fault = ""
        if self._rng.random() < 0.1:
            fault = f" {self._rng.choice(TRANSIENT_FAULTS).format(n=self._rng.randrange(4))} times=1"
        return f'[[delay={self._rng.choice((0, 0, 0.01, 0.03))}{fault} text="{text} ({self._n}.{self.steps})"]]'


def pieces_of(operation: list[Any]) -> Iterator[Pieces]:
    """What an operation adds to the reply, in order: each time one of several texts."""
    match operation:
        case ["text", text]:
            yield (text,)
        case ["both", several]:
            for act in several:
                yield from _streamed(act)
            results = itertools.product(*map(_results, several))
            yield tuple(f"[{' '.join(result)}] " for result in results)
        case _:
            yield from _streamed(operation)
            yield tuple(f"{result} " for result in _results(operation))


def _streamed(operation: list[Any]) -> Iterator[Pieces]:
    if operation[0] == "say":
        yield (_text_of(operation[1]),)


def _results(operation: list[Any]) -> tuple[str, ...]:
    match operation:
        case ["step" | "tool", name] | ["fail", name, _]:
            return (f"{name}!",)
        case ["once", name]:
            return f"{name}!", f"{name}?"
        case ["refuse", name]:
            return (f"no {name}",)
        case ["ask", name, *_] if name.startswith(NEVER):
            return (f"{name}…",)
        case ["ask", name]:
            return f"{name}:yes", f"{name}:no"
        case ["ask", name, _]:
            return f"{name}:yes", f"{name}:no", f"{name}…"
        case ["sleep", name, _]:
            return (f"{name}.",)
        case ["run", _, inner]:
            parts = [piece for one in inner for piece in pieces_of(one)]
            return tuple(f"({''.join(texts)})" for texts in itertools.product(*parts))
        case ["say", message]:
            return (f"/{len(_text_of(message))}/",)
        case ["call", message]:
            return (f"/{_text_of(message)}/",)
    raise ValueError(f"no such operation: {operation}")


def _text_of(message: str) -> str:
    """What the scripted model says to a message."""
    return message.partition('text="')[2].removesuffix('"]]')
