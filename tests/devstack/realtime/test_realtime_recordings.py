"""The recordings of the hosted server (Realtime v2.129.8, both serializers), played against ours.

Back-offs and polling are shortened. With `DEVSTACK_TIMING=real` they are the hosted server's, and what comes more than
0.8 s sooner or later than it was recorded is a difference too; that takes some minutes.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.postgres import Postgres
from devstack.realtime.limits import Limits
from tests.devstack.realtime.recording import Recording
from tests.devstack.realtime.replay import Player
from tests.devstack.realtime.service import PASSWORD, Service, execute, served

FOLDER = Path(__file__).parent / "recordings"
SILENT = ("05_heartbeat.v1.jsonl", "05_heartbeat.v2.jsonl")
LIMITED = ("12_limits.v1.jsonl", "12_limits.v2.jsonl")
RECORDINGS = sorted(path for path in FOLDER.glob("*.jsonl") if path.name not in SILENT + LIMITED)
REAL = os.environ.get("DEVSTACK_TIMING") == "real"
TOLERANCE = 0.8  # polled every 0.1 to 0.5 s, on a machine that does other work too
SPEED = 8.0
EMPTY = """
truncate public.alltypes, public.alltypes_full, public.messages, public.rlsfull, public.denied, public.nopriv,
    public.colpriv, public.nopk, public.perf, public.bc, realtime.messages
"""


@pytest.fixture(scope="module")
async def polling(postgres: Postgres) -> AsyncIterator[Service]:
    """Polls as the hosted server does; if time is short, faster, with shorter back-offs."""
    delay, denied = ((0.1, 0.5), 5.0) if REAL else ((0.05, 0.2), 0.3)
    async with served(postgres, polling_delay=delay, denied_delay=denied) as running:
        yield running


async def settle(service: Service, dsn: str) -> None:
    """Have a round of polling take what the last recording left: a new subscriber would be told of it."""
    client = await service.connect()
    await client.join("settle", postgres_changes=[{"event": "INSERT", "schema": "public", "table": "perf"}])
    await client.subscribed()
    await execute(dsn, "insert into public.perf default values")
    await client.event("postgres_changes")
    await client.websocket.close()


async def played(path: Path, service: Service, postgres: Postgres, *, speed: float = 1.0) -> Player:
    dsn = postgres.dsn("supabase_admin", PASSWORD)
    recording = Recording(path)
    if any("Subscribed to PostgreSQL" in str(line) for line in recording.lines):
        await settle(service, dsn)
    await execute(dsn, EMPTY)
    player = Player(
        recording,
        service.url,
        service.session,
        dsn,
        tolerance=TOLERANCE if REAL and speed == 1 else None,
        silence=1.0 if REAL else 0.05,
        speed=speed,
    )
    await player.play()
    return player


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.removesuffix(".jsonl"))
async def test_what_was_recorded_comes_again(path: Path, polling: Service, postgres: Postgres) -> None:
    assert (await played(path, polling, postgres)).differences == []


@pytest.mark.parametrize("name", SILENT)
async def test_silence(name: str, postgres: Postgres) -> None:
    async with served(postgres, idle_seconds=65.0 if REAL else 1.0) as quick:
        assert (await played(FOLDER / name, quick, postgres)).differences == []


async def test_too_many_messages(postgres: Postgres) -> None:
    """As recorded: the second run begins while the average of the first is still above the limit."""
    begun, skipped = time.monotonic(), 0.0
    limits = Limits(events_per_second=100)
    async with served(postgres, limits=limits, clock=lambda: skipped + SPEED * (time.monotonic() - begun)) as limited:
        client = await limited.connect()
        await client.join("warm")
        await client.send("realtime:warm", "broadcast", {"type": "broadcast", "event": "e", "payload": {}})
        await client.silent()
        skipped = 61.0  # the project had been in use for a minute
        first = await played(FOLDER / LIMITED[0], limited, postgres, speed=SPEED)
        assert first.differences == []
        # 600 a second count 6,000 in 10 s; the average is taken every 5 s. Recorded: 11.3 s.
        assert 9 < first.flooded < 16
        second = await played(FOLDER / LIMITED[1], limited, postgres, speed=SPEED)
        assert second.differences == []
        assert second.flooded < 1.5


async def test_a_difference_is_seen(tmp_path: Path, polling: Service, postgres: Postgres) -> None:
    heartbeat = next(path for path in RECORDINGS if path.name.startswith("14_") and ".v1." in path.name)
    altered = tmp_path / "altered.jsonl"
    altered.write_text(heartbeat.read_text().replace("Subscribed to PostgreSQL", "Something else"))
    player = await played(altered, polling, postgres)
    assert any("Something else" in difference for difference in player.differences)
