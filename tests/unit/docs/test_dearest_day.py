"""The dearest day of one account, computed from the limits, is the one in the docs."""

from __future__ import annotations

import re

from bridge.turn import CHARACTERS_PER_TOKEN
from devstack.migrations import PROJECT, schemas

SQL = {file.stem: file.read_text() for file in schemas()}


def found(pattern: str, text: str) -> int:
    """The one number that the pattern finds."""
    numbers = set(re.findall(pattern, text))
    assert len(numbers) == 1, (pattern, numbers)
    return int(numbers.pop())


def shipped(limit: str) -> int:
    return found(rf"\('{limit}', (\d+)\)", SQL["limits"])


def test_dearest_day_is_in_the_docs() -> None:
    """Tokens are checked when an attempt begins: beyond the limit, only the replies that run at that moment cost."""
    prompt = (
        shipped("message_bytes")
        + found(r"octet_length\(question\.data::text\) > (\d+)", SQL["questions"])
        + found(r"exit when bytes > (\d+);", SQL["claim"])
        + found(r"case when f\.bytes <= (\d+) then", SQL["claim"])
        + found(r"octet_length\(metadata::text\) <= (\d+)", SQL["tables"])
        + found(r"octet_length\(title\) <= (\d+)", SQL["tables"])
    ) // CHARACTERS_PER_TOKEN
    written = found(r"(?m)^\s+max_completion_tokens (\d+)$", (PROJECT / "baml_src" / "clients.baml").read_text())
    running = shipped("running_replies")
    dearest = shipped("tokens_per_day") + running * (prompt + written)
    operations = (PROJECT / "docs" / "operations.md").read_text()
    assert (
        f"{shipped('tokens_per_day'):,} + {running} running replies × ({prompt:,} tokens read + {written:,} written)"
        f" = {dearest:,} tokens" in operations
    )
    assert f"{dearest:,} tokens at the defaults" in (PROJECT / "docs" / "security.md").read_text()


def test_limits_in_the_docs_are_the_shipped_ones() -> None:
    operations = (PROJECT / "docs" / "operations.md").read_text()
    for name, value in re.findall(r"\('(\w+)', (\d+)\)", SQL["limits"]):
        if not name.endswith("_bytes"):  # the two of them share a row
            assert f"| `{name}` | {int(value):,} |" in operations, name
