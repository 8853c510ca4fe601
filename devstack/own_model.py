"""The model that `make dev` runs itself: the demo model, or a very small language model."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp

from devstack import DevstackError, local_model
from devstack.part import Console, Part
from devstack.process import free_port

_READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model that this command runs itself."""

    module: str  # of `python -m`
    name: str  # LLM_MODEL
    ready: str  # the path that responds with 200 once the model is ready
    lines: tuple[str, ...]  # what the terminal says about it
    worker: Mapping[str, str] = field(default_factory=dict)  # defaults for the worker's settings


OWN_MODELS = {
    "demo": OwnModel("devstack.model", "demo", "/v1/models", ("demo model (canned replies)",)),
    "local": OwnModel(
        "devstack.local_model",
        local_model.NAME,
        "/health",
        (
            f"{local_model.NAME} on this machine",
            "It is very small, and its answers are often wrong or silly:",
            "use it to see real streaming, not to judge quality.",
            "Code and Compare mostly fail with it.",
        ),
        # it writes few replies at a time, reads long conversations slowly, and another attempt rarely helps
        {
            "BRIDGE_CONCURRENCY": str(local_model.SLOTS),
            "BRIDGE_FIRST_TOKEN_SECONDS": "110",
            "BRIDGE_MAX_FAILURES": "2",
        },
    ),
}


class ModelProcess:
    """Starts a model when it is first needed, and stops it when the context ends."""

    def __init__(self, model: OwnModel, env: Mapping[str, str], console: Console) -> None:
        self.model = model
        self._env, self._console = env, console
        self._port = 0
        self._part: Part | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the model."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)  # whoever asked has been told
        if self._part is not None:
            await self._part.stop()

    @property
    def is_used(self) -> bool:
        """Whether it has been started."""
        return self._ready.is_set()

    async def environment(self) -> dict[str, str]:
        """Return LLM_* once it is ready; the first call starts it. Raises `DevstackError`; the next tries again."""
        if self._starting is None or (self._starting.done() and not self._ready.is_set()):
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)  # whoever is cancelled here comes back for it
        url = f"http://127.0.0.1:{self._port}/v1"
        return {"LLM_BASE_URL": url, "LLM_API_KEY": "none", "LLM_MODEL": self.model.name}

    async def ended(self) -> str:
        """Wait until it exits although it was ready, however late it was started; return why."""
        await self._ready.wait()
        assert self._part is not None
        return await self._part.ended()

    def kill(self) -> None:
        """Kill it immediately."""
        if self._part is not None:
            self._part.kill()

    async def _start(self) -> None:
        if self._part is not None:
            await self._part.stop()  # it did not get ready
        self._port = free_port()
        command = [sys.executable, "-u", "-m", self.model.module, "--port", str(self._port)]
        self._part = Part("model", command, self._env, self._console)
        await self._part.start()
        await until_ready(self._part, f"http://127.0.0.1:{self._port}{self.model.ready}")
        self._ready.set()


async def until_ready(part: Part, url: str) -> None:
    """Wait until a program responds with 200 at a URL. Raises `DevstackError` if it exits or takes too long."""
    ended = asyncio.create_task(part.ended())
    try:
        async with asyncio.timeout(_READY_SECONDS), aiohttp.ClientSession() as session:
            while not ended.done():
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                await asyncio.wait((ended,), timeout=0.1)
        raise DevstackError(ended.result())
    except TimeoutError:
        raise DevstackError(f"{part.name} is not ready after {_READY_SECONDS:.0f} s: {part.last()}") from None
    finally:
        ended.cancel()
        await asyncio.wait((ended,))
