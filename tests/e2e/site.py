"""A website for tools to fetch, whose pages come when a test lets them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

from aiohttp import web

from tests.support.waiting import until


class Site:
    """A website. Pages below `/held` are sent when they are let go, those below `/missing` do not exist."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: Counter[str] = Counter()
        self._free: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def fetch(self, path: str) -> str:
        """A line of a question: to fetch this page."""
        return f"fetch {self.address}{path}"

    def let_go(self, path: str) -> None:
        self._free[path].set()

    async def asked_for(self, path: str, times: int = 1) -> None:
        await until(lambda: self.requests[path] >= times, 30)

    async def serve(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/")
        self.requests[path] += 1
        if path.startswith("held"):
            await self._free[path].wait()
        if path.startswith("missing"):
            return web.Response(status=404)
        return web.Response(text=f"Page {path}\nof four")
