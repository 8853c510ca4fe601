"""What a run writes into a page of docs/: each between its own pair of marks, all else stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.processes import ROOT, Failed

PAGE = ROOT / "docs" / "performance.md"


def put(section: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Put these lines between `<!-- section -->` and `<!-- /section -->`. Raises `Failed` if the marks are missing."""
    page.write_text(replaced(page.read_text(), section, lines))
    print(f"wrote {section} to {page.relative_to(ROOT)}")


def replaced(page: str, section: str, lines: Sequence[str]) -> str:
    """`page` with the lines between the section's marks. Raises `Failed` if they are missing."""
    begin, end = f"<!-- {section} -->\n", f"<!-- /{section} -->"
    before, found, rest = page.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise Failed(f"the page has no {begin.strip()} … {end}")
    return "\n".join([f"{before}{begin}", *lines, "", f"{end}{after}"])
