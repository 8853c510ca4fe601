"""Handlers as trees of operations, and what each has to make of its reply.

What a handler writes differs from attempt to attempt, also how much it is, except beside what runs at the same time.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from bridge import Attachment, MaybeDone, NoAnswer, ToolFailed, Turn
from bridge.handlers import Handler
from tests.support.attempts import Attempts, Part, Row

Simple = Literal["step", "once", "tool", "broken", "call", "say", "yes", "no", "never", "sleep", "refuse", "fail"]
Emits = Literal["text", "data", "part", "state", "file"]
Together = Literal["gather", "completed", "group"]


@dataclass(frozen=True)
class Act:
    """A step, and whether it takes a moment until the handler comes to it."""

    kind: Simple
    name: str
    full: str  # with the number of this call of the name


@dataclass(frozen=True)
class Emit:
    """Something that the handler adds to the reply; `varies` between attempts, and in how much it is."""

    kind: Emits
    name: str
    varies: bool = False


Branch = tuple[Act | Emit, ...]


@dataclass(frozen=True)
class Both:
    """Branches side by side: their results are written when all have ended, or each when it has."""

    kind: Together
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Behind:
    """A branch in the background of other operations."""

    branch: Branch
    body: tuple[Operation, ...]


Operation = Act | Emit | Both | Behind
Walk = tuple[Operation, ...]
SIMPLE: Sequence[Simple] = Simple.__args__  # type: ignore[attr-defined]  # the values of a Literal


@st.composite
def walks(draw: st.DrawFn) -> Walk:
    """Any handler."""
    names: Counter[str] = Counter()

    def act(*, alone: bool) -> Act:
        kind = draw(st.sampled_from(SIMPLE))
        name = kind if alone and draw(st.booleans()) else f"{kind}{names.total()}"
        names[name] += 1
        return Act(kind, name, name if names[name] == 1 else f"{name}#{names[name]}")

    def emit(kinds: list[Emits], *, varies: bool) -> Emit:
        kind = draw(st.sampled_from(kinds))
        names["emit"] += 1
        return Emit(kind, f"{kind}{names.total()}", varies and kind in ("text", "data"))

    def branch() -> Branch:
        """Ends with a step: what ends in another way has no place that could be remembered."""
        before = tuple(
            emit(["part", "state"], varies=False) if draw(st.integers(0, 3)) == 0 else act(alone=False)
            for _ in range(draw(st.integers(0, 2)))
        )
        return (*before, act(alone=False))

    def operations(most: int, *, alone: bool) -> Walk:
        found: list[Operation] = []
        for _ in range(draw(st.integers(0, most))):
            match draw(st.sampled_from(["act", "act", "act", "emit", "emit", "both", "behind"])):
                case "act":
                    found.append(act(alone=alone))
                case "emit":
                    found.append(emit(["text", "text", "data", "part", "state", "file"], varies=alone))
                case "both":
                    kind = draw(st.sampled_from(Together.__args__))  # type: ignore[attr-defined]
                    found.append(Both(kind, tuple(branch() for _ in range(draw(st.integers(1, 4))))))
                case "behind" if alone:
                    found.append(Behind(branch(), operations(4, alone=False)))
        return tuple(found)

    return operations(8, alone=True)


def answers(walk: Walk) -> dict[str, Any]:
    """What the user answers to each question; None: nothing, ever."""
    return {
        act.full: {"yes": {"approved": True}, "no": {"approved": False}, "never": None}[act.kind]
        for act in acts(walk)
        if act.kind in ("yes", "no", "never")
    }


def acts(walk: Sequence[Operation]) -> Iterator[Act]:
    """All steps."""
    return (item for item in items(walk) if isinstance(item, Act))


def items(walk: Sequence[Operation]) -> Iterator[Act | Emit]:
    """All steps, and all that is added to the reply."""
    for operation in walk:
        match operation:
            case Both(_, branches):
                for branch in branches:
                    yield from branch
            case Behind(branch, body):
                yield from branch
                yield from items(body)
            case _:
                yield operation


# -- the handler ---------------------------------------------------------------------------------------------


def handler_of(walk: Walk) -> Callable[[Attempts], Handler]:
    """The handler that does this."""

    def bind(attempts: Attempts) -> Handler:
        def handler(turn: Turn) -> AsyncGenerator[Any, None]:
            return _walk(attempts, turn, walk)

        return handler

    return bind


async def _walk(attempts: Attempts, turn: Turn, walk: Walk) -> AsyncGenerator[Any, None]:
    for n, operation in enumerate(walk):
        attempts.happen()
        match operation:
            case Emit("text" | "data" as kind, name, varies):
                for piece in pieces(attempts, turn.attempt, name, varies=varies):
                    if kind == "data":
                        yield {"data": piece}
                    elif varies and attempts.chance(2, piece, "part") == 0:
                        turn.show({"type": "data-note", "data": piece})
                    else:
                        yield piece
            case Emit("file", name):
                yield Attachment(name, f"{name} {turn.attempt}".encode(), "text/plain")
            case Emit():
                await _show(attempts, turn, operation)
            case Both("gather", branches):
                results = await asyncio.gather(*_begin(attempts, turn, branches))
                yield "".join(results)
            case Both("completed", branches):
                for ended in asyncio.as_completed(_begin(attempts, turn, branches)):
                    yield await ended
                    if attempts.chance(2, turn.attempt, "slow", n) == 0:
                        await attempts.pause("completed", n)
            case Both("group", branches):
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(_branch(attempts, turn, branch)) for branch in branches]
                yield "".join(task.result() for task in tasks)
            case Behind(branch, body):
                task = asyncio.create_task(_branch(attempts, turn, branch))
                async for piece in _walk(attempts, turn, body):
                    yield piece
                yield await task
            case Act():
                yield await _act(attempts, turn, operation)


def pieces(attempts: Attempts, attempt: int, name: str, *, varies: bool) -> list[str]:
    """What is written at one place in an attempt."""
    if not varies:
        return [f"{name}:{n};" for n in range(2)]
    count = attempts.chance(3, attempt, name)
    return [f"{name}.{attempt}:{n}/{count}{'!' * attempts.chance(3, attempt, name, n)};" for n in range(count)]


async def _show(attempts: Attempts, turn: Turn, emit: Emit) -> None:
    if emit.kind == "part":
        turn.show({"type": "data-note", "data": f"{emit.name};"})
        return
    for n in range(3):
        turn.show({"type": "data-state", "id": emit.name, "data": n})
        await attempts.pause("state", emit.name, n)


def _begin(attempts: Attempts, turn: Turn, branches: Sequence[Branch]) -> list[asyncio.Task[str]]:
    """Begin branches, in each attempt in another order."""
    begun = sorted(range(len(branches)), key=lambda n: attempts.chance(99, turn.attempt, "order", n))
    tasks = {n: asyncio.create_task(_branch(attempts, turn, branches[n])) for n in begun}
    return [tasks[n] for n in range(len(branches))]


async def _branch(attempts: Attempts, turn: Turn, branch: Branch) -> str:
    results = []
    for item in branch:
        await attempts.pause("branch", item.name)
        if isinstance(item, Act):
            results.append(await _act(attempts, turn, item))
        else:
            await _show(attempts, turn, item)
    return "".join(results)


async def _act(attempts: Attempts, turn: Turn, act: Act) -> str:
    given = await _given(attempts, turn, act)
    attempts.note(act.full, given)
    return f"({given})"


async def _given(attempts: Attempts, turn: Turn, act: Act) -> str:
    name, full = act.name, act.full

    async def work() -> str:
        await attempts.effect(full, once=act.kind == "once")
        if act.kind in ("refuse", "broken"):
            raise ToolFailed(f"no {full} {turn.attempt}")
        attempts.tries[full] += 1
        if act.kind == "fail" and attempts.tries[full] <= 2:
            raise ConnectionError
        return f"{full} {turn.attempt}"

    match act.kind:
        case "step" | "fail" | "once":
            try:
                return str(await turn.step(name, work, once=act.kind == "once"))
            except MaybeDone:
                return f"{full}?"
        case "tool" | "refuse" | "broken":
            try:
                return str(await (turn.step(name, work) if act.kind == "refuse" else turn.tool(name, work)))
            except ToolFailed as error:
                return str(error)
        case "call" | "say":

            async def function() -> str:
                raise AssertionError

            function.__name__ = name
            text = f"<{full} {turn.attempt}>"
            return await (turn.say(function, text) if act.kind == "say" else turn.call(function, text))
        case "sleep":
            await turn.sleep(name, 5 + attempts.chance(50, name))
            return f"{full}."
        case _:
            try:
                answer = await turn.ask(name, full, within=30 if act.kind == "never" else 1000)
            except NoAnswer:
                return f"{full} never"
            return f"{full} {answer.approved}"


# -- what has to become of it --------------------------------------------------------------------------------


def check(walk: Walk, attempts: Attempts, row: Row) -> None:
    """The reply has everything once and in order, whatever has happened."""
    given = {name: values[-1] for name, values in attempts.seen.items()}
    assert set(given) == {act.full for act in acts(walk)}
    shown = [part for part in row.parts if part["type"] != "step-start"]
    _check_parts(walk, attempts, shown, given)
    loose = _loose(walk)
    text = "".join(_written(part, loose) for part in shown)
    closed = "".join(part["text"] for part in shown if part["type"] == "text")
    assert row.text.startswith(closed)
    text += row.text[len(closed) :]
    for said in (str(given[name]) for name in loose if name.startswith("say")):
        assert text.count(said) == 2, (text, said)  # where it was said, and as what it gave
        text = re.sub(rf"(?<!\(){re.escape(said)}", "", text, count=1)
    rest = _match(walk, attempts, given, loose, text)
    assert rest == "", (rest, text)
    _check_data(walk, attempts, row)
    _check_cuts(attempts, row)


def _check_data(walk: Walk, attempts: Attempts, row: Row) -> None:
    """The data is what was written last. Of what varies, an attempt may write none; that of one before it stays."""
    allowed: set[str | None] = {None}
    for item in _main(walk):
        if isinstance(item, Emit) and item.kind == "data" and item.varies:
            for attempt in range(1, attempts.attempt + 1):
                allowed |= set(pieces(attempts, attempt, item.name, varies=True))
        elif isinstance(item, Emit) and item.kind == "data":
            allowed = {pieces(attempts, 0, item.name, varies=False)[-1]}
    assert (row.data and row.data["data"]) in allowed


def _check_cuts(attempts: Attempts, row: Row) -> None:
    """Wherever an attempt could have begun, a part of the type `step-start` follows, or nothing."""
    kinds = [part["type"] for part in row.parts]
    assert ("step-start", "step-start") not in itertools.pairwise(kinds)
    for text, chars, count in attempts.database.kept:
        closed = sum(len(part["text"]) for part in row.parts[:count] if part["type"] == "text")
        if closed < chars:
            assert row.parts[count]["text"] == text[closed:]
            count += 1
        assert not count or kinds[count : count + 1] in ([], ["step-start"]), (kinds, text, count)


def _main(walk: Sequence[Operation]) -> Iterator[Operation]:
    for operation in walk:
        yield operation
        if isinstance(operation, Behind):
            yield from _main(operation.body)


def _loose(walk: Walk) -> set[str]:
    """What is shown beside other things."""
    loose = set()
    for operation in _main(walk):
        branches = operation.branches if isinstance(operation, Both) else ()
        if isinstance(operation, Behind):
            branches = (operation.branch,)
        loose |= {item.full if isinstance(item, Act) else item.name for branch in branches for item in branch}
    return loose


def _written(part: Part, loose: set[str]) -> str:
    """A part as it is seen in its place."""
    if part["type"] == "text":
        return str(part["text"])
    if part["type"] == "data-note":
        return "" if str(part["data"]).rstrip(";") in loose else str(part["data"])
    if part["type"] == "file":
        return f"[{part['filename']}]"
    key = part.get("toolCallId") or part["id"]
    return "" if key in loose else f"[{key}]"


def _check_parts(walk: Walk, attempts: Attempts, shown: list[Part], given: dict[str, Any]) -> None:
    keys = Counter(part.get("toolCallId") or part.get("id") or part.get("data") for part in shown)
    del keys[None]
    assert not keys or max(keys.values()) == 1, keys
    parts = {part.get("toolCallId") or part.get("id"): part for part in shown}
    for act in acts(walk):
        part = parts.get(act.full)
        match act.kind:
            case "tool":
                assert part is not None
                assert (part["state"], part["output"]) == ("output-available", given[act.full])
            case "broken":
                assert part is not None
                assert (part["state"], part["errorText"]) == ("output-error", given[act.full])
            case "yes" | "no":
                assert part is not None
                assert (part["state"], part["output"]) == ("output-available", attempts.answers[act.full])
            case "never":
                assert part is not None
                assert part["state"] == "output-error"
            case _:
                assert part is None
    for item in items(walk):
        if isinstance(item, Emit) and item.kind == "part":
            assert keys[f"{item.name};"] == 1
        elif isinstance(item, Emit) and item.kind == "state":
            assert parts[item.name]["data"] == 2
        elif isinstance(item, Emit) and item.kind == "file":
            (file,) = (part for part in shown if part.get("filename") == item.name)
            assert file["mediaType"] == "text/plain"
            assert attempts.objects[file["url"]].startswith(f"{item.name} ".encode())


def _match(walk: Walk, attempts: Attempts, given: dict[str, Any], loose: set[str], text: str) -> str:
    """Read what the operations have written; return the rest of the text."""

    def read(expected: str) -> None:
        nonlocal text
        assert text.startswith(expected), (expected, text)
        text = text[len(expected) :]

    def results(branch: Branch) -> str:
        return "".join(f"({given[item.full]})" for item in branch if isinstance(item, Act))

    for operation in walk:
        match operation:
            case Emit("text", name, varies=True):
                counts = [attempts.chance(3, attempt, name) for attempt in range(1, attempts.attempt + 1)]
                begun = re.match(rf"{name}\.(\d+):", text)
                if begun is None:
                    assert 0 in counts, (name, text)
                else:
                    read("".join(pieces(attempts, int(begun[1]), name, varies=True)))
            case Emit("text", name):
                read("".join(pieces(attempts, 0, name, varies=False)))
            case Emit("part", name):
                read(f"{name};")
            case Emit("state" | "file", name):
                read(f"[{name}]")
            case Both("completed", branches):
                left = [results(branch) for branch in branches]
                for _ in branches:
                    found = next((result for result in left if text.startswith(result)), "")
                    assert found, (left, text)
                    left.remove(found)
                    read(found)
            case Both(_, branches):
                read("".join(map(results, branches)))
            case Behind(branch, body):
                text = _match(body, attempts, given, loose, text)
                read(results(branch))
            case Act(kind, _, full):
                if kind in ("tool", "broken", "yes", "no", "never"):
                    read(f"[{full}]")
                elif kind == "say":
                    read(given[full])
                read(f"({given[full]})")
    return text
