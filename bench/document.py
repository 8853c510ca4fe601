"""What a run writes into docs/performance.md: each between its own pair of marks, all else stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

from bench.processes import ROOT, Failed

PAGE = ROOT / "docs" / "performance.md"


def put(section: str, lines: Sequence[str]) -> None:
    """Put these lines between `<!-- section -->` and `<!-- /section -->`. Raises `Failed` if the marks are missing."""
    PAGE.write_text(replaced(PAGE.read_text(), section, lines))
    print(f"wrote {section} to {PAGE.relative_to(ROOT)}")


def replaced(page: str, section: str, lines: Sequence[str]) -> str:
    """`page` with the lines between the section's marks. Raises `Failed` if they are missing."""
    begin, end = f"<!-- {section} -->\n", f"<!-- /{section} -->"
    before, found, rest = page.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise Failed(f"docs/performance.md has no {begin.strip()} … {end}")
    return "\n".join([f"{before}{begin}", *lines, "", f"{end}{after}"])
