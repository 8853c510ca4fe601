"""Figures and bounds, and what docs/performance.md says about them."""

from __future__ import annotations

import importlib.util
import re

import pytest

from bench.__main__ import ROWS
from bench.processes import Failed
from bench.report import BOUNDS, PERFORMANCE, PLOTS, Figure, markdown, number, page, ratio, replaced

TEXT = PERFORMANCE.read_text()


def section(name: str) -> str:
    return TEXT.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]


def test_documented_bounds_equal_the_bounds_in_code() -> None:
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section("figures").splitlines() if "|" in line
    ]
    documented = {name: bound for _, name, _, _, bound, *_ in cells[2:] if bound}
    assert documented == {
        name: f"{'≤' if sense == 'at most' else '≥'} {number(bound)}" for name, (sense, bound) in BOUNDS.items()
    }


def test_every_row_has_a_module_and_a_description() -> None:
    table = TEXT.partition("## The rows")[2].partition("<!-- figures -->")[0]
    described = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert described == set(ROWS)
    assert all(importlib.util.find_spec(f"bench.rows.{row}") for row in ROWS)


def test_documented_images_exist() -> None:
    images = re.findall(r"\(images/(bench-[\w-]+\.svg)\)", TEXT)
    folder = PERFORMANCE.parent / "images"
    assert set(images) == {file.name for file in folder.glob("bench-*.svg")}
    assert images[: len(PLOTS)] == [f"bench-{name}.svg" for name in PLOTS]


def test_bounds_hold_in_their_sense() -> None:
    assert Figure("cancel", 200, "ms").ok
    assert not Figure("cancel", 201, "ms").ok
    assert Figure("replies_a_second", 0.75, "×").ok
    assert not Figure("replies_a_second", 0.74, "×").ok
    assert Figure("without a bound", 1e9, "ms").ok
    assert not Figure("takeover", 6, "s", bound=5).ok


def test_record_has_the_documented_keys() -> None:
    record = ratio("first_delta", [2.0, 4.0, 6.0], [2.0], unit="ms").record()
    assert re.search(rf"`\{{{', '.join(record)}\}}`", TEXT.replace("\n", " "))
    assert (record["value"], record["baseline"], record["bound"], record["ok"]) == (2.0, 2.0, 0.85, False)
    assert record["spread"] == [1.5, 2.5]


def test_page_is_a_table_with_plots() -> None:
    lines = page([Figure("cancel", 15.23, "ms", spread=(9.8, 11.7))], "a machine")
    assert lines[0] == "a machine; 1 of 1 within their bounds."
    assert lines[2:5] == [
        "| | figure | value | spread | bound | baseline | ours |",
        "|---|---|---:|---:|---:|---:|---:|",
        "| ✓ | cancel | 15.2 ms | 9.8 … 11.7 | ≤ 200 |  |  |",
    ]


def test_markdown_aligns_numbers_to_the_right() -> None:
    assert markdown([("size", "ms"), ("1", "2")], left=0) == ["| size | ms |", "|---:|---:|", "| 1 | 2 |"]


def test_replace_keeps_the_rest_of_the_page() -> None:
    before = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert replaced(before, "x", ["new"]) == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n"
    with pytest.raises(Failed, match="no <!-- y -->"):
        replaced(before, "y", [])
