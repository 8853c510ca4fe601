"""The bytes of objects: a file for each version in one folder.

A file is named by its version, a UUID that the server makes: nothing that a client sends is part of a path. A version
never changes, and nobody knows of it until its row is committed, so a file needs no temporary name.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from devstack.storage import errors


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that was written: its version, its size in bytes, and the MD5 of its bytes in hexadecimal."""

    version: str
    size: int
    md5: str


class Files:
    """The folder. With `fsync`, a file survives a crash of the machine once `write` has returned."""

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        self._folder = folder
        self._fsync = fsync

    async def write(self, body: AsyncIterable[bytes], limit: int) -> Stored:
        """Write a body as a new version, a piece at a time.

        Raises StorageError as soon as it has more than `limit` bytes. Nothing is left behind then, nor if the body ends
        early.
        """
        version = str(uuid.uuid4())
        digest, size = hashlib.md5(usedforsecurity=False), 0
        path = self._path(version)
        file = path.open("xb")
        try:
            with file:
                async for piece in body:
                    size += len(piece)
                    if size > limit:
                        raise errors.too_large()
                    digest.update(piece)
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(self._settle, file)
        except BaseException:
            path.unlink()
            raise
        return Stored(version, size, digest.hexdigest())

    async def copy(self, version: str) -> str:
        """Copy a version; return the new one. Raises StorageError if its bytes are gone."""
        copy = str(uuid.uuid4())
        try:
            with self.open(version) as source, self._path(copy).open("xb") as file:
                await asyncio.to_thread(shutil.copyfileobj, source, file)
                await asyncio.to_thread(self._settle, file)
        except FileNotFoundError as error:
            raise errors.bytes_not_found() from error
        return copy

    def open(self, version: str) -> BinaryIO:
        """Open a version; what is open can be read to its end even if it is removed. Raises FileNotFoundError."""
        return self._path(version).open("rb")

    def remove(self, versions: Iterable[str | None]) -> None:
        """Remove versions; those that are gone do not matter."""
        for version in versions:
            with contextlib.suppress(FileNotFoundError):
                self._path(version or "").unlink()

    def sweep(self, used: Iterable[str]) -> None:
        """Create the folder, and remove what no row names: uploads and removals that a crash interrupted."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        names = set(used)
        for path in self._folder.iterdir():
            if path.name not in names and not path.is_dir():
                path.unlink()

    def _path(self, version: str) -> Path:
        try:
            return self._folder / str(uuid.UUID(version))
        except ValueError as error:  # a row that was written in SQL may say anything
            raise FileNotFoundError(version) from error

    def _settle(self, file: BinaryIO) -> None:
        file.flush()
        if not self._fsync:
            return
        os.fsync(file.fileno())
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
