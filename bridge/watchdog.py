"""Ends the process when its event loop has stopped: not every host restarts a machine because a health check fails."""

import faulthandler
import logging
import os
import sys
import threading
import time

log = logging.getLogger(__name__)


class Watchdog:
    """A thread that prints every traceback and exits with code 1 when it was not fed for `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._fed_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def age(self) -> float:
        """Seconds since it was last fed."""
        return time.monotonic() - self._fed_at

    def feed(self) -> None:
        """Report that the loop turns."""
        self._fed_at = time.monotonic()

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, also before `start`."""
        self._stopped.set()

    def _watch(self) -> None:
        pause = self.patience / 10
        since = checked_at = time.monotonic()
        while not self._stopped.wait(pause):
            now = time.monotonic()
            if now - checked_at > 2 * pause + 1:
                since = now  # this thread did not run either: the whole process was frozen
            checked_at = now
            if now - max(since, self._fed_at) > self.patience:
                log.critical("no progress for %.0f s: exiting", self.patience)
                faulthandler.dump_traceback(file=sys.stderr)
                os._exit(1)
