"""The watchdog ends a process whose event loop has stopped."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bridge.watchdog import Watchdog
from tests.support import ROOT

STOPS_FEEDING = """
import time
from bridge.watchdog import Watchdog
watchdog = Watchdog(1)
watchdog.start()
for _ in range(4):
    time.sleep(0.3)
    watchdog.feed()
print("fed", flush=True)
def freeze():
    time.sleep(30)
freeze()
"""


def test_unfed_watchdog_exits_with_1_and_a_traceback() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", STOPS_FEEDING], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "fed\n"), ran.stderr
    assert "freeze" in ran.stderr


def test_feeding_resets_the_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watchdog = Watchdog(3)
    now = 102.0
    assert watchdog.age == 2
    watchdog.feed()
    assert watchdog.age == 0
    watchdog.stop()
