"""`python -m bench.profiled FILE MODULE …`: a program under cProfile; at its end FILE tells where its time went.

Only what Python does is in it: BAML's own threads are not, so the CPU of each thread stands beside it.
"""

from __future__ import annotations

import atexit
import cProfile
import io
import pstats
import runpy
import sys
from pathlib import Path

import psutil

MOST = 45


def _write(profile: cProfile.Profile, file: Path) -> None:
    profile.disable()
    text = io.StringIO()
    threads = sorted((t.user_time + t.system_time for t in psutil.Process().threads()), reverse=True)
    text.write(f"CPU of its threads, seconds: {', '.join(f'{used:.2f}' for used in threads if used >= 0.01)}\n\n")
    for order in ("tottime", "cumulative"):
        pstats.Stats(profile, stream=text).sort_stats(order).print_stats(MOST)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.getvalue())


if __name__ == "__main__":
    target, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    profiler = cProfile.Profile()
    atexit.register(_write, profiler, target)
    profiler.enable()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
