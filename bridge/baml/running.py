"""What the running calls share: the event loop's time, and memory."""

import asyncio
import contextlib
import ctypes
import functools
import heapq
import itertools
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

READ_SHARE = 0.04  # share of one core for reading one stream; parsing a structure covers the whole text so far
READ_SHARE_OF_ALL = 0.4  # … and for reading all of them
READ_TURN = 0.01  # seconds of one turn of the event loop after which no other reading begins in it

# What is kept of a reply until its call is closed. 32 MB are 30,000 tokens, each in an event of 200 bytes.
EVENT_BYTES = 600  # for each event, beside its text twice
TEXT_COPIES = 8  # of what was said: those of BAML, of the reply as it grows, and of what is on its way
HELD_BYTES = 96 << 20  # of one reply
HELD_BY_ALL = 144 << 20  # of all running replies: the largest ends

WEIGHT_A_SECOND = 1_000  # a structure with so much more weight waits as if it had come a second later

TRIM_BYTES = 48 << 20  # when the process has grown by so much, glibc is told to give back what is free,
TRIM_SHARE = 0.05  # but for no more than this share of one core
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# Bytes: larger blocks are mapped for themselves, and so go back at once; and so much may be free at the heap's end.
GO_BACK = 256 << 10, 1 << 20
ARE_KEPT = 32 << 20, 512 << 20
KEEP_SECONDS = 2.0  # a provider may take long to begin


class Holder(Protocol):
    """A call that is running. `held` is how many bytes are kept of its reply."""

    held: int


class Turns:
    """One after the other, in the order of arrival, but heavy ones as if they had come later. `clock` gives seconds.

    So who sends many heavy structures hardly holds up the light ones of others, and none waits for ever.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_taken = False
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []  # a heap
        self._arrivals = itertools.count()

    @contextlib.asynccontextmanager
    async def turn(self, weight: int) -> AsyncIterator[None]:
        """Wait for a turn, and end it with the block."""
        if self._is_taken:
            turn = asyncio.get_running_loop().create_future()
            due = self._clock() + weight / WEIGHT_A_SECOND
            heapq.heappush(self._waiting, (due, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                raise
        self._is_taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


class Running:
    """The calls that are running, and what is kept of their replies."""

    def __init__(self) -> None:
        self.held = 0
        self.parsing = Turns()  # one structure is parsed apart at a time
        self._read_seconds = 0.0  # in this turn of the event loop
        self._next_turn = asyncio.Event()
        self._calls: set[Holder] = set()
        self._memory = _Memory()

    @property
    def count(self) -> int:
        """How many calls are running."""
        return len(self._calls)

    @property
    def share(self) -> float:
        """The share of one core for reading one stream."""
        return min(READ_SHARE, READ_SHARE_OF_ALL / max(1, self.count))

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[float]:
        """Read, parse or look within the block, as soon as `may_read` allows it; nothing is awaited there.

        The block gets its thread's CPU time when it began: time that the machine spent elsewhere is no cost of reading.
        """
        await self.may_read()
        started = time.thread_time()
        try:
            yield started
        finally:
            self.spend(time.thread_time() - started)

    async def may_read(self) -> None:
        """Wait until this turn of the event loop has time for reading: what came at once is not read at once."""
        while self._read_seconds > READ_TURN:
            await self._next_turn.wait()

    def spend(self, seconds: float) -> None:
        """So much time of this turn of the event loop went into reading."""
        if not self._read_seconds:
            self._next_turn.clear()
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._read_seconds += seconds

    def _begin_turn(self) -> None:
        self._read_seconds = 0.0
        self._next_turn.set()

    @property
    def largest(self) -> Holder | None:
        """The call that has to end because all together hold too much."""
        return max(self._calls, key=lambda call: call.held) if self.held > HELD_BY_ALL else None

    def begin(self, call: Holder) -> None:
        """A call begins."""
        self._calls.add(call)

    def hold(self, call: Holder, count: int) -> None:
        """So many bytes more are kept of its reply."""
        call.held += count
        self.held += count

    @contextlib.contextmanager
    def copying(self, size: int) -> Iterator[Callable[[], None]]:
        """A call begins within the block with arguments of so many bytes. Call what it yields once the reply has begun.

        baml-py 0.226.3 copies them several times while it holds the GIL. Most of that time, the system provides memory
        that was just given back. So while such calls begin, glibc keeps large blocks for the next copy, for a while.
        """
        with contextlib.ExitStack() as stack:
            if size > GO_BACK[0]:
                stack.enter_context(self._memory.keep())
                late = asyncio.get_running_loop().call_later(KEEP_SECONDS, stack.close)
                stack.callback(late.cancel)
            yield stack.close

    def end(self, call: Holder) -> None:
        """A call is closed: nothing is kept of it any more."""
        if call in self._calls:
            self._calls.remove(call)
            self.held -= call.held
            self._memory.give_back()


class _Memory:
    """Has glibc give back what BAML's threads let go: otherwise it keeps 600 MB after some hundred large replies."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", None)  # glibc only
        self._mallopt = getattr(libc, "mallopt", None)
        self._set(GO_BACK)
        self._keepers = 0
        self._first = 0  # bytes of the process when the first call ended
        self._not_before = 0.0
        self._trimming: asyncio.Future[None] | None = None

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        self._keepers += 1
        self._set(ARE_KEPT)
        try:
            yield
        finally:
            self._keepers -= 1
            if not self._keepers:
                self._set(GO_BACK)

    def _set(self, thresholds: tuple[int, int]) -> None:
        if self._mallopt:
            self._mallopt(_M_MMAP_THRESHOLD, thresholds[0])
            self._mallopt(_M_TRIM_THRESHOLD, thresholds[1])

    def give_back(self) -> None:
        size = _size_of_process()
        self._first = self._first or size
        if self._trim and size > self._first + TRIM_BYTES and time.monotonic() > self._not_before:
            self._not_before = math.inf
            self._trimming = asyncio.get_running_loop().run_in_executor(None, self._run)

    def _run(self) -> None:
        begun = time.monotonic()
        if self._trim:
            self._trim(0)  # up to 0.2 s, without the GIL
        self._not_before = begun + (time.monotonic() - begun) / TRIM_SHARE


def _size_of_process() -> int:
    """Return the memory that the process holds, in bytes; 0 if the system does not tell."""
    try:
        return int(os.pread(_statm(), 100, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0


@functools.cache
def _statm() -> int:
    return os.open("/proc/self/statm", os.O_RDONLY)  # kept open: to open it takes most of the time
