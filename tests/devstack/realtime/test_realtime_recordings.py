"""The recordings of the hosted server (Realtime v2.129.8, both serializers), played against ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.postgres import Postgres
from tests.devstack.realtime.replay import Player, Recording
from tests.devstack.realtime.service import PASSWORD, Service, execute, served

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.jsonl"))
EMPTY = """
truncate public.alltypes, public.alltypes_full, public.messages, public.rlsfull, public.denied, public.nopriv,
    public.colpriv, public.nopk, public.perf, public.bc, realtime.messages
"""


@pytest.fixture(scope="module")
async def polling(postgres: Postgres) -> AsyncIterator[Service]:
    """Polls as the hosted server does, only faster; its back-offs are shorter too."""
    async with served(postgres, polling_delay=(0.05, 0.2), denied_delay=0.3) as running:
        yield running


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.removesuffix(".jsonl"))
async def test_what_was_recorded_comes_again(path: Path, polling: Service, postgres: Postgres) -> None:
    dsn = postgres.dsn("supabase_admin", PASSWORD)
    await execute(dsn, EMPTY)
    player = Player(Recording(path), polling.url, polling.session, dsn)
    await player.play()
    assert player.differences == []


async def test_a_difference_is_seen(tmp_path: Path, polling: Service, postgres: Postgres) -> None:
    heartbeat = next(path for path in RECORDINGS if path.name.startswith("14_") and ".v1." in path.name)
    altered = tmp_path / "altered.jsonl"
    altered.write_text(heartbeat.read_text().replace("Subscribed to PostgreSQL", "Something else"))
    player = Player(Recording(altered), polling.url, polling.session, postgres.dsn("supabase_admin", PASSWORD))
    await player.play()
    assert any("Something else" in difference for difference in player.differences)
