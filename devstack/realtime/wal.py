"""Streams committed row changes over a replication connection with a temporary slot, and reconnects when it is lost.

psycopg does not support the replication protocol, but libpq does: psycopg opens the connection, and the stream is read
through its `pgconn`. Nothing is polled: the event loop wakes up when data arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import time
from collections.abc import Callable

import psycopg
from psycopg import pq

from devstack.realtime.pgoutput import POSTGRES_EPOCH, Begin, Change, Commit, Decoder

logger = logging.getLogger(__name__)

SLOT_SECONDS = 30.0
STATUS_SECONDS = 10.0  # well below wal_sender_timeout (60 s)
MESSAGES_PER_TURN = 500  # so that a huge transaction does not block the event loop


class ReplicationLost(Exception):
    """The replication stream ended or could not be started."""


class ReplicationStream:
    """Calls `on_change` for each row change in a publication, in commit order, and `on_commit` after each transaction.

    Changes committed while the stream is down are lost, as on the hosted service. Callbacks must be fast and must not
    raise; if one does, the exception is logged and the stream restarts.
    """

    def __init__(
        self,
        dsn: str,
        publication: str,
        *,
        on_change: Callable[[Change, int], None],
        on_commit: Callable[[], None] | None = None,
    ) -> None:
        self._dsn = dsn
        self._publication = publication
        self._on_change = on_change
        self._on_commit = on_commit
        self.live = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reader: _Reader | None = None

    async def start(self) -> None:
        """Open the stream. Raises psycopg.Error or ReplicationLost; after that, a lost stream reconnects by itself."""
        self._reader = await self._connect()
        self._task = asyncio.create_task(self._keep(), name=f"replication of {self._publication}")

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that runs the stream; unless it fails, only `stop` ends it."""
        return self._task

    async def stop(self) -> None:
        """Close the stream and its connection, which also drops the slot."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def pause(self) -> None:
        """Stop reading until `resume`; meanwhile, Postgres retains new changes."""
        if self._reader is not None:
            self._reader.pause()

    def resume(self) -> None:
        """Continue reading after `pause`."""
        if self._reader is not None:
            self._reader.resume()

    async def _connect(self) -> _Reader:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=None,
            replication="database",
            connect_timeout=5,
            application_name="realtime_replication",
        )
        slot = f"realtime_{os.getpid()}_{time.monotonic_ns():x}"
        reader = _Reader(connection, self._on_change, self._on_commit)
        try:
            async with asyncio.timeout(SLOT_SECONDS):
                # Postgres waits here until all open write transactions have finished.
                await connection.execute(
                    f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')".encode()
                )
                await reader.begin(
                    f"START_REPLICATION SLOT {slot} LOGICAL 0/0 "
                    f"(proto_version '1', publication_names '\"{self._publication}\"')".encode()
                )
        except BaseException as error:
            reader.close()
            await connection.close()
            if isinstance(error, TimeoutError):
                raise ReplicationLost(
                    f"no replication slot within {SLOT_SECONDS:.0f} s: a write transaction was open all that time, "
                    "see pg_stat_activity"
                ) from error
            raise
        self.live.set()
        return reader

    async def _keep(self) -> None:
        pause = 0.1
        while True:
            reader = self._reader
            try:
                if reader is None:
                    reader = self._reader = await self._connect()
                    logger.info("reconnected replication of %s", self._publication)
                pause = 0.1
                await reader.watch()
            except (psycopg.Error, ReplicationLost, OSError, TimeoutError) as error:
                logger.warning("lost replication of %s: %s", self._publication, str(error).strip())
            finally:
                self.live.clear()
                self._reader = None
                if reader is not None:
                    reader.close()
                    await reader.connection.close()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)


class _Reader:
    """Reads one replication connection, driven by the event loop's readiness callbacks."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[tuple[object, ...]],
        on_change: Callable[[Change, int], None],
        on_commit: Callable[[], None] | None,
    ) -> None:
        self.connection = connection
        self._pgconn = connection.pgconn
        self._on_change = on_change
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._decoder = Decoder()
        self._committed_at = 0
        self._in_transaction = False
        self._confirmed = 0
        self._paused = False
        # libpq forgets a broken socket before it can be removed from the event loop.
        self._socket = self._pgconn.socket

    async def begin(self, command: bytes) -> None:
        """Send START_REPLICATION and wait until the stream has started."""
        self._pgconn.send_query(command)
        self._pgconn.flush()
        self._loop.add_reader(self._socket, self._readable)
        await asyncio.wait({self._started, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()

    async def watch(self) -> None:
        """Report the confirmed position to Postgres periodically, until the stream ends. Raises ReplicationLost."""
        while True:
            await asyncio.wait({self._ended}, timeout=STATUS_SECONDS)
            if self._ended.done():
                return self._ended.result()
            self._send_status()

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._ended.done():
                self._loop.add_reader(self._socket, self._readable)
                self._loop.call_soon(self._readable)

    def close(self) -> None:
        if not self._ended.done():
            self._loop.remove_reader(self._socket)
            self._ended.cancel()

    def _readable(self) -> None:
        if self._ended.done() or self._paused:
            return
        try:
            self._pgconn.consume_input()
            if not self._started.done():
                self._read_result()
            if self._started.done():
                self._read_messages()
        except (psycopg.Error, ReplicationLost) as error:
            self._end(ReplicationLost(str(error).strip()))
        except Exception as error:  # raised by a callback; it must not reach the event loop
            logger.exception("failed to handle a replicated change")
            self._end(ReplicationLost(repr(error)))

    def _read_result(self) -> None:
        if self._pgconn.is_busy():
            return
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise ReplicationLost(result.get_error_message() if result else "no response to START_REPLICATION")
        self._started.set_result(None)

    def _read_messages(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if self._paused:
                return
            size, data = self._pgconn.get_copy_data(1)
            if size == 0:
                return
            if size < 0:
                result = self._pgconn.get_result()
                raise ReplicationLost(result.get_error_message() if result else "Postgres ended the stream")
            self._handle(bytes(data))
        self._loop.call_soon(self._readable)

    def _handle(self, data: bytes) -> None:
        if data[0] == 0x77:  # w: WAL start, WAL end and time, then a pgoutput message
            event = self._decoder.decode(data[25:])
            if isinstance(event, Change):
                self._on_change(event, self._committed_at)
            elif isinstance(event, Begin):
                self._in_transaction = True
                self._committed_at = event.committed_at
            elif isinstance(event, Commit):
                self._in_transaction = False
                self._confirmed = max(self._confirmed, event.end)
                if self._on_commit is not None:
                    self._on_commit()
        elif data[0] == 0x6B:  # k: keepalive
            (end,) = struct.unpack_from(">Q", data, 1)
            if not self._in_transaction:
                self._confirmed = max(self._confirmed, end)
            if data[17]:
                # Postgres waits for this reply when it shuts down.
                self._send_status()

    def _send_status(self) -> None:
        now = int((time.time() - POSTGRES_EPOCH) * 1_000_000)
        position = self._confirmed
        try:
            self._pgconn.put_copy_data(struct.pack(">cQQQqB", b"r", position, position, position, now, 0))
            self._pgconn.flush()
        except psycopg.Error as error:
            self._end(ReplicationLost(str(error).strip()))

    def _end(self, error: ReplicationLost) -> None:
        if not self._ended.done():
            self._loop.remove_reader(self._socket)
            self._ended.set_exception(error)
