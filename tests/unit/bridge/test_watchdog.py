"""The watchdog ends a process whose event loop has stopped, whatever has stopped it, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from bridge.watchdog import Watchdog
from tests.support import ROOT

# What stops the loop: with the GIL released, with the GIL held by C code, by a regular expression.
STOPS = {
    "sleep": "time.sleep(30)",
    "a call that holds the GIL": "ctypes.PyDLL(None).sleep(30)",
    "a regular expression": "re.match('(a|aa)+$', 'a' * 60 + 'b')",
}
STOPS_FEEDING = """
import ctypes, re, time
from bridge.watchdog import Watchdog
watchdog = Watchdog(1)
watchdog.start()
for _ in range(4):
    time.sleep(0.3)
    watchdog.feed()
print("fed", flush=True)
def freeze():
    {stop}
freeze()
"""
KEEPS_FEEDING = """
import time
from bridge.watchdog import Watchdog
watchdog = Watchdog(1)
watchdog.start()
print(watchdog._watching.pid, flush=True)
for _ in range(80):
    time.sleep(0.05)
    watchdog.feed()
watchdog.stop()
print("ended", flush=True)
"""


@pytest.mark.parametrize("stop", STOPS)
def test_unfed_watchdog_exits_with_1_and_a_traceback(stop: str) -> None:
    script = STOPS_FEEDING.replace("{stop}", STOPS[stop])
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "fed\n"), ran.stderr
    assert ran.stderr.splitlines()[0] == "no progress for 1 s: exiting"
    assert "in freeze" in ran.stderr


def test_killed_watchdog_is_replaced() -> None:
    script = STOPS_FEEDING.replace("{stop}", STOPS["sleep"])
    script = script.replace(
        "watchdog.start()", "watchdog.start()\nwatchdog._watching.kill()\nwatchdog._watching.wait()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "fed\n"), ran.stderr
    assert "in freeze" in ran.stderr


@pytest.mark.parametrize("harm", ["freeze the process", "freeze the watchdog", "kill the watchdog"])
def test_fed_watchdog_survives(harm: str) -> None:
    """Neither a process that was frozen ends, nor one whose watchdog was."""
    with subprocess.Popen(
        [sys.executable, "-c", KEEPS_FEEDING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        watchdog = int(process.stdout.readline())
        if harm == "kill the watchdog":
            os.kill(watchdog, signal.SIGKILL)
        else:
            frozen = process.pid if harm == "freeze the process" else watchdog
            os.kill(frozen, signal.SIGSTOP)
            time.sleep(2.5)  # longer than its patience, in which nothing happens
            os.kill(frozen, signal.SIGCONT)
        assert process.stdout.read() == "ended\n", process.stderr.read()
        assert process.wait(10) == 0


def test_watchdog_ends_with_a_killed_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KEEPS_FEEDING], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        watchdog = int(process.stdout.readline())
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and _runs(watchdog):
            time.sleep(0.02)
        assert not _runs(watchdog)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return ") Z " not in file.read()  # ended, but nobody has waited for it
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_feeding_resets_the_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watchdog = Watchdog(3)
    now = 102.0
    assert watchdog.age == 2
    watchdog.feed()
    assert watchdog.age == 0
    watchdog.stop()
