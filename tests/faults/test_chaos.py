"""A short run of chaos from a fixed seed."""

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
from tests.faults.step_checker import check_steps
from tests.support import ROOT

SEED = 20261123
MESSAGES = 120
AGENT_MESSAGES = 80


async def test_short_run_has_no_violations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "LAST_SHARE", 4.0)  # ask every question, however slow the machine
    report, ledger, _ = await chaos.run(workers=3, messages=MESSAGES, seed=SEED, minutes=0.5, folder=tmp_path)
    assert report.violations == [], f"seed {SEED}"
    assert report.refused == []
    assert report.messages == MESSAGES
    assert report.attempts["done"] > MESSAGES / 2
    assert sum(report.faults.values()) >= 10
    assert report.boots > 3

    # plant a doubled and a lost reply in the same ledger
    done = next(row for row in ledger.messages if row["role"] == "assistant" and row["status"] == "done")
    doubled = [row | {"content": row["content"] * 2} if row is done else row for row in ledger.messages]
    lost = [row for row in ledger.messages if row is not done]
    assert [violation.kind for violation in check(replace(ledger, messages=doubled))] == ["doubled"]
    assert [violation.kind for violation in check(replace(ledger, messages=lost))] == ["lost"]


async def test_short_run_of_agents_has_no_violations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "LAST_SHARE", 4.0)  # ask every question, however slow the machine
    report, ledger, steps = await chaos.run(
        workers=3, messages=AGENT_MESSAGES, seed=SEED, minutes=0.5, folder=tmp_path, agents=True
    )
    assert report.violations == [], f"seed {SEED}"
    assert report.refused == []
    assert report.messages == AGENT_MESSAGES
    assert sum(report.faults.values()) >= 10
    assert report.steps > 2 * AGENT_MESSAGES
    assert report.effects > report.messages
    assert report.answers["taken"] > 5
    assert report.followed > 5

    # plant an effect after the step has ended, and a step that never ran, in the same ledger
    first = next(write for write in steps.steps if write.is_done and write.name.startswith("step"))
    effect = next(one for one in steps.effects if (one.question_id, one.name) == (first.question_id, first.name))
    repeated = [*steps.effects, replace(effect, attempt=effect.attempt + 100)]
    without = [one for one in steps.effects if one.key != effect.key]
    assert {violation.kind for violation in check_steps(ledger, replace(steps, effects=repeated))} == {"repeated"}
    assert [violation.kind for violation in check_steps(ledger, replace(steps, effects=without))] == ["lost"]


def test_seed_determines_questions_and_faults() -> None:
    def strokes(seed: int) -> list[object]:
        havoc = Havoc(None, [None] * 3, seed, 1.0)  # type: ignore[arg-type, list-item]  # it only draws
        return [havoc.draw() for _ in range(100)]

    assert plan(100, 1) == plan(100, 1) != plan(100, 2)
    assert strokes(1) == strokes(1) != strokes(2)


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--messages", "-1"], ["--minutes", "0"], ["--nonsense"]])
def test_bad_option_prints_one_line_error(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "error: " in result.stderr.splitlines()[-1]


def test_help_lists_every_option() -> None:
    result = run("--help")
    assert result.returncode == 0
    for option in ("--minutes", "--workers", "--messages", "--seed", "--agents", "--json"):
        assert option in result.stdout


def test_report_serialises_to_json() -> None:
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
