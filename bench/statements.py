"""The transactions and statements that clients of a project's database made, counted in Postgres's own log.

pg_stat_database tells of a connection's transactions up to 10 s late, and counts as rolled back what logical decoding
begins for itself; the log tells at once, and who it was.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import Database
from bench.world import Project

OWN = "bench"  # the application name of connections that do not count
SETTINGS = {
    "log_statement": "'all'",
    "log_parameter_max_length": "0",
    "log_line_prefix": "'%a|%u|%v|'",
}
_LINE = re.compile(r"^([^|]*)\|([^|]*)\|(\d+/\d+)\|LOG:  (?:statement|execute [^:]*): (.*)")
# Until every connection has read the settings again.
RELOAD_SECONDS = 0.5


@dataclass(frozen=True)
class Statement:
    """One statement: whose, in which transaction, and how its first line begins."""

    role: str
    transaction: str
    text: str


class Statements:
    """What was said since `mark`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._from = 0
        self.mark()

    def mark(self) -> None:
        """Forget what was said so far."""
        self._from = self._log.stat().st_size

    def all(self) -> list[Statement]:
        """What others than this benchmark's own connections said since `mark`."""
        with self._log.open(errors="replace") as file:
            file.seek(self._from)
            found = [_LINE.match(line) for line in file]
        return [Statement(one[2], one[3], " ".join(one[4].split())) for one in found if one and one[1] != OWN]

    def transactions(self) -> Counter[str]:
        """How many transactions each role made since `mark`."""
        return Counter(role for role, _ in {(one.role, one.transaction) for one in self.all()})


@asynccontextmanager
async def listened(project: Project, db: Database) -> AsyncIterator[Statements]:
    """Log the statements of the project's database meanwhile. `db` is a superuser's, and is not counted from now on."""
    await db.execute(f"set application_name = {OWN}")
    for name, value in SETTINGS.items():
        await db.execute(f"alter system set {name} = {value}")
    await db.execute("select pg_reload_conf()")
    await asyncio.sleep(RELOAD_SECONDS)
    try:
        yield Statements(project.data / "logs" / "postgres.log")
    finally:
        for name in SETTINGS:
            await db.execute(f"alter system reset {name}")
        await db.execute("select pg_reload_conf()")
