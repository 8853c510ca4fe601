"""What tests of faults share: a proxy before Supabase, one before the model, and waiting for a thing to be so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from yarl import URL

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.audit import Audit
from tests.faults.proxy import Proxy
from tests.faults.wire import Wire
from tests.support.database import Row


@pytest.fixture
async def proxy(stack: Stack) -> AsyncIterator[Proxy]:
    """Between the worker and Supabase; its users go past it."""
    async with Proxy(stack.environment["SUPABASE_URL"]) as proxy:
        yield proxy


@pytest.fixture
def cut_off(environment: dict[str, str], proxy: Proxy) -> dict[str, str]:
    """The environment of a worker behind the proxy."""
    return environment | {"SUPABASE_URL": proxy.url}


@pytest.fixture
async def wire(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """Between a worker in this process and the model."""
    port = URL(model.url).port
    assert port is not None
    async with Wire("127.0.0.1", port) as wire:
        monkeypatch.setenv("LLM_BASE_URL", f"http://127.0.0.1:{wire.port}/v1")
        yield wire


@pytest.fixture
async def audit(db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Audit]:
    """Every write to jobs and replies from here on, by whom and when."""
    audit = Audit(db)
    await audit.install()
    yield audit
    await audit.remove()
