"""Size of the write-ahead log between two positions, by `pg_waldump`: records, apart from full-page images.

A page is written whole when it is touched for the first time after a checkpoint. That depends on the clock and not on
the reply, so the two are reported separately.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.database import Database, one_row
from bench.processes import Failed
from bench.world import Project
from devstack.postgres import binaries

VERSION = 18
# The last line of `pg_waldump --stats`: number of records, their size, size of the page images; each with a share.
_TOTAL = re.compile(r"^Total +\d+ +(?P<records>\d+) +\[[^]]*\] +(?P<pages>\d+) ", re.MULTILINE)


@dataclass(frozen=True)
class Written:
    """Sizes in kB: records, and full-page images."""

    records: float
    pages: float


async def position(db: Database) -> str:
    """The end of the log on disk."""
    return str((await one_row(db, "select pg_current_wal_flush_lsn()::text as at"))["at"])


async def written(project: Project, begin: str, end: str) -> Written:
    """The log between two positions. Raises `Failed`."""
    if begin == end:
        return Written(0.0, 0.0)
    program = binaries(VERSION) / "pg_waldump"
    pages = project.data / f"postgres-{VERSION}" / "pg_wal"
    command: list[str | Path] = [program, "--stats", "-p", pages, "-s", begin, "-e", end]
    # pg_waldump exits with an error when it reaches the end of the last segment
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    total = _TOTAL.search(done.stdout)
    if total is None:
        raise Failed(f"pg_waldump: {done.stderr.strip() or done.stdout}")
    return Written(int(total["records"]) / 1000, int(total["pages"]) / 1000)
