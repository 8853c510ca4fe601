"""Fixtures of the fault tests: a proxy in front of Supabase, one in front of the model, and the audit of writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from yarl import URL

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.audit import Audit
from tests.faults.proxy import Proxy
from tests.faults.tcp_proxy import TcpProxy
from tests.faults.walking import Notes
from tests.support.database import Row


@pytest.fixture
async def proxy(stack: Stack) -> AsyncIterator[Proxy]:
    """Between the worker and Supabase. Users connect directly."""
    async with Proxy(stack.environment["SUPABASE_URL"]) as proxy:
        yield proxy


@pytest.fixture
def proxied(environment: dict[str, str], proxy: Proxy) -> dict[str, str]:
    """The environment of a worker behind `proxy`."""
    return environment | {"SUPABASE_URL": proxy.url}


@pytest.fixture
async def model_proxy(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TcpProxy]:
    """Between a worker in this process and the model."""
    port = URL(model.url).port
    assert port is not None
    async with TcpProxy("127.0.0.1", port) as proxy:
        monkeypatch.setenv("LLM_BASE_URL", f"http://127.0.0.1:{proxy.port}/v1")
        yield proxy


@pytest.fixture
async def audit(db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Audit]:
    """Every write to jobs and replies from here on, with its caller and time."""
    audit = Audit(db)
    await audit.install()
    yield audit
    await audit.remove()


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """What the steps of `Walk` note, in this process and in others whose environment is `notes.environment`."""
    notes = Notes(tmp_path / "ledger")
    monkeypatch.setenv("AGENT_LEDGER", str(notes.path))
    return notes
