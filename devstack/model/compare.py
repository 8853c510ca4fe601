"""The demo model's comparisons: a small stock of things, and the names that it is asked about."""

from __future__ import annotations

import re
from typing import Any, TypedDict


class Option(TypedDict):
    """A row as the function `Compare` wants it."""

    name: str
    price: float | None
    pros: list[str]
    cons: list[str]
    verdict: str


_STOCK: tuple[Option, ...] = (
    {
        "name": "Bicycle",
        "price": 600,
        "pros": ["door to door", "costs next to nothing to run", "keeps you fit"],
        "cons": ["wet when it rains", "short distances only"],
        "verdict": "For whoever lives near by and minds no weather.",
    },
    {
        "name": "Train",
        "price": 1188,
        "pros": ["time to read", "no traffic jams"],
        "cons": ["a timetable to keep to", "the station may be far"],
        "verdict": "For long ways between two towns.",
    },
    {
        "name": "Bus",
        "price": 828,
        "pros": ["stops nearly everywhere"],
        "cons": ["slow", "full in the morning"],
        "verdict": "For a town without rails.",
    },
    {
        "name": "Car",
        "price": 5400,
        "pros": ["leaves when you do", "carries a load"],
        "cons": ["the dearest by far", "wants a parking place"],
        "verdict": "For places that nothing else reaches.",
    },
    {
        "name": "On foot",
        "price": None,
        "pros": ["free", "always ready"],
        "cons": ["slow"],
        "verdict": "For the last mile.",
    },
)
_SEPARATOR = re.compile(r"\s*(?:,|;|/|\bor\b|\band\b|\bvs\b\.?|\bversus\b|\bwith\b)\s*", re.I)
_COURTESY = re.compile(
    r"^\W*((please|can|could|you|which|what|is|are|better|best|shall|should|i|we|use|take|buy|compare|between|choose|the|a|an"
    r"|by|go)\b\W*)+",
    re.I,
)
_TAIL = re.compile(r"\s+(to|for|in|as|at|please)\b.*$|[?!.]+\s*.*$", re.I | re.S)
_ASKS = re.compile(r"\b(compare|comparison|better|best|versus|vs|or|which|options?|choose|between)\b", re.I)
_MOST = 6


def write(request: str) -> dict[str, Any]:
    """Answer a request for a comparison: what `Compare` promises, `reply` and `options`.

    What the request names is compared, with the stock's words where it knows the name; else ways to get to work.
    """
    if not _ASKS.search(request):
        return {"reply": "The demo model here. Ask me to compare things: *train, bus or bicycle?*", "options": []}
    names = _names(request)
    options = [_option(name, number) for number, name in enumerate(names)] if len(names) > 1 else list(_STOCK[:4])
    reply = (
        f"**{options[0]['name']}** comes first here. I am the demo model, so the table comes from a small stock and "
        "not from thought. Prices are made up, in euros a year."
    )
    return {"reply": reply, "options": options}


def _names(request: str) -> list[str]:
    line = " ".join(request.split())[:300].rpartition(": ")[2]
    parts = [_TAIL.sub("", _COURTESY.sub("", part)).strip(" \"'“”*`") for part in _SEPARATOR.split(line)]
    return list(dict.fromkeys(part[:1].upper() + part[1:] for part in parts if 0 < len(part) <= 40))[:_MOST]


def _option(name: str, number: int) -> Option:
    for known in _STOCK:
        if re.fullmatch(rf"{known['name']}s?", name, re.I):
            return known
    return {
        "name": name,
        "price": None,
        "pros": ["you named it", "you named it first"][: 1 if number else 2],
        "cons": ["not in the demo model's stock"],
        "verdict": "A real model would know whom it suits.",
    }
