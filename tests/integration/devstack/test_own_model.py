"""The model that `make dev` runs itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiohttp
import pytest

from devstack import DevstackError
from devstack.own_model import OWN_MODELS, ModelProcess
from devstack.part import Console, Part


async def test_model_is_started_once_and_its_exit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Part] = []
    started = asyncio.Event()
    start = Part.start

    async def start_part(part: Part) -> None:
        await start(part)
        starts.append(part)
        started.set()

    monkeypatch.setattr(Part, "start", start_part)
    async with ModelProcess(OWN_MODELS["demo"], {}, Console()) as model:
        ended = asyncio.create_task(model.ended())
        first = asyncio.create_task(model.environment())
        await started.wait()
        first.cancel()  # as by a save while the model is loading
        await asyncio.wait((first,))
        env, again = await asyncio.gather(model.environment(), model.environment())
        assert (env, len(starts)) == (again, 1)
        async with aiohttp.ClientSession() as session, session.get(f"{env['LLM_BASE_URL']}/models") as response:
            assert response.status == 200
        model.kill()
        async with asyncio.timeout(10):
            assert "model exited with code -9" in await ended


async def test_model_that_does_not_start_is_tried_again() -> None:
    broken = replace(OWN_MODELS["demo"], module="devstack.nothing")
    async with ModelProcess(broken, {}, Console()) as model:
        for _ in range(2):
            with pytest.raises(DevstackError, match=r"model exited with code 1: .*devstack\.nothing"):
                await model.environment()
        assert not model.is_used
        model.model = OWN_MODELS["demo"]
        assert (await model.environment())["LLM_MODEL"] == "demo"
