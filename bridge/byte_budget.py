"""A number of bytes that many share: who comes first gets them first."""

import asyncio
from collections import deque
from typing import Self


class ByteBudget:
    """At most so many bytes are in use at once. Create it on any thread, and use it on one event loop."""

    def __init__(self, most: int) -> None:
        self.in_use = 0
        self._most = most
        self._line: deque[Place] = deque()

    def reserve(self, count: int) -> "Place":
        """A place in the line for so many bytes. More than there are count as all of them."""
        return Place(self, min(count, self._most))

    def join(self, place: "Place") -> None:
        """Get in line."""
        self._line.append(place)
        self._serve()

    def leave(self, place: "Place") -> None:
        """Leave the line, or give the bytes back."""
        if place.is_served:
            self.in_use -= place.count
        else:
            self._line.remove(place)
        self._serve()

    def _serve(self) -> None:
        """Serve the line in its order: a small one does not overtake a large one, which would wait for ever."""
        while self._line and self.in_use + self._line[0].count <= self._most:
            place = self._line.popleft()
            self.in_use += place.count
            place.served.set()


class Place:
    """A place in the line. It holds its bytes, once it is served, to the end of the block."""

    def __init__(self, budget: ByteBudget, count: int) -> None:
        self.count = count
        self.served = asyncio.Event()
        self._budget = budget

    @property
    def is_served(self) -> bool:
        """Whether it has its bytes."""
        return self.served.is_set()

    def __enter__(self) -> Self:
        """Get in line."""
        self._budget.join(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it, or give the bytes back."""
        self._budget.leave(self)
