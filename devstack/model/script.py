"""Directives that control the demo model, in the last user message: `[[tokens=50 delay=0.01]]`.

A directive may appear anywhere in the message. Values that contain spaces must be JSON: `[[text="two words"]]`,
`[[json={"reply": "hi", "files": []}]]`. Other text in double brackets, such as `[[a link]]`, is ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from typing import Any

HELP = """\
Directives, in double square brackets in the last user message:
  echo             reply with the last user message, unchanged
  text=TEXT        reply with this text (in quotes if it contains spaces)
  json=VALUE       reply with this JSON; json="..." sends the string itself, valid JSON or not
  tokens=N         reply with N filler tokens
  first=S          wait S seconds before the first token
  delay=S          wait S seconds between tokens
  finish=REASON    end with this finish_reason (default: stop)
  error=STATUS     respond with an error and this HTTP status
  retry_after=S    with error: set the Retry-After header
  fail=N           send an error in the stream after N tokens
  cut=N            drop the connection after N tokens
  clean_cut=N      end the stream after N tokens, without a finish_reason
  stall=N          send nothing after N tokens, until the client disconnects
  hold=N           wait for `ModelServer.let_go` after every N tokens (for tests that run the server themselves)
  no_usage         omit the token counts
  times=K          limit error, fail, cut, clean_cut or stall to the first K requests with this directive
Example: [[tokens=50 delay=0.01 cut=10 times=2]]
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A directive. Durations are in seconds, counts in tokens; None selects the server's default."""

    echo: bool = False
    text: str | None = None
    json: Any = field(default=None)
    tokens: int | None = None
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


_FLAGS = {"echo", "no_usage"}
_INTEGERS = {"tokens", "error", "fail", "cut", "clean_cut", "stall", "hold", "times"}
_SECONDS = {"first", "delay", "retry_after"}
_KEYS = {f.name for f in fields(Script)} - {"source"}
_DECODER = json.JSONDecoder()


def read_script(message: str) -> Script | None:
    """Return the first directive in `message`, or None if there is none."""
    start = message.find("[[")
    while start >= 0:
        script = _read(message, start + 2)
        if script is not None:
            return script
        start = message.find("[[", start + 2)
    return None


def _read(message: str, at: int) -> Script | None:
    found: dict[str, Any] = {}
    begin = at
    while True:
        while at < len(message) and message[at] == " ":
            at += 1
        if message.startswith("]]", at):
            return Script(**found, source=message[begin:at]) if found else None
        end = at
        while end < len(message) and (message[end].isalpha() or message[end] == "_"):
            end += 1
        key = message[at:end]
        if key not in _KEYS:
            return None
        if key in _FLAGS:
            found[key], at = True, end
            continue
        if not message.startswith("=", end):
            return None
        value, at = _value(message, end + 1)
        try:
            found[key] = int(value) if key in _INTEGERS else float(value) if key in _SECONDS else value
        except (TypeError, ValueError):
            return None


def _value(message: str, at: int) -> tuple[Any, int]:
    if message[at : at + 1] in ('"', "{", "["):
        try:
            return _DECODER.raw_decode(message, at)
        except ValueError:
            return None, len(message)
    end = at
    while end < len(message) and message[end] != " " and not message.startswith("]]", end):
        end += 1
    return message[at:end], end
