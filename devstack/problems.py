"""Finds file and line in what a program says is wrong, and shows problems in the terminal and on the page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from devstack.generate import Problem
from devstack.part import Console
from devstack.source import Source

_TRACEBACK = re.compile(r'File "([^"]+)", line (\d+)')
_PLACE = re.compile(r"(?<![\w./-])(/?[\w.-]+(?:/[\w.-]+)*\.(?:py|baml)):(\d+)")
_REMEDY = re.compile(r" Fix \S+:\d+ and start again\.$")
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")
_FUNCTION = re.compile(r"the BAML function (\w+)")


def locate(said: str, source: Source, folder: Path, env_file: Path) -> Problem:
    """Find the file and line of what a program said on one line: they stand in it, or belong to a variable in it."""
    message = _REMEDY.sub("", said)
    if places := [found for found in _PLACE.findall(said) if (folder / found[0]).is_file()]:
        return Problem(message, _short(places[-1][0], folder), int(places[-1][1]))
    for file, line in reversed(_TRACEBACK.findall(said)):
        if (folder / _short(file, folder)).is_file() and not Path(_short(file, folder)).is_absolute():
            return Problem(message.rpartition(" | ")[2], _short(file, folder), int(line))
    if (function := _FUNCTION.search(said)) and (place := source.line_of_function(function[1])):
        return Problem(message, *place)
    names = _VARIABLE.findall(said)
    for name in names:
        for binding in _bindings(env_file):
            if binding.key == name and not os.environ.get(name):
                return Problem(message, _short(str(env_file), folder), _line(binding))
    if any(name == "BRIDGE_FUNCTIONS" for name in names):
        return Problem(message, "baml_src")  # a function of that name would mend it
    return Problem(message)


def unreadable_lines(env_file: Path) -> Iterator[Problem]:
    """Yield a warning for each line of `.env` that has no effect."""
    for binding in _bindings(env_file):
        if binding.error:
            yield Problem(
                "this line is not NAME=VALUE, and has no effect", env_file.name, _line(binding), is_warning=True
            )


def _bindings(env_file: Path) -> list[Binding]:
    try:
        with env_file.open(encoding="utf-8") as stream:
            return list(parse_stream(stream))
    except (OSError, ValueError):
        return []


def _line(binding: Binding) -> int:
    """The line of a binding, whose text may begin with the empty lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _short(file: str, folder: Path) -> str:
    path = Path(file)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else file


class Board:
    """Shows what is wrong now: on the terminal when it changes, and in a file that the page's server reads."""

    def __init__(self, console: Console, file: Path) -> None:
        self._console, self.file = console, file
        self._shown: dict[str, tuple[Problem, ...]] = {}

    def show(self, topic: str, problems: Sequence[Problem]) -> bool:
        """Show the problems of a topic instead of those before; return whether they have changed."""
        before, now = self._shown.get(topic), tuple(problems)
        if now == before:
            return False
        self._shown[topic] = now
        for problem in now:
            if problem not in (before or ()):
                self._console.say(str(problem))
        self._write()
        return True

    @property
    def has_errors(self) -> bool:
        """Whether anything is wrong that keeps the newest version from being used."""
        return any(not problem.is_warning for problem in self._shown.get("build", ()))

    def _write(self) -> None:
        problems = [problem.as_json() for shown in self._shown.values() for problem in shown]
        draft = self.file.with_suffix(".new")
        try:
            draft.write_text(json.dumps(problems))
            draft.replace(self.file)
        except OSError as error:
            self._console.say(f"the page cannot show this: {error}")
