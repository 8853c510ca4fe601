"""Directives that control the demo model, in a question: `[[tokens=50 delay=0.01]]`.

A directive may appear anywhere in the message. Values that contain spaces must be JSON: `[[text="two words"]]`,
`[[json={"reply": "hi", "files": []}]]`. Other text in double brackets, such as `[[a link]]`, is ignored.

`[[text=one]] [[then text=two]]` is a script for several calls about one question, as an agent makes them:
`devstack.model.steps` says which call plays which step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

HELP = """\
Directives, in double square brackets in the last user message:
  echo             reply with the last user message, unchanged
  text=TEXT        reply with this text (in quotes if it contains spaces)
  json=VALUE       reply with this JSON; json="..." sends the string itself, valid JSON or not
  tokens=N         reply with N filler tokens
  think=TEXT       send this as reasoning, before the reply
  first=S          wait S seconds before the first token
  delay=S          wait S seconds between tokens
  finish=REASON    end with this finish_reason (default: stop)
  error=STATUS     respond with an error and this HTTP status
  retry_after=S    with error: set the Retry-After header
  fail=N           send an error in the stream after N tokens; a status (400 to 599) on its own is the same as error=N
  cut=N            drop the connection after N tokens
  clean_cut=N      end the stream after N tokens, without a finish_reason
  stall=N          send nothing after N tokens, until the client disconnects
  hold=N           wait for `ModelServer.let_go` after every N tokens (for tests that run the server themselves)
  no_usage         omit the token counts
  times=K          limit error, fail, cut, clean_cut or stall to the first K requests with this directive
Example: [[tokens=50 delay=0.01 cut=10 times=2]]

Several calls about one question, as an agent makes them, play one step each:
  [[json={"tool": "search"}]] [[then error=503 times=1 text="It is 42."]]
After the last step, the demo model answers by itself. Without a script, a loop takes each class of a union once.
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A directive. Durations are in seconds, counts in tokens; None selects the server's default."""

    echo: bool = False
    text: str | None = None
    json: Any = field(default=None)
    tokens: int | None = None
    think: str = ""
    first: float | None = None
    delay: float | None = None
    finish: str = "stop"
    error: int | None = None
    retry_after: float | None = None
    fail: int | None = None
    cut: int | None = None
    clean_cut: int | None = None
    stall: int | None = None
    hold: int | None = None
    no_usage: bool = False
    times: int | None = None
    source: str = ""

    def without_fault(self) -> Script:
        """Return a copy without the failures that `times` limits."""
        return replace(self, error=None, fail=None, cut=None, clean_cut=None, stall=None)


@dataclass(frozen=True, slots=True)
class Steps:
    """What a message says about the calls that follow it: a script for each, in their order.

    `problem` is a sentence about the first directive that cannot be read, or None. `line` is the text around them,
    which tells one question from another.
    """

    scripts: Sequence[Script] = ()
    problem: str | None = None
    line: str = ""

    @property
    def has_several(self) -> bool:
        """Whether there is a `then`."""
        return len(self.scripts) > 1


class Mistake(ValueError):
    """A directive that cannot be read. The text is a sentence for whoever wrote it."""


class _NoDirective(Exception):
    """Text in double brackets that is no directive."""


_FLAGS = {"echo", "no_usage"}
_INTEGERS = {"tokens", "error", "fail", "cut", "clean_cut", "stall", "hold", "times"}
_SECONDS = {"first", "delay", "retry_after"}
_TEXTS = {"text", "think", "finish"}
_KEYS = {f.name for f in fields(Script)} - {"source"}
_LEAST = {"hold": 1, "error": 400}
_MOST = {"error": 599, "tokens": 1_000_000}
_MOST_SECONDS = 86_400
_DECODER = json.JSONDecoder()
_STEP = "then"


def read_script(message: str) -> Script | None:
    """Return the first directive in `message`, or None if there is none that can be read."""
    start = message.find("[[")
    while start >= 0:
        try:
            return _read(message, start + 2)[0]
        except (_NoDirective, Mistake):
            start = message.find("[[", start + 2)
    return None


def read_steps(message: str) -> Steps:
    """Return the scripts of `message`: its first directive, and every `[[then …]]`.

    Without a first directive, the demo model answers the first call by itself.
    """
    first: Script | None = None
    later: list[Script] = []
    start = message.find("[[")
    line = ""
    while start >= 0:
        at = start + 2
        is_step = message.startswith(_STEP, at) and message[at + len(_STEP) : at + len(_STEP) + 1] in (" ", "]", "")
        try:
            script, end = _read(message, at + len(_STEP) if is_step else at)
        except _NoDirective:
            if is_step:
                problem = f"The directive {_quote(message, start)} names no directive that the demo model knows."
                return Steps(problem=f"{problem} It knows {', '.join(sorted(_KEYS))}.")
            start = message.find("[[", at)
            continue
        except Mistake as mistake:
            return Steps(problem=f"The directive {_quote(message, start)} cannot be read: {mistake}.")
        if is_step:
            later.append(script)
        elif first is None:
            first = script
        line = line or message[message.rfind("\n", 0, start) + 1 :].split("\n", 1)[0]
        start = message.find("[[", end)
    scripts = [] if first is None and not later else [first or Script(), *later]
    return Steps(scripts, None, line)


def without_directives(message: str) -> str:
    """Return the message without what it tells the demo model."""
    kept, start = "", message.find("[[")
    while start >= 0:
        at = start + 2
        is_step = message.startswith(_STEP, at)
        try:
            _, end = _read(message, at + len(_STEP) if is_step else at)
        except (_NoDirective, Mistake):
            kept, message = kept + message[:at], message[at:]
        else:
            kept, message = kept + message[:start].rstrip(" "), message[end:]
        start = message.find("[[")
    return (kept + message).strip()


def _quote(message: str, start: int) -> str:
    end = message.find("]]", start)
    whole = " ".join(message[start : len(message) if end < 0 else end + 2].split())
    return whole if len(whole) <= 80 else f"{whole[:79]}…"


def _read(message: str, at: int) -> tuple[Script, int]:
    """Read a directive from behind its brackets. Returns it, and the offset behind the closing ones."""
    found: dict[str, Any] = {}
    begin = at
    while True:
        while at < len(message) and message[at] == " ":
            at += 1
        if message.startswith("]]", at):
            if not found:
                raise _NoDirective
            return _script(found, message[begin:at].strip()), at + 2
        end = at
        while end < len(message) and (message[end].isalpha() or message[end] == "_"):
            end += 1
        key = message[at:end]
        if key not in _KEYS:
            if found.keys() - _FLAGS:
                raise Mistake("it has no end" if not message[at:] else f"it has {message[at : at + 20].split()[0]!r}")
            raise _NoDirective
        if key in _FLAGS:
            found[key], at = True, end
            continue
        if not message.startswith("=", end):
            if found:
                raise Mistake(f"`{key}` has no value")
            raise _NoDirective
        found[key], at = _value(key, message, end + 1)


def _script(found: dict[str, Any], source: str) -> Script:
    fail = found.get("fail", 0)
    if 400 <= fail <= 599 and not found.keys() & {"text", "json", "tokens", "echo", "error"}:
        found["error"] = found.pop("fail")
    return Script(**found, source=source)


def _value(key: str, message: str, at: int) -> tuple[Any, int]:
    value: Any
    if message[at : at + 1] in ('"', "{", "["):
        try:
            value, at = _DECODER.raw_decode(message, at)
        except (ValueError, RecursionError) as error:
            raise Mistake(f"the value of `{key}` is not valid JSON") from error
    else:
        end = at
        while end < len(message) and message[end] != " " and not message.startswith("]]", end):
            end += 1
        value, at = message[at:end], end
    if key in _INTEGERS or key in _SECONDS:
        value = _number(key, value)
    elif key in _TEXTS and not isinstance(value, str):
        raise Mistake(f"`{key}` takes text")
    return value, at


def _number(key: str, value: Any) -> int | float:
    is_whole = key in _INTEGERS
    low, high = _LEAST.get(key, 0), _MOST.get(key, 10**9 if is_whole else _MOST_SECONDS)
    try:
        number = int(value) if is_whole else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise Mistake(f"`{key}` takes {'a whole number' if is_whole else 'a number'} from {low} to {high}")
    return number
