"""A TCP proxy in front of the model: it refuses, resets and swallows connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


def reset(transport: asyncio.BaseTransport | None) -> None:
    """End a connection as a crashed peer does: with RST, not FIN."""
    if transport is None:
        return
    if (sock := transport.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()


class Link:
    """One proxied connection. A swallowed one stays open, and nothing gets through any more."""

    def __init__(self, near: asyncio.StreamWriter, *, swallowed: bool = False) -> None:
        self.near = near
        self.far: asyncio.StreamWriter | None = None
        self.swallowed = swallowed

    def reset(self) -> None:
        reset(self.near.transport)
        if self.far is not None:
            self.far.transport.abort()


class TcpProxy:
    """A TCP proxy on loopback to one server, as an async context manager.

    `swap` (two texts of equal length) replaces the first by the second in responses, so that a test can tell which of
    two clients a text went through.
    """

    def __init__(self, host: str, port: int, *, swap: tuple[bytes, bytes] | None = None) -> None:
        assert swap is None or len(swap[0]) == len(swap[1])
        self.port = 0
        self.resets_new = False  # every new connection is reset
        self.swallows_new = False  # every new connection is accepted and swallowed
        self.links: set[Link] = set()
        self._target = (host, port)
        self._swap = swap
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        self.reset_links()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Accept connections, always on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = int(self._server.sockets[0].getsockname()[1])

    async def refuse(self) -> None:
        """Refuse new connections. Open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset_links(self) -> None:
        """Reset every open connection."""
        for link in tuple(self.links):
            link.reset()

    def swallow_links(self) -> None:
        """Let nothing through the open connections, in either direction, for good."""
        for link in self.links:
            link.swallowed = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = Link(writer, swallowed=self.swallows_new)
        self.links.add(link)
        try:
            if self.resets_new:
                return
            while link.swallowed:
                if not await reader.read(CHUNK):
                    return
            far_reader, link.far = await asyncio.open_connection(*self._target)
            pumps = [
                asyncio.create_task(self._pump(link, reader, link.far)),
                asyncio.create_task(self._pump(link, far_reader, writer, self._swap)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # either end closed the connection, or the test is over
        finally:
            self.links.discard(link)
            self._tasks.discard(task)
            link.reset()

    async def _pump(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        swap: tuple[bytes, bytes] | None = None,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if not link.swallowed:
                    writer.write(data.replace(*swap) if swap else data)
                    await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
