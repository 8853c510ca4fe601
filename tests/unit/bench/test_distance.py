"""Latencies with a distance between worker and project."""

from __future__ import annotations

from bench.distance import PATHS, rows
from bench.report import Figure, ratio

FIGURES = [
    ratio("wakeup_procrastinate", [10.0], [12.0], unit="ms"),
    ratio("first_delta", [20.0], [30.0], unit="ms"),
    ratio("first_delta_own_driver", [20.0], [25.0], unit="ms"),
    ratio("first_delta_claim_path", [20.0], [35.0], unit="ms"),
]


def test_each_message_adds_half_a_round_trip() -> None:
    found = {(row[1], row[3]): row[4:] for row in rows(FIGURES)[1:]}
    assert found == {
        ("bridge", "10"): ("15", ""),  # the push
        ("Procrastinate", "12"): ("27", "0.556 ×"),  # notified, then a call
        ("bridge", "20"): ("30", ""),  # the push, and the delta
        ("bridge, claim path", "35"): ("55", "0.545 ×"),
        ("FastAPI", "30"): ("40", "0.75 ×"),  # a call
        ("FastAPI, the bridge's driver", "25"): ("35", "0.857 ×"),
    }


def test_no_table_without_all_figures() -> None:
    assert rows(FIGURES[:2]) == []
    assert rows([Figure("cancel", 1.0, "ms")]) == []
    assert {path.figure for paths in PATHS.values() for path in paths} == {figure.name for figure in FIGURES}
