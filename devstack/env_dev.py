"""The file `.env.dev`: what `make dev` runs, for the commands that are started beside it.

The worker's commands (`bridge status`, `bridge ask` …) read it after `.env`, while `make dev` holds a lock on it. So a
file that is left over has no effect.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from devstack import DevstackError

ENV_DEV = ".env.dev"
_TRIES = 20  # a command that looks for the lock holds it for a moment


class EnvDev:
    """Holds the file while the context is open. If another `make dev` of the folder has it, nothing is written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Lock the file. Raises `DevstackError` if it cannot be written."""
        for _ in range(_TRIES):
            try:
                descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise DevstackError(
                    f"{self._file} cannot be written ({error.strerror}): make its folder writable, or use another one "
                    "with --folder"
                ) from error
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == self._file.stat().st_ino:  # not one that was just removed
                    os.fchmod(descriptor, 0o600)
                    os.ftruncate(descriptor, 0)
                    self._descriptor = descriptor
                    return self
            os.close(descriptor)
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file."""
        self.remove()

    def remove(self) -> None:
        """Remove the file, also before the context ends."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def write(self, variables: Mapping[str, str]) -> None:
        """Replace its content. It stays the same file, which is locked."""
        if self._descriptor is None:
            return
        lines = [f"{name}={_quoted(value)}\n" for name, value in variables.items()]
        content = "".join(["# written by `make dev`, and removed when it stops\n", *lines]).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
