"""Write-ahead log of a reply of 1,000 tokens at 80 a second, against a worker that UPDATEs its row for each.

Records are counted. A page that is written whole because it is the first time since a checkpoint goes by the clock, and
not by the reply: those are told apart.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import backlog
from bench.backlog import Database
from bench.claim import no_autovacuum
from bench.processes import Failed
from bench.report import Measured, Spread, ratio
from bench.world import Project, World, insert_chat, unique
from devstack.postgres import binaries
from tests.support.users import Person

TOKENS = 1000
VERSION = 18
# The last line of `pg_waldump --stats`: records, their size, the size of whole pages; each with a share.
_TOTAL = re.compile(r"^Total +\d+ +(?P<records>\d+) +\[[^]]*\] +(?P<pages>\d+) ", re.MULTILINE)


async def run(world: World) -> Measured:
    """Both in turns, each after a reply that touches the same tables."""
    project, paced, fast = await world.project(), await world.model("realistic"), await world.model()
    log = Log(project)
    ours: list[Written] = []
    theirs: list[Written] = []
    async with world.person(project) as person, project.database() as db, no_autovacuum(db):
        async with world.worker(project, fast):
            (session,) = await backlog.open_sessions(db, person.id, 1)
            await _bridge(db, session)
        async with world.worker(project, paced):
            for _ in range(world.pick(1, 3)):
                begin = await log.position(db)
                await _bridge(db, session)
                ours.append(await log.written(begin, await log.position(db)))
        async with world.baseline("tutorial_worker", project, fast):
            await _tutorial(person, 80)  # 80 updates touch them all
            for _ in range(world.pick(1, 3)):
                begin = await log.position(db)
                await _tutorial(person, TOKENS)
                theirs.append(await log.written(begin, await log.position(db)))
    records = [one.records for one in ours], [one.records for one in theirs]
    figure = ratio(
        "wal", *records, 1 / 50, unit="kB", tokens=TOKENS,
        whole_pages_kb=Spread.of([one.pages for one in ours]).median,
        baseline_whole_pages_kb=Spread.of([one.pages for one in theirs]).median,
    )  # fmt: skip
    return Measured([figure], {"WAL of 1,000 tokens": {"bridge": records[0], "an UPDATE a token": records[1]}})


@dataclass(frozen=True)
class Written:
    """What was written, in kB: records, and whole pages in them."""

    records: float
    pages: float


@dataclass(frozen=True)
class Log:
    """The write-ahead log of a project."""

    project: Project

    async def position(self, db: Database) -> str:
        """Where it ends, on disk."""
        cursor = await db.execute("select pg_current_wal_flush_lsn()::text as at")
        row: Any = await cursor.fetchone()
        return str(row["at"])

    async def written(self, begin: str, end: str) -> Written:
        """What was written in between. Raises `Failed`."""
        said = await asyncio.to_thread(waldump, self.project, begin, end, "--stats")
        found = _TOTAL.search(said)
        if found is None:
            raise Failed(f"pg_waldump: {said}")
        return Written(int(found["records"]) / 1000, int(found["pages"]) / 1000)


def waldump(project: Project, begin: str, end: str, *options: str) -> str:
    """What pg_waldump says of the log between two positions. Raises `Failed`."""
    program = binaries(VERSION) / "pg_waldump"
    pages = project.data / f"postgres-{VERSION}" / "pg_wal"
    command: list[str | Path] = [program, *options, "-p", pages, "-s", begin, "-e", end]
    # reading past the last segment is the program's usual end
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise Failed(f"pg_waldump: {done.stderr.strip()}")
    return done.stdout


async def _bridge(db: Database, session: str) -> None:
    await backlog.only_done(db, await backlog.ask(db, [(session, unique(f"tokens={TOKENS}"))]))


async def _tutorial(person: Person, tokens: int) -> None:
    message_id = await insert_chat(person, unique(f"tokens={tokens}"), str(uuid.uuid4()))
    async with asyncio.timeout(120):
        while True:
            rows = await person.rows("chat_messages", id=message_id)
            if rows[0]["status"] == "done":
                break
            await asyncio.sleep(0.2)
