"""The transactions that clients of a project's database begin, counted in Postgres's log.

`pg_stat_database` reports a connection's transactions up to 10 s late, and counts transactions that logical decoding
begins and rolls back; the log reports them at once, with the role.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.database import Database, configure
from bench.world import Project

OWN = "bench"  # application name of the connections that are not counted
SETTINGS = {"log_statement": "'all'", "log_parameter_max_length": "0", "log_line_prefix": "'%a|%u|%v|'"}
_LINE = re.compile(r"^([^|]*)\|([^|]*)\|(\d+/\d+)\|LOG:  (?:statement|execute [^:]*): ")
RELOAD_SECONDS = 0.5  # until every connection has reloaded the settings


class Statements:
    """The statements logged since `mark`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._from = 0
        self.mark()

    def mark(self) -> None:
        """Start counting from here."""
        self._from = self._log.stat().st_size

    def transactions(self) -> Counter[str]:
        """The number of transactions since `mark` by role, without the benchmark's own."""
        with self._log.open(errors="replace") as file:
            file.seek(self._from)
            found = [_LINE.match(line) for line in file]
        return Counter(role for role, _ in {(one[2], one[3]) for one in found if one and one[1] != OWN})


@asynccontextmanager
async def logged(project: Project, db: Database) -> AsyncIterator[Statements]:
    """Log all statements of the project's database. `db` is a superuser's connection and is not counted."""
    await db.execute(f"set application_name = {OWN}")
    await configure(db, **SETTINGS)
    await asyncio.sleep(RELOAD_SECONDS)
    try:
        yield Statements(project.data / "logs" / "postgres.log")
    finally:
        await configure(db, **dict.fromkeys(SETTINGS))
