"""A handler for tests that does what its question says, to name in BRIDGE_HANDLERS: `Walk`.

The question is a JSON list of operations, each a list: its name and what it is about.

    ["text", "Hello. "]          yield a text
    ["data", {"n": 1}]           yield data
    ["step", "a"]                a step; ["once", "a"] one that may run once only; one named held… waits, see below
    ["tool", "a"]                a step that is shown
    ["fail", "a", 2]             a step that fails in its first two tries
    ["refuse", "a"]              a step that fails for good, which the handler catches
    ["odd", "a"]                 a step that gives what is not JSON
    ["die", "a"]                 a step that ends its process
    ["both", [op, op]]           operations side by side
    ["done", [op, op]]           … and a text whenever one of them has ended
    ["ask", "a"]                 a question to the user
    ["sleep", "a", 0.1]          a pause
    ["run", "Walk", [op]]        another reply
    ["show", {"type": …}]        a part
    ["say", "…"] ["call", "…"]   a call of `Chat` with this message

Each try of a step adds a line to the file AGENT_LEDGER: question, attempt, name, key. Files beside it, with the names
of steps as suffixes, let them go on: those named held… wait for theirs, and those that end their process do so while
there is none.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Any

from bridge import MaybeDone, NoAnswer, ToolFailed, Turn, handler, step_key
from tests.support.waiting import until

Operation = list[Any]
_tries: Counter[str] = Counter()


def note(turn: Turn, name: str) -> None:
    """Add a try of a step to the ledger."""
    _tries[step_key()] += 1
    if path := os.environ.get("AGENT_LEDGER"):
        line = json.dumps([turn.question_id, turn.attempt, name, step_key()]) + "\n"
        ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(ledger, line.encode())
        os.close(ledger)


def may_go_on(name: str) -> bool:
    """Whether the file of a step exists."""
    return Path(f"{os.environ['AGENT_LEDGER']}.{name}").exists()


def tries() -> int:
    """How often the step that runs was tried: in all processes, if there is a ledger."""
    if path := os.environ.get("AGENT_LEDGER"):
        return Path(path).read_text().count(step_key())
    return _tries[step_key()]


@handler("Walk")
async def walk(turn: Turn) -> AsyncGenerator[Any, None]:
    """Do what the question says."""
    for operation in json.loads(turn.message):
        match operation:
            case ["text", text]:
                yield text
            case ["data", data]:
                yield data
            case ["show", part]:
                turn.show(part)
            case ["both", several]:
                results = await asyncio.gather(*(act(turn, one) for one in several))
                yield f"[{' '.join(map(str, results))}] "
            case ["done", several]:
                for ended in asyncio.as_completed([act(turn, one) for one in several]):
                    yield f"<{await ended}> "
            case _:
                yield f"{await act(turn, operation)} "


def act(turn: Turn, operation: Operation) -> Awaitable[Any]:
    """What an operation that gives a result does."""
    match operation:
        case ["step", name]:
            return turn.step(name, work, turn, name)
        case ["once", name]:
            return once(turn, name)
        case ["tool", name]:
            return turn.tool(name, shown(turn, name), about=name)
        case ["fail", name, tries]:
            return turn.step(name, fail, turn, name, tries)
        case ["refuse", name]:
            return refused(turn, name)
        case ["odd", name]:
            return turn.step(name, odd, turn, name)
        case ["die", name]:
            return turn.step(name, die, turn, name)
        case ["ask", name]:
            return asked(turn, name, None)
        case ["ask", name, within]:
            return asked(turn, name, within)
        case ["sleep", name, seconds]:
            return slept(turn, name, seconds)
        case ["run", function, message]:
            return run(turn, function, message)
        case ["say", message]:
            return say(turn, message)
        case ["call", message]:
            return call(turn, message)
        case _:
            raise ValueError(f"no such operation: {operation}")


async def work(turn: Turn, name: str) -> str:
    note(turn, name)
    if name.startswith("slow"):
        await asyncio.sleep(1)
    if name.startswith("held"):
        await until(lambda: may_go_on(name), 60)
    return f"{name}!"


def shown(turn: Turn, name: str) -> Any:
    async def use(about: str) -> str:
        return await work(turn, name)

    return use


async def fail(turn: Turn, name: str, times: int) -> str:
    note(turn, name)
    if tries() <= times:
        raise ConnectionError(name)
    return f"{name}!"


async def odd(turn: Turn, name: str) -> Any:
    note(turn, name)
    return object()


async def die(turn: Turn, name: str) -> str:
    note(turn, name)
    if not may_go_on(name):
        os._exit(7)
    return f"{name}!"


async def refused(turn: Turn, name: str) -> str:
    async def refuse() -> str:
        note(turn, name)
        raise ToolFailed(f"no {name}")

    try:
        return str(await turn.step(name, refuse))
    except ToolFailed as error:
        return str(error)


async def once(turn: Turn, name: str) -> str:
    try:
        return str(await turn.step(name, work, turn, name, once=True))
    except MaybeDone:
        return f"{name}?"


async def asked(turn: Turn, name: str, within: float | None) -> str:
    try:
        answer = await turn.ask(name, f"May I {name}?", within=within)
    except NoAnswer:
        return f"{name}…"
    return f"{name}:{'yes' if answer.approved else 'no'}"


async def slept(turn: Turn, name: str, seconds: float) -> str:
    await turn.sleep(name, seconds)
    return f"{name}."


async def run(turn: Turn, function: str, message: Any) -> str:
    try:
        reply = await turn.run(function, message if isinstance(message, str) else json.dumps(message))
    except ToolFailed as error:
        return f"({error})"
    return f"({reply.content})"


async def say(turn: Turn, message: str) -> str:
    b = _client()
    return f"/{len(await turn.say(b.Chat, [], message, [], [], [], []))}/"


async def call(turn: Turn, message: str) -> str:
    b = _client()
    return f"/{await turn.call(b.Chat, [], message, [], [], [], [])}/"


def _client() -> Any:
    return importlib.import_module("baml_client").b
