"""The demo model's comparisons: a few sample options, and placeholders for any others."""

from __future__ import annotations

import re
from typing import Any, TypedDict


class Option(TypedDict):
    """A row in the output of the function `Compare`."""

    name: str
    price: float | None
    pros: list[str]
    cons: list[str]
    verdict: str


_SAMPLES: tuple[Option, ...] = (
    {
        "name": "Bicycle",
        "price": 600,
        "pros": ["Takes you door to door", "Costs almost nothing to run", "Keeps you fit"],
        "cons": ["No fun in the rain", "Only practical for short distances"],
        "verdict": "Best if you live nearby and don't mind the weather.",
    },
    {
        "name": "Train",
        "price": 1188,
        "pros": ["Gives you time to read", "Avoids traffic jams"],
        "cons": ["Ties you to a timetable", "The station may be far away"],
        "verdict": "Best for longer trips between cities.",
    },
    {
        "name": "Bus",
        "price": 828,
        "pros": ["Stops almost everywhere"],
        "cons": ["Slow", "Crowded at rush hour"],
        "verdict": "Best where there is no train.",
    },
    {
        "name": "Car",
        "price": 5400,
        "pros": ["Leaves when you do", "Carries heavy loads"],
        "cons": ["By far the most expensive", "Needs a parking space"],
        "verdict": "Best for places you can't reach any other way.",
    },
    {
        "name": "On foot",
        "price": None,
        "pros": ["Free", "Always available"],
        "cons": ["Slow"],
        "verdict": "Best for the last mile.",
    },
)
_SEPARATOR = re.compile(r"\s*(?:,|;|/|\bor\b|\band\b|\bvs\b\.?|\bversus\b|\bwith\b)\s*", re.I)
_COURTESY = re.compile(
    r"^\W*((please|can|could|you|which|what|is|are|better|best|shall|should|i|we|use|take|buy|compare|between|choose|the|a|an"
    r"|by|go)\b\W*)+",
    re.I,
)
_TAIL = re.compile(r"\s+(to|for|in|as|at|please)\b.*$|[?!.]+\s*.*$", re.I | re.S)
_IS_COMPARISON = re.compile(r"\b(compare|comparison|better|best|versus|vs|or|which|options?|choose|between)\b", re.I)
_MAX_OPTIONS = 6


def write(request: str) -> dict[str, Any]:
    """Return the output of the function `Compare`, `reply` and `options`.

    Compares the options that the request names, using the samples where the name is known. If it names none, compares
    ways to get to work.
    """
    if not _IS_COMPARISON.search(request):
        return {
            "reply": "Hi, I'm the demo model. Ask me to compare a few options, such as *train, bus or bicycle?*",
            "options": [],
        }
    names = _names(request)
    options = [_option(name, number) for number, name in enumerate(names)] if len(names) > 1 else list(_SAMPLES[:4])
    reply = (
        f"I'd pick **{options[0]['name']}**, but only because it's first in the list: I'm the demo model, and this "
        "table is sample data. Prices are made up, in euros per year."
    )
    return {"reply": reply, "options": options}


def _names(request: str) -> list[str]:
    line = " ".join(request.split())[:300].rpartition(": ")[2]
    parts = [_TAIL.sub("", _COURTESY.sub("", part)).strip(" \"'“”*`") for part in _SEPARATOR.split(line)]
    return list(dict.fromkeys(part[:1].upper() + part[1:] for part in parts if 0 < len(part) <= 40))[:_MAX_OPTIONS]


def _option(name: str, number: int) -> Option:
    for known in _SAMPLES:
        if re.fullmatch(rf"{known['name']}s?", name, re.I):
            return known
    return {
        "name": name,
        "price": None,
        "pros": ["You thought of it", "You listed it first"][: 1 if number else 2],
        "cons": ["The demo model has no data about it"],
        "verdict": "A real model could say who it suits.",
    }
