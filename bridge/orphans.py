"""Removes objects that no message names: of deleted sessions, and uploads that were never sent.

Only Storage's API can remove an object. So the database says in its answers that there are some, and gives each worker
that asks a few of them for 20 seconds. What a worker does not remove in that time, another one gets.
"""

import asyncio
import logging
import random
import re

from bridge.errors import StoreError, StoreRefused
from bridge.metrics import Metrics
from bridge.storage import Storage
from bridge.store import Store

log = logging.getLogger(__name__)

MOST_SECONDS = 15.0  # for what was given at once
PAUSE_SECONDS = 5.0  # after a failure
MOST_PAGES = 10  # of a folder's objects at once: a session has up to 200

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FOLDER = re.compile(f"({_UUID})/")
_PATH = re.compile(rf"{_UUID}/{_UUID}\.[a-z0-9]{{1,8}}")


class Orphans:
    """Removes orphans whenever the database says that there are some, a few at a time."""

    def __init__(self, store: Store, storage: Storage, metrics: Metrics) -> None:
        self._store, self._storage, self._metrics = store, storage, metrics
        self._due = asyncio.Event()

    def wake(self) -> None:
        """There are some."""
        self._due.set()

    async def run(self) -> None:
        """Remove until cancelled: whatever is left then, another worker removes."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                while await self._remove_some():
                    pass
            except StoreError as error:
                log.warning("orphans: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _remove_some(self) -> bool:
        """Remove what the database gives; whether it gave anything."""
        prefixes = list(await self._store.orphans())
        random.shuffle(prefixes)  # one that cannot be removed must not keep the same others for ever
        done: list[str] = []
        try:
            async with asyncio.timeout(MOST_SECONDS):
                for prefix in prefixes:
                    try:
                        await self._remove_one(prefix)
                    except StoreRefused as error:
                        log.warning("orphans: %r is left: %s", prefix, error)
                    else:
                        done.append(prefix)
        except TimeoutError:
            log.warning("orphans: %d of %d were removed in %g s", len(done), len(prefixes), MOST_SECONDS)
        finally:
            if done:
                await self._store.orphans_done(done)
        return bool(prefixes)

    async def _remove_one(self, prefix: str) -> None:
        if _PATH.fullmatch(prefix):
            await self._storage.remove([prefix])
            self._metrics.orphans_removed.inc()
        elif folder := _FOLDER.fullmatch(prefix):
            for _ in range(MOST_PAGES):
                if not (paths := await self._storage.list(folder[1])):
                    break
                await self._storage.remove(paths)
                self._metrics.orphans_removed.inc(len(paths))
        else:
            log.error("orphans: %r is neither an object nor a session's folder, and nothing is removed", prefix)
