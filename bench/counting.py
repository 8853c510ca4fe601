"""A proxy in front of Supabase that counts the REST calls of one program by path and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(?:GET|HEAD|POST|PATCH|PUT|DELETE) (/(?:rest|auth)/v1/[^ ?]*)")
_CHUNK = 256 * 1024


class CountingProxy:
    """An async context manager; `url` replaces the project's address in the program under test.

    It relies on HTTP/1.1 without pipelining, as httpx speaks it: a request begins where a chunk begins.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            upstream, upstream_writer = await asyncio.open_connection(self._host, self._port)
            try:
                await asyncio.gather(
                    self._pipe(reader, upstream_writer, counted=True), self._pipe(upstream, writer, counted=False)
                )
            finally:
                upstream_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # the program closed its connection, or the run has ended
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counted: bool) -> None:
        try:
            while data := await source.read(_CHUNK):
                if counted and (found := _REQUEST.match(data)):
                    self.counts[found[1].decode().removeprefix("/rest/v1/")] += 1
                target.write(data)
                await target.drain()
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                target.write_eof()
