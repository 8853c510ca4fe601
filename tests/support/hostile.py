"""A generator of replies that mean harm: to stall a worker, end it, or fill its memory. A number gives each again.

What the model said is deep, wide, long, escaped, or several of these. What the provider sends is endless, empty, huge,
or no answer at all. None is given twice in the same pieces.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from tests.support.raw_provider import Refusal, Sent, raw_provider
from tests.support.wire import chunk

LONGEST = 1_500_000  # characters of what a model said; more than a reply may have

_UNITS: dict[str, tuple[str, ...]] = {
    "deep": ("[", "{", '{"reply":', '{"files":[', '[[{"a":', '{"files":[{"path":"a","content":"b"},', "['", '["a",['),
    "wide": ("[],", "{},", "1,", '"a",', "null,", '{"path":"a","content":"b"},', '{"reply":"a","files":[]}\n', "a b, "),
    "quoted": ('"', "'", "`", '\\"', "\\", "\\\\", '" ', '",', '": ', '"a":"b",', "\\u00df", "\\ud83d", "\\n", "\\u"),
    "commented": ("/*", "//\n", "//", "# ", "*/", "/* */"),
    "fenced": ("```", "```json\n{}\n```\n", "```json\n", "~~~\n", "```json\n[1,2]\n```"),
    "tagged": ("<think>", "</think>", "<think></think>", "</think>\n", "[THINK]", "<|channel|>analysis", "<thought> "),
    "blank": (" ", "\n", "\t", "\r\n", ' \n"', ", \n"),
    "long": ("word ", "wörter ", "字", "😀", "9", "a", "\ufdd0", "\u2028", "- 1e999 "),
}
_HEADS = ("", "", '{"reply":"', '{"reply":"a","files":[', '{"reply":', "[", "Here it is:\n", "```json\n{", "<think>")
_TAILS = ("", "", "", '"}', "]}", '","files":[]}', "\n```", "</think>")


def said(random: random.Random) -> str:
    """What a hostile model said."""
    text = random.choice(_HEADS)
    for _ in range(random.choice((1, 1, 2, 4))):
        kind = random.choice(list(_UNITS))
        unit = "".join(random.choice(_UNITS[kind]) for _ in range(random.choice((1, 1, 1, 2, 5))))
        text += unit * min(int(10 ** random.uniform(0, 5.5)), LONGEST // len(unit))
        if random.random() < 0.2:  # closed again, as a valid structure would be
            text += "".join({"[": "]", "{": "}"}.get(c, "") for c in reversed(text[-5000:]))
    return (text + random.choice(_TAILS))[:LONGEST]


def _pieces(random: random.Random, text: str) -> Iterator[str]:
    size = max(1, len(text) // random.choice((1, 3, 20, 150)))
    return (text[at : at + size] for at in range(0, len(text), size))


def _chunk(text: str, reason: str | None = None) -> str:
    return json.dumps(chunk({"content": text}, reason), ensure_ascii=random.getrandbits(1) == 1)


def _answer(random: random.Random) -> Sent:
    events = [_chunk(piece) for piece in _pieces(random, said(random))]
    end = random.choice((["stop"], ["stop"], ["stop"], ["length"], []))
    events += [_chunk("", reason) for reason in end] + ["[DONE]"] * len(end)
    return Sent(events, at_once=random.random() < 0.5, is_cut=random.random() < 0.1)


def _endless(random: random.Random) -> Sent:
    piece = "".join(random.choice(("a", "字", "[1,", '"', "\\", "word ", "</think>")) for _ in range(3))
    delta = random.choice((
        {"content": piece * 1000}, {"content": piece * 20}, {"content": ""}, {}, {"reasoning_content": piece * 100},
        {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": piece * 50}}]}, {"refusal": piece},
    ))  # fmt: skip
    return Sent(itertools.repeat(json.dumps(chunk(delta))))


def _pings(random: random.Random) -> Sent:
    return Sent(itertools.repeat(": ping" + "g" * random.choice((0, 90, 5000))))


def _huge_event(random: random.Random) -> Sent:
    size = int(10 ** random.uniform(5, 6.3))
    events = (
        _chunk("a" * size, "stop"),
        json.dumps({**chunk({"content": "a"}), "extra": ["b"] * (size // 5)}),
        json.dumps(chunk({"content": "a"}))[:-1] + ',"usage":{"prompt_tokens":' + "9" * (size // 20) + "}}",
        json.dumps({**chunk({"content": "a"}), "usage": {"completion_tokens": "9" * size, "total_tokens": 1e308}}),
        '{"choices":' * (size // 12),
        "x" * size,
        json.dumps({"error": {"message": "too long " * (size // 9), "code": "a" * 1000}}),
    )
    return Sent([random.choice(events), "[DONE]"])


def _snapshots(random: random.Random) -> Sent:
    """Each event has the whole text so far, as some proxies send it."""
    whole = {**chunk({}), "choices": [{"index": 0, "message": {"content": "a" * random.randint(1, 900_000)}}]}
    piece = {**chunk({}), "choices": [{"index": 0, "message": {"content": "b"}}]}
    return Sent([json.dumps(whole), *[json.dumps(piece)] * random.randint(1, 20_000)])


def _nothing(random: random.Random) -> Sent | Refusal:
    return random.choice((
        Sent(), Sent(["[DONE]"]), Sent([""] * 1000 + ["[DONE]"]), Sent(stays_open=True), Sent(is_cut=True),
        Refusal(500, "x" * 1_000_000), Refusal(400, '{"error":{"message":' + '"a' * 200_000),
        Refusal(200, "[" * 100_000),
        Sent([_chunk("", "stop"), "[DONE]"]), Sent([_chunk(" \n" * 1000, "stop"), "[DONE]"]),
    ))  # fmt: skip


_REPLIES: tuple[tuple[float, Callable[[random.Random], Sent | Refusal]], ...] = (
    (0.84, _answer),
    (0.04, _endless),
    (0.02, _pings),
    (0.04, _huge_event),
    (0.02, _snapshots),
    (0.04, _nothing),
)


def reply(seed: int) -> Sent | Refusal:
    """The reply with this number."""
    chosen = random.Random(seed)
    (make,) = chosen.choices([make for _, make in _REPLIES], [weight for weight, _ in _REPLIES])
    return make(chosen)


_NUMBER = re.compile(r"hostile (\d+)\.")


def is_asked_for(body: str) -> bool:
    """Whether a request asks for a hostile reply: its question is `hostile 7.`."""
    return _NUMBER.search(body) is not None


def _choose(body: str) -> Sent | Refusal:
    found = _NUMBER.search(body)
    assert found is not None
    return reply(int(found[1]))


@asynccontextmanager
async def hostile_provider() -> AsyncIterator[str]:
    """A provider of hostile replies, in a process of its own: nothing else must wait while it makes them up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.hostile", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    os.setpriority(os.PRIO_PROCESS, process.pid, 19)  # it would not run on the worker's machine
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def _serve() -> None:
    async with raw_provider() as provider:
        provider.choose = _choose
        print(provider.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the test ends, however it ends


if __name__ == "__main__":
    asyncio.run(_serve())
