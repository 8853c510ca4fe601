"""Filler text that compresses like prose: words of a made-up language, weighted by Zipf's law."""

from __future__ import annotations

import random
from functools import cache

SEED = 7
VOCABULARY = 4_000


@cache
def _vocabulary() -> tuple[list[str], list[float]]:
    """The words and their weights."""
    chosen = random.Random(SEED)
    syllables = [first + vowel for first in "bcdfghklmnprstvw" for vowel in ("a", "e", "i", "o", "u", "an", "er", "is")]
    found = ["".join(chosen.choices(syllables, k=chosen.choice((1, 1, 2, 2, 3)))) for _ in range(VOCABULARY)]
    return found, [1 / rank for rank in range(1, VOCABULARY + 1)]


def words(count: int, *, structured: bool) -> list[str]:
    """`count` tokens; with `structured`, JSON of a reply and of one file that holds three quarters of them."""
    vocabulary, weights = _vocabulary()
    tokens = [f"{word} " for word in random.Random(count).choices(vocabulary, weights, k=count)]
    if not structured or count < 4:
        return tokens
    reply = max(1, count // 4)
    tokens[0] = '{"reply": "' + tokens[0]
    tokens[reply] = '", "files": [{"path": "filler.txt", "content": "' + tokens[reply]
    tokens[-1] += '", "language": "text"}]}'
    return tokens
