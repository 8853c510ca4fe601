"""Pytest collects every test that docs/security.md names."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from devstack.migrations import PROJECT

PAGE = PROJECT / "docs" / "security.md"
NAME = re.compile(r"`(tests/[\w/]+\.py::\w+)`")
ROW = re.compile(r"^\| (?!threat \||---)", re.M)


def collected(names: set[str]) -> set[str]:
    """Those of these tests that pytest collects, without their parameters."""
    files = sorted({name.partition("::")[0] for name in names})
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *files],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {line.partition("[")[0] for line in ran.stdout.splitlines() if "::" in line}


def threats() -> str:
    text = PAGE.read_text()
    return text[text.index("## Threats") : text.index("## Known gaps")]


def test_named_tests_exist() -> None:
    names = set(NAME.findall(PAGE.read_text()))
    assert len(names) > 30
    assert names - collected(names) == set()


def test_every_threat_has_a_test() -> None:
    rows = [line for line in threats().splitlines() if ROW.match(line)]
    assert len(rows) > 30
    assert [row for row in rows if not NAME.search(row)] == []


def test_missing_test_is_detected() -> None:
    here = "tests/unit/docs/test_security_page.py"
    known = f"{here}::{test_every_threat_has_a_test.__name__}"
    assert {known, f"{here}::test_nothing"} - collected({known, f"{here}::test_nothing"}) == {f"{here}::test_nothing"}
    with pytest.raises(AssertionError):
        collected({"tests/unit/docs/nowhere.py::test_nothing"})
