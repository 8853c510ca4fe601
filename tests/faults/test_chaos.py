"""A short run of chaos: everything at once, from a fixed seed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import chaos
from tests.faults.checker import check
from tests.faults.havoc import Havoc
from tests.faults.load import plan
from tests.support import ROOT

SEED = 20261123
MESSAGES = 120


async def test_nothing_is_lost_doubled_or_out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "LAST_SHARE", 4.0)  # all is asked, however slow the machine
    report, ledger = await chaos.run(workers=3, messages=MESSAGES, seed=SEED, minutes=0.5, folder=tmp_path)
    assert report.violations == [], f"seed {SEED}"
    assert report.refused == []
    assert report.messages == MESSAGES
    assert report.attempts["done"] > MESSAGES / 2
    assert sum(report.faults.values()) >= 10
    assert report.boots > 3

    # the same ledger with a doubling and a loss planted in it
    done = next(row for row in ledger.messages if row["role"] == "assistant" and row["status"] == "done")
    doubled = [row | {"content": row["content"] * 2} if row is done else row for row in ledger.messages]
    lost = [row for row in ledger.messages if row is not done]
    assert [violation.kind for violation in check(replace(ledger, messages=doubled))] == ["doubled"]
    assert [violation.kind for violation in check(replace(ledger, messages=lost))] == ["lost"]


def test_the_seed_decides_what_is_asked_and_what_breaks() -> None:
    def strokes(seed: int) -> list[object]:
        havoc = Havoc(None, [None] * 3, seed, 1.0)  # type: ignore[arg-type, list-item]  # nothing is struck here
        return [havoc.draw() for _ in range(100)]

    assert plan(100, 1) == plan(100, 1) != plan(100, 2)
    assert strokes(1) == strokes(1) != strokes(2)


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--messages", "-1"], ["--minutes", "0"], ["--nonsense"]])
def test_a_bad_option_is_told_in_one_line(arguments: list[str]) -> None:
    said = run(*arguments)
    assert said.returncode == 2
    assert "Traceback" not in said.stderr
    assert "error: " in said.stderr.splitlines()[-1]


def test_help() -> None:
    said = run("--help")
    assert said.returncode == 0
    for option in ("--minutes", "--workers", "--messages", "--seed", "--json"):
        assert option in said.stdout


def test_the_report_is_json() -> None:
    report = chaos.Report(1, 3, 10, exits={-9: 1})
    assert json.loads(chaos.as_json(report))["seed"] == 1


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.chaos", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
