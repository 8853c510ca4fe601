"""Parsing structured answers: what is light is parsed here, what is heavy in a process of its own, the rest never.

baml-py's parser holds the GIL, and its time grows with the square of the structure (0.226.3). Measured on decoded text:
100 opening brackets take about 15 ms, 300 take 120, 1,000 take 1.4 s, and nested ones also 600 MB for 300; a value that
does not fit its type takes 0.15 ms. The length of strings hardly matters: 1 MB takes 30 ms.
"""

import re
import time
from contextlib import suppress
from types import ModuleType
from typing import Any

from bridge.baml.apart import parse_apart
from bridge.baml.escapes import TooHeavy, Weight, decode_and_weigh, read_json, restore, to_values, weigh_json
from bridge.baml.failures import bad_output
from bridge.baml.running import Running

LONGEST = 1_000_000  # characters of a structured answer
DEEPEST = 64  # levels; as deep as a reply's data can be stored
MOST_BRACKETS = 5_000  # beyond these numbers, the limits of `parse_apart` would be reached anyway
MOST_COMMAS = 50_000
# What is parsed on the event loop, in at most about 60 ms.
LIGHT_BRACKETS, LIGHT_COMMAS, LIGHT_FENCES, LIGHT_CHARACTERS = 100, 400, 60, 200_000
LIGHT_STEPS = 5_000  # of decoding, which take about 15 ms
LOOK_STEPS = 20_000  # of a look, which take about 15 ms
SLOW_SECONDS = 0.2  # after a partial parse took so long, none follows

_INSIDE = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.S)
_TOKEN = re.compile(r'[\[{\]}"]')


class Parser:
    """The parser of one answer of the BAML function `name` of a generated client."""

    def __init__(self, module: ModuleType, name: str, running: Running) -> None:
        self._module, self._name = module, name
        self._running = running
        self._look = _Look()
        self._is_light = True  # so far

    def partial(self, text: str) -> Any:
        """Return the JSON values of half an answer; None if they cannot be parsed yet, or would take too long.

        Raises BadOutput if the whole answer could not be parsed either.
        """
        if problem := self._look.feed(text):
            raise bad_output(problem)
        if not self._is_light or len(text) > LIGHT_CHARACTERS:
            return None
        try:
            decoded, weight = decode_and_weigh(text, partial=True, most=LIGHT_STEPS)
        except TooHeavy:
            self._is_light = False
            return None
        _check(weight)
        if not _is_light(weight):
            self._is_light = False
            return None
        started = time.thread_time()
        try:
            return restore(getattr(self._module.b.parse_stream, self._name)(decoded))
        except Exception:
            return None  # as is common for half a structure; if the whole cannot be parsed either, `whole` raises
        finally:
            self._is_light = time.thread_time() - started < SLOW_SECONDS

    async def whole(self, text: str) -> Any:
        """Return the JSON values of a whole answer. Raises BadOutput, or what baml-py raises."""
        while True:
            async with self._running.reading():
                if problem := self._look.feed(text):
                    raise bad_output(problem)
            if not self._look.is_behind:
                break
        parse = getattr(self._module.b.parse, self._name)
        heavy = 10 * MOST_BRACKETS + MOST_COMMAS  # unless it can be told
        async with self._running.reading():
            with suppress(TooHeavy):
                if (values := read_json(text)) is not None:
                    weight = weigh_json(values, MOST_BRACKETS, MOST_COMMAS)
                    _check(weight)
                    heavy = 10 * weight.brackets + weight.commas
                    if _is_light(weight) and len(text) <= LIGHT_CHARACTERS:
                        return to_values(parse(text))
                elif len(text) <= LIGHT_CHARACTERS:
                    decoded, weight = decode_and_weigh(text, most=LIGHT_STEPS)
                    _check(weight)
                    heavy = 10 * weight.brackets + weight.commas
                    if _is_light(weight):
                        return restore(parse(decoded))
        async with self._running.parsing.turn(heavy):
            return await parse_apart(self._module, self._name, text)


def _check(weight: Weight) -> None:
    if weight.depth > DEEPEST:
        raise bad_output(f"it is nested more than {DEEPEST} deep")
    if weight.brackets > MOST_BRACKETS or weight.commas > MOST_COMMAS:
        raise bad_output(f"it has more than {MOST_BRACKETS:,} objects or {MOST_COMMAS:,} values")


def _is_light(weight: Weight) -> bool:
    return weight.brackets <= LIGHT_BRACKETS and weight.commas <= LIGHT_COMMAS and weight.fences <= LIGHT_FENCES


class _Look:
    """A look at an answer as it grows, which reads each character once.

    It takes every quote for one of JSON, so it may miss what stands between quotes that are not; and it may lag behind
    an answer that comes at once. It ends answers early that will not be parsed; `Parser` does not rely on it.
    """

    def __init__(self) -> None:
        self._text = ""
        self.is_behind = False  # the next `feed` has to go on
        self._begin()

    def _begin(self) -> None:
        self._at = self._depth = self._brackets = 0
        self._is_inside = False

    def feed(self, text: str) -> str | None:
        """Read what was added to the text; why the answer will not be parsed, if so."""
        if len(text) > LONGEST:
            return f"it is longer than {LONGEST:,} characters"
        if not text.startswith(self._text):  # the provider repeated it in other words
            self._begin()
        self._text, at = text, self._at
        self.is_behind = False
        steps = 0
        while at < len(text):
            if (steps := steps + 1) > LOOK_STEPS:
                self.is_behind = True
                break
            if self._is_inside:
                found = _INSIDE.match(text, at)
                at = found.end() if found else at
                if at == len(text) or text[at] == "\\":  # half an escape
                    break
                self._is_inside, at = False, at + 1
                continue
            token = _TOKEN.search(text, at)
            if token is None:
                at = len(text)
                break
            at = token.end()
            if token[0] == '"':
                self._is_inside = True
            elif token[0] in "[{":
                self._brackets += 1
                self._depth += 1
                if self._depth > DEEPEST:
                    return f"it is nested more than {DEEPEST} deep"
                if self._brackets > 4 * MOST_BRACKETS:
                    return f"it has more than {MOST_BRACKETS:,} objects"
            else:
                self._depth -= 1  # also below zero: closing brackets of prose must not add up
        self._at = at
        return None
