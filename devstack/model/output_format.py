"""Reads the schema that BAML writes into a prompt: the text of `{{ ctx.output_format }}`.

    Priority                          an enum: a name, a rule, its values
    ----
    - LOW: can wait

    Node {                            a class that is named elsewhere
      children: Node[],
    }

    Tree = string or Tree[]           a type alias

    Answer in JSON using this schema: what is asked for, inline or by name
    {
      // a description
      title: string or null,
      priority: Priority,
      sizes: map<string, int>,
    }

The arguments of `ctx.output_format` change the words between the types, so those are found by trying. Whatever cannot
be read is no schema. `tests/integration/devstack/test_schemas.py` tries this on what BAML renders.
"""

from __future__ import annotations

import contextlib
import json
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from .shapes import Array, Choice, Literal, Mapped, Named, Record, Scalar, Shape, Wanted

_ASKED = re.compile(
    r"Answer (?:in JSON using (?:this schema|any of these schemas)|with a JSON Array using this schema"
    r"|using this specific value|ONLY with null):\s*"
)
_ASKED_SCALAR = re.compile(r"Answer as (?:an|a) (int|float|bool)\b")
_ASKED_CATEGORY = re.compile(r"Answer with any of the categories:\s*")
_ENUM = re.compile(r"^(?P<name>[^\n]+)\n----\n(?P<values>[^\n]+(?:\n[^\n]+)*)", re.M)
_CLASS = re.compile(r"^(?P<name>[^\n{}\[\](),:<>]*[\w)\]]) (?=\{\n)", re.M)
_ALIAS = re.compile(r"^(?P<name>[^\n{}\[\](),:<>=]*\w) = (?=\S)", re.M)
_DEFINED = re.compile(r"(?:^[A-Za-z]\w*|[A-Z][a-z0-9_]*)\n----\n|(?:^[A-Za-z]\w*|[A-Z][a-z0-9_]*) \{\n", re.M)
_BULLET = re.compile(r"(?:\W{1,3}\s+)?")
_SCALAR = re.compile(r"(string|int|float|bool|null|image|audio|pdf|video)\b")
_CONSTANT = re.compile(r"(true|false)\b|-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?(?![\w.])")
_QUOTED = re.compile(r"'(.+?)'(?!\w)")
_SPLITTERS = (" or ", " | ", "|", " / ", ", or ", " OR ")
_ANY_SPLITTER = re.compile(r"[^\n\w\[\](){}<>\"']{0,3}\w{0,6}[^\n\w\[\](){}<>\"']{0,3}")
_BETWEEN_VALUES = re.compile(r"\s*,[^A-Za-z]*(?:(?:null|true|false)[^A-Za-z]*)?")
_FILES = re.compile(r"<file path=.*?</file>", re.S)
_UNREAD = Scalar("null")  # of a definition that is still to be read
_LEVELS = 40
_LONGEST_NAME = 300
_LONGEST_CALLED = 200
_NAME_END = re.compile(r".(?!\w)")
_TRIES = 20_000  # text that is no schema must not take long
_SPACE = re.compile(r"\s*")
_GAP = re.compile(r"(?:[ \t]*(?://[^\n]*)?\n)*[ \t]*")


class _Unreadable(Exception):
    """This is no type."""


def read_output_format(text: str, *, is_certain: bool = False) -> Wanted | None:
    """Return what the text asks for, or None. The last schema in it counts.

    With `is_certain`, only what follows BAML's own words is taken; otherwise any text that has the form of a schema is,
    because a function may use words of its own.
    """
    text = _FILES.sub("", text)
    asked = list(_ASKED.finditer(text))
    reader = _Reader(text) if asked or not is_certain else None
    for found in reversed(asked):
        assert reader is not None
        if read := reader.read(found.end()):
            return reader.wanted(read[0])
    if categories := list(_ASKED_CATEGORY.finditer(text)):
        enum = _ENUM.match(text, categories[-1].end())
        if enum is not None:
            return Wanted(_values(enum["values"]))
    if scalars := _ASKED_SCALAR.findall(text):
        return Wanted(Scalar(scalars[-1]))
    return None if is_certain or reader is None else _unannounced(reader)


def without_schema(text: str) -> str:
    """Return the text up to the first schema or definition in it, which may begin in the middle of a line."""
    before = _DEFINED.split(text, maxsplit=1)[0]
    return _ASKED.split(before, maxsplit=1)[0].strip()


def _unannounced(reader: _Reader) -> Wanted | None:
    """Find a schema without BAML's words before it: the last line that ends with, or begins, a whole structure."""
    text = reader.text
    defined = max((end for _, end in reader.spans), default=0)
    starts = [
        at.start()
        for at in re.finditer(r"(?<![{\[(])[{\[(]+(?=\n)|map<|\{string:", text)
        if not reader.is_inside(at.start())
    ]
    for at in starts[:50]:
        if (read := reader.read(at)) and text[read[1] : read[1] + 1] in ("", "\n", " ") and _has_type(read[0]):
            return reader.wanted(read[0])
    rest = text[defined:]
    for name in sorted(reader.definitions, key=len, reverse=True):
        for short in _endings(name):
            match = re.search(rf"(?<!\w){re.escape(short)}(?:\[\])*(?=\s*$)", rest, re.M) if short in rest else None
            if match and (read := reader.read(defined + match.start())):
                return reader.wanted(read[0])
    if shape := _on_a_line(reader):
        return reader.wanted(shape)
    enums = [shape for shape in reader.definitions.values() if isinstance(shape, Choice) and _are_categories(shape)]
    return Wanted(enums[-1]) if enums else None


def _on_a_line(reader: _Reader) -> Shape | None:
    """The last type that has a line for itself, or ends one after a colon."""
    found: Shape | None = None
    for line in re.finditer(r"^[ \t]*(\S[^\n]*?)[ \t]*$", reader.text, re.M):
        if reader.is_inside(line.start(1)):
            continue
        colons = re.finditer(": ", line[1][:_LONGEST_NAME])
        for at in (line.start(1), *(line.start(1) + colon.end() for colon in colons)):
            read = reader.read(at)
            if read and read[1] == line.end(1) and read[0] != Scalar("string") and _has_type(read[0]):
                found = read[0]
                break
    return found


def _are_categories(enum: Choice) -> bool:
    """Whether these are short words: a list of rules under a heading has the form of an enum as well."""
    values = [option.value for option in enum.options if isinstance(option, Literal)]
    return all(isinstance(value, str) and len(value) <= 30 and len(value.split()) <= 3 for value in values)


def _has_type(shape: Shape) -> bool:
    """Whether a type is in it. A prompt may also print values, such as `{"id": "a", "sizes": [3], "next": null}`."""
    match shape:
        case Literal() | Scalar("null"):
            return False
        case Record():
            return any(map(_has_type, shape.fields.values()))
        case Array():
            return _has_type(shape.item)
        case Mapped():
            return _has_type(shape.key) or _has_type(shape.value)
        case Choice():
            is_category = all(isinstance(each, Literal) or each == Scalar("null") for each in shape.options)
            return is_category or any(map(_has_type, shape.options))
    return True


def _endings(name: str) -> Iterator[str]:
    """The name, and what is left of it without the words before: the first of a prompt follows other text."""
    yield name
    for match in re.finditer(r"\s(?=\S)", name):
        yield name[match.end() :]


def _values(block: str) -> Choice:
    lines = [line for line in block.split("\n") if not line.startswith((" ", "\t"))]
    values = [line[_at(_BULLET, line, 0) :] for line in lines]
    values.sort(
        key=lambda value: value.count(": ") > 1
    )  # where a name may have a colon of its own, the others come first
    return Choice([Literal(value.partition(": ")[0].strip()) for value in values])


def _at(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


@dataclass(slots=True)
class _Reader:
    """A text with its definitions. Positions are offsets; a method returns the shape and the offset behind it."""

    text: str
    definitions: dict[str, Shape] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=list)
    # the names of the definitions, each backwards, sorted: those that end alike are neighbours
    backwards: list[str] = field(default_factory=list)
    covered: list[int] = field(default_factory=list)  # for each span, up to where it and those before it reach
    level: int = 0
    tries: int = 0

    def __post_init__(self) -> None:
        for enum in _ENUM.finditer(self.text):
            self.definitions[enum["name"]] = _values(enum["values"])
            self.spans.append(enum.span())
        bodies = [*_CLASS.finditer(self.text), *_ALIAS.finditer(self.text)]
        for found in bodies:  # all names first: they refer to each other
            self.definitions.setdefault(found["name"], _UNREAD)
        self.backwards = sorted(name[::-1] for name in self.definitions)
        for found in bodies:
            if (read := self.read(found.end())) is None:
                if self.definitions.get(found["name"]) is _UNREAD:
                    del self.definitions[found["name"]]
                    del self.backwards[bisect_left(self.backwards, found["name"][::-1])]
            else:
                if found["name"] not in self.definitions:  # the first of this name was none
                    insort(self.backwards, found["name"][::-1])
                self.definitions[found["name"]] = read[0]
                self.spans.append((found.start(), read[1]))
        self.spans.sort()
        self.covered = list(accumulate((end for _, end in self.spans), max))

    def wanted(self, shape: Shape) -> Wanted:
        """The shape with the definitions."""
        return Wanted(shape, self.definitions)

    def is_inside(self, at: int) -> bool:
        """Whether this is part of a definition."""
        before = bisect_right(self.spans, at, key=lambda span: span[0])
        return before > 0 and at < self.covered[before - 1]

    def read(self, at: int) -> tuple[Shape, int] | None:
        """Read a type, with its alternatives; None if there is none."""
        try:
            return self.union(at)
        except (_Unreadable, RecursionError):
            return None

    def union(self, at: int, end: str = "") -> tuple[Shape, int]:
        """Read a type, with its alternatives. `end` is what must follow it."""
        self.level += 1
        if self.level > _LEVELS:
            self.level = 0
            raise _Unreadable
        try:
            shape, at = self.single(at)
            options = [shape]
            while not (end and self.text.startswith(end, at)) and (found := self._alternative(at)):
                shape, at = found
                options.append(shape)
        finally:
            self.level = max(0, self.level - 1)
        return (options[0] if len(options) == 1 else Choice(options)), at

    def _alternative(self, at: int) -> tuple[Shape, int] | None:
        """Read the words between two alternatives, and the type behind them; None if there is no other alternative."""
        words = [*_SPLITTERS, *_ANY_SPLITTER.findall(self.text[at : at + 12])[:1]]
        for word in dict.fromkeys(filter(None, words)):
            if _BETWEEN_VALUES.fullmatch(word):  # of a list
                continue
            if self.text.startswith(word, at):
                with contextlib.suppress(_Unreadable):
                    return self.single(at + len(word))
        return None

    def single(self, at: int) -> tuple[Shape, int]:
        """Read a type without alternatives, and the brackets of a list after it."""
        self.tries += 1
        if self.tries > _TRIES:
            raise _Unreadable
        shape, at = self._base(at)
        while self.text.startswith("[]", at):
            shape, at = Array(shape), at + 2
        return shape, at

    def _base(self, at: int) -> tuple[Shape, int]:
        text = self.text
        first = text[at : at + 1]
        if first == "{":
            return self._braces(at)
        if first in ("[", "("):
            closing = "]" if first == "[" else ")"
            shape, at = self.union(_at(_GAP, text, at + 1) if first == "[" else at + 1, closing)
            at = _at(_SPACE, text, at) if first == "[" else at
            return (Array(shape) if first == "[" else shape), self._skip(at, closing)
        if text.startswith("map<", at):
            key, at = self.union(at + 4, ", ")
            value, at = self.union(self._skip(at, ", "), ">")
            return Mapped(key, value), self._skip(at, ">")
        if first == '"':
            try:
                value, end = json.JSONDecoder().raw_decode(text, at)
            except ValueError as error:
                raise _Unreadable from error
            return Literal(value), end
        if quoted := _QUOTED.match(text, at):
            return Literal(quoted[1]), quoted.end()
        if constant := _CONSTANT.match(text, at):
            return Literal(json.loads(constant[0])), constant.end()
        if named := self._name(at):
            return named
        if scalar := _SCALAR.match(text, at):
            kind = scalar[1]
            return Scalar(kind if kind in ("string", "int", "float", "bool", "null") else "null"), scalar.end()
        raise _Unreadable

    def _name(self, at: int) -> tuple[Shape, int] | None:
        """Read the name of a definition: the longest that is written here, or with which one ends.

        The first definition follows other text, and a class may have a word before its name.
        """
        line = self.text[at : at + _LONGEST_CALLED].split("\n", 1)[0]
        for end in reversed([found.end() for found in _NAME_END.finditer(line)]):
            written = line[end - 1 :: -1]
            place = bisect_left(self.backwards, written)
            if place == len(self.backwards) or line[:end] in _WORDS:
                continue
            if (found := self.backwards[place]).startswith(written):
                return Named(found[::-1]), at + end
        return None

    def _braces(self, at: int) -> tuple[Shape, int]:
        text = self.text
        inner = _at(_GAP, text, at + 1)
        if text.startswith("}", inner):
            return Record({}), inner + 1
        if "\n" not in text[at + 1 : inner]:  # a map in object style, or an object on one line
            try:
                key, end = self.union(at + 1, ": ")
                value, end = self.union(self._skip(end, ": "), "}")
                return Mapped(key, value), self._skip(end, "}")
            except _Unreadable:
                pass
        fields: dict[str, Shape] = {}
        at = inner
        while not text.startswith("}", at):
            name, shape, at = self._field(at)
            fields[name] = shape
            at = _at(_GAP, text, at)
        return Record(fields), at + 1

    def _field(self, at: int) -> tuple[str, Shape, int]:
        """Read `name: type,`. A name may itself contain a colon: the first that a type follows counts."""
        stop = self.text.find("\n", at)
        line = self.text[at : min(at + _LONGEST_NAME, len(self.text) if stop < 0 else stop)]
        for colon in re.finditer(": ", line):
            try:
                shape, end = self.union(at + colon.end(), ",\n")
            except _Unreadable:
                continue
            if self.text.startswith(",", end):
                end += 1
            elif not re.compile(r"\s*\}").match(self.text, end):
                continue
            name = line[: colon.start()]
            if len(name) > 1 and name[0] == name[-1] == '"':
                name = name[1:-1]
            return name, shape, end
        raise _Unreadable

    def _skip(self, at: int, expected: str) -> int:
        if not self.text.startswith(expected, at):
            raise _Unreadable
        return at + len(expected)


_WORDS = frozenset(("string", "int", "float", "bool", "null", "true", "false"))
