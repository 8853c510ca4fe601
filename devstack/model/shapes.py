"""The shape that a prompt asks for, whatever notation it was written in, and a plausible value of that shape."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# How many values a sample may have before it takes the shortest way to its end, and how often a type may be inside
# itself. Without these, types that name each other would fill the memory.
MOST_VALUES = 300
MOST_NESTED = 2
ITEMS = 2


@dataclass(frozen=True, slots=True)
class Scalar:
    """`string`, `int`, `float`, `bool` or `null`.

    `low` and `high` bound a number, or a string's length. `hint` says what a string is: `email`, `date`.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Literal:
    """One exact value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Array:
    """A list; `least` and `most` bound its length."""

    item: Shape
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Mapped:
    """A map. Only keys of a fixed set need a shape; other keys are strings."""

    key: Shape
    value: Shape


@dataclass(frozen=True, slots=True)
class Record:
    """An object with these fields; those that are `optional` may be left out."""

    fields: Mapping[str, Shape]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several shapes. The first that is not null is preferred."""

    options: Sequence[Shape]


@dataclass(frozen=True, slots=True)
class Named:
    """A shape that is defined elsewhere, by name."""

    name: str


Shape = Scalar | Literal | Array | Mapped | Record | Choice | Named


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a prompt asks for: a shape, and the definitions that it names."""

    shape: Shape
    definitions: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def top(self) -> Shape:
        """The shape, with its own name and a choice of nothing resolved."""
        shape = self.shape
        for _ in range(1 + len(self.definitions)):
            if isinstance(shape, Choice) and len(solid := _solid(shape)) == 1:
                shape = solid[0]
            elif isinstance(shape, Named) and shape.name in self.definitions:
                shape = self.definitions[shape.name]
        return shape

    def resolve(self, shape: Shape) -> Shape:
        """The shape, or what its name stands for."""
        return self.definitions.get(shape.name, shape) if isinstance(shape, Named) else shape


class _Endless(Exception):
    """A type contains itself, without a way out."""


def sample(wanted: Wanted, question: str, instructions: str = "") -> Any:
    """Return a value of the wanted shape. Text is made of the fields' names and of the question's words.

    An address or a path is the first in the question or in the instructions, which may list those that there are.
    """
    try:
        return _Sampler(wanted.definitions, " ".join(question.split()), instructions).value(wanted.shape, "", ())
    except _Endless:
        return {}


class _Sampler:
    def __init__(self, definitions: Mapping[str, Shape], question: str, instructions: str) -> None:
        self._definitions = definitions
        self._mentioned = f"{question}\n{instructions}"
        self._question = question if len(question) <= 200 else question[:199] + "…"
        self._values = 0

    def value(self, shape: Shape, name: str, inside: tuple[str, ...], number: int = 0) -> Any:
        self._values += 1
        match shape:
            case Literal(value):
                return value
            case Scalar():
                return self._scalar(shape, name, number)
            case Named(called):
                return self._named(called, name, inside, number)
            case Record(fields, optional):
                return self._record(fields, optional, inside, number)
            case Array(item, least, most):
                wanted = min(ITEMS, most) if most is not None else ITEMS
                return self._several(item, name, inside, max(least, wanted), least)
            case Mapped(key, value):
                return self._map(key, value, name, inside)
            case Choice():
                return self._first(shape, name, inside, number)

    def _scalar(self, scalar: Scalar, name: str, number: int) -> Any:
        low, high = scalar.low, scalar.high
        match scalar.kind:
            case "string":
                text = self.text(scalar.hint if scalar.hint in _EXACT else name, number)
                text = text.ljust(int(low or 0), "x")
                return text if high is None else text[: int(high)]
            case "int":
                whole = 2026 if name.lower().endswith("year") else number + 1
                return int(_within(whole, low and math.ceil(low), high and math.floor(high)))
            case "float":
                return _within(number + 0.5, low, high)
            case kind:
                return True if kind == "bool" else None

    def _named(self, called: str, name: str, inside: tuple[str, ...], number: int) -> Any:
        if called not in self._definitions or inside.count(called) >= (MOST_NESTED if self._is_roomy else 1):
            raise _Endless
        return self.value(self._definitions[called], name, (*inside, called), number)

    @property
    def _is_roomy(self) -> bool:
        return self._values < MOST_VALUES

    def _record(
        self, fields: Mapping[str, Shape], optional: frozenset[str], inside: tuple[str, ...], number: int
    ) -> dict[str, Any]:
        found = {}
        for key, inner in fields.items():
            try:
                found[key] = self.value(inner, key, inside, number)
            except _Endless:
                if key not in optional:
                    raise
        return found

    def _several(self, item: Shape, name: str, inside: tuple[str, ...], count: int, least: int) -> list[Any]:
        found: list[Any] = []
        for number in range(count):
            if not self._is_roomy and number >= least:
                break
            try:
                found.append(self.value(item, _singular(name), inside, number))
            except _Endless:
                break
        return found

    def _map(self, key: Shape, value: Shape, name: str, inside: tuple[str, ...]) -> dict[str, Any]:
        if not self._is_roomy:
            return {}
        try:
            named = self.value(key, "key", inside) if isinstance(key, Named | Choice | Literal) else _singular(name)
            return {str(named or "key"): self.value(value, name, inside)}
        except _Endless:
            return {}

    def _first(self, choice: Choice, name: str, inside: tuple[str, ...], number: int) -> Any:
        options = [*_solid(choice), *(option for option in choice.options if _is_null(option))]
        if all(isinstance(option, Literal) for option in options):
            number %= len(options)
            return self.value(options[number], name, inside)
        if not self._is_roomy:
            options.sort(key=lambda option: not isinstance(option, Scalar | Literal))
        for option in options:
            try:
                return self.value(option, name, inside, number)
            except _Endless:
                continue
        raise _Endless

    def text(self, name: str, number: int) -> str:
        plain = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-]+", " ", name).lower().strip()
        last = plain.rpartition(" ")[2]
        if last in _FOUND and (found := _FOUND[last].findall(self._mentioned)):
            return str(found[min(number, len(found) - 1)])
        if last in _EXACT:
            return _EXACT[last]
        if self._question and last in _ASKED:
            return self._question if number == 0 else f"{self._question} ({number + 1})"
        if self._question and last in _STEPS:
            return (f"Look into “{self._question}”", "Check what was found", "Write the answer")[min(number, 2)]
        count = f" {number + 1}" if number else ""
        if last in ("title", "name", "subject", "topic", "headline", "label"):
            words = re.findall(r"[\w'’-]+", self._question)[:5]
            return (" ".join(words)[:60] or f"Sample {plain}") + count
        if not plain or last in _LONG:
            said = f" You wrote: “{self._question}”" if self._question else ""
            return f"This is sample data from the demo model.{said}{count}"
        return f"sample {plain}{count}"


# What a field is called that repeats the question, or plans an answer to it.
_ASKED = ("query", "question", "search", "goal", "task", "objective", "request", "input", "keywords")
_STEPS = ("step", "todo", "action", "instruction")
_URL = re.compile(r"https?://[^\s<>\"'`)\]]+[^\s<>\"'`)\].,;:!?]")
_PATH = re.compile(r"(?<![\w/.@:-])(?:[\w-]+/)*[\w-]+\.[A-Za-z]\w{0,9}(?![\w/@])")
_FOUND = {"url": _URL, "link": _URL, "website": _URL, "path": _PATH, "file": _PATH, "filename": _PATH}

_LONG = ("reply", "answer", "response", "summary", "text", "message", "description", "body", "content", "explanation")
_EXACT = {
    "email": "ada@example.com",
    "url": "https://example.com/",
    "link": "https://example.com/",
    "website": "https://example.com/",
    "phone": "+1 555 0100",
    "date": "2026-01-31",
    "day": "2026-01-31",
    "time": "12:00",
    "timestamp": "2026-01-31T12:00:00Z",
    "at": "2026-01-31T12:00:00Z",
    "language": "English",
    "country": "France",
    "city": "Paris",
    "currency": "EUR",
    "color": "blue",
    "colour": "blue",
    "path": "sample.txt",
    "filename": "sample.txt",
}


def _within(value: float, low: float | None, high: float | None) -> float:
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


def _singular(name: str) -> str:
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def _is_null(shape: Shape) -> bool:
    return shape in (Scalar("null"), Literal(None))


def _solid(choice: Choice) -> list[Shape]:
    return [option for option in choice.options if not _is_null(option)]
