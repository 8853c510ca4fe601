"""What `make dev` watches in a project's folder: `baml_src`, the Python modules beside it, and `.env`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from watchfiles import awatch

from devstack.migrations import PROJECT

# Folders of this repository that hold no code of a worker. Hidden ones are left out everywhere.
_NOT_THE_WORKERS = frozenset(
    (
        "app_tests",
        "baml_client",
        "bench",
        "build",
        "client",
        "deploy",
        "devstack",
        "dist",
        "docs",
        "supabase",
        "tests",
        "web",
    )
)
_NEVER = frozenset(("__pycache__", "node_modules", "site-packages", "baml_client"))
# files that mark a folder as somebody else's: a virtual or Conda environment, the data of Postgres, a cache
_MARKS = frozenset(("pyvenv.cfg", "conda-meta", "PG_VERSION", "CACHEDIR.TAG"))
MOST_ENTRIES = 20_000  # how many files and folders of one package are looked at, those nearest to its top first
# A file is read again if it was written so shortly before it was read that its time may not tell another change.
_RACY_NS = 2_000_000_000
_FUNCTION = re.compile(r"^\s*function\s+(\w+)", re.MULTILINE)
_HANDLER = re.compile(r"""^@(?:\w+\.)?handler\(\s*["'](\w+)["']""", re.MULTILINE)
# How long nothing must change before what has changed counts, and at most: one checkout of many files is one change.
_STEP_MS, _LONGEST_MS = 50, 500
_LOOK_MS = 1000  # how often to look without a notification


@dataclass(frozen=True, slots=True)
class Source:
    """What was read at one moment. Two are equal if nothing that matters has changed in between."""

    baml: dict[str, bytes]  # by path from the folder
    modules: dict[str, bytes]  # digests, by path from the folder
    env: bytes
    handlers: str | None = field(compare=False)  # the module `handlers`, if there is one
    names: tuple[str, ...] = field(compare=False)  # the functions and handlers, as far as they can be found in the text
    too_large: tuple[str, ...] = field(default=(), compare=False)  # packages that were not looked at as a whole

    def line_of_function(self, name: str) -> tuple[str, int] | None:
        """Return the file and line that define a BAML function, or None."""
        for file, content in self.baml.items():
            text = content.decode(errors="replace")
            for found in _FUNCTION.finditer(text):
                if found[1] == name:
                    return file, text.count("\n", 0, found.end()) + 1
        return None


@dataclass(frozen=True, slots=True)
class _File:
    """What was read from a file, and when (in nanoseconds)."""

    stamp: tuple[int, ...]
    at: int
    content: bytes  # of a module, its digest
    names: tuple[str, ...]


class Reader:
    """Reads the same folder again and again, and of its files those that have changed."""

    def __init__(self, folder: Path, env_file: Path) -> None:
        self._folder, self._env_file = folder, env_file
        self._files: dict[str, _File] = {}

    def read(self) -> Source:
        """Read what is there now. A file that disappears meanwhile counts as absent."""
        folder = self._folder
        top = [entry for entry in _entries(folder).files if entry.name.endswith(".py")]
        walks = {path: _walk(path) for path in packages(folder)}
        baml = self._read([entry for entry in _walk(folder / "baml_src")[0] if entry.name.endswith(".baml")])
        modules = self._read(
            [*(entry for found, _ in walks.values() for entry in found if entry.name.endswith(".py")), *top]
        )
        self._files = baml | modules
        named = [*baml.values(), *(file for name, file in modules.items() if not name.startswith("bridge/"))]
        env = b""
        with suppress(OSError):
            env = self._env_file.read_bytes()
        return Source(
            {name: file.content for name, file in baml.items()},
            {name: file.content for name, file in modules.items()},
            env,
            "handlers" if {"handlers.py", "handlers/__init__.py"} & modules.keys() else None,
            tuple(dict.fromkeys(name for file in named for name in file.names)),
            tuple(f"{path.name}/" for path, (_, is_whole) in walks.items() if not is_whole),
        )

    def _read(self, entries: Iterable[os.DirEntry[str]]) -> dict[str, _File]:
        found = {}
        for entry in entries:
            name = Path(entry.path).relative_to(self._folder).as_posix()
            with suppress(OSError):
                now, status = time.time_ns(), entry.stat()
                stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
                before = self._files.get(name)
                if before is None or before.stamp != stamp or before.at < max(stamp[:2]) + _RACY_NS:
                    content = Path(entry.path).read_bytes()
                    is_module = name.endswith(".py")
                    names = (_HANDLER if is_module else _FUNCTION).findall(content.decode(errors="replace"))
                    kept = hashlib.sha256(content).digest() if is_module else content
                    before = _File(stamp, now, kept, tuple(names))
                found[name] = before
        return found


def read(folder: Path, env_file: Path) -> Source:
    """Read a folder once; see `Reader`."""
    return Reader(folder, env_file).read()


def packages(folder: Path) -> tuple[Path, ...]:
    """Return the folders directly inside of `folder` that may hold modules of a worker."""
    left_out = {"baml_src"} | (_NOT_THE_WORKERS if folder == PROJECT else set())
    return tuple(Path(path) for path in _entries(folder).folders if os.path.basename(path) not in left_out)


async def watch(folder: Path, env_file: Path, changed: asyncio.Event) -> None:
    """Set `changed` whenever something may have changed, until cancelled. Compare what `read` returns to be sure."""
    is_polling: bool | None = None  # watchfiles decides
    while True:
        deep, shallow = await asyncio.to_thread(_watched, folder, env_file)
        stop = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                for paths in (deep, shallow):
                    task = _wait(paths, paths is deep, is_polling, changed, stop, (folder, env_file, deep))
                    group.create_task(task)
        except* FileNotFoundError:  # a folder that was there a moment ago
            await asyncio.sleep(0.1)
        except* (OSError, RuntimeError):  # the system has no more watches
            if is_polling:
                raise
            is_polling = True
        changed.set()  # nobody watched for a moment


async def _wait(
    paths: tuple[Path, ...],
    is_recursive: bool,
    is_polling: bool | None,
    changed: asyncio.Event,
    stop: asyncio.Event,
    place: tuple[Path, Path, tuple[Path, ...]],
) -> None:
    """Set `changed` at each change, until `stop` is set or another set of folders must be watched."""
    folder, env_file, deep = place
    changes = awatch(
        *paths,
        watch_filter=None,
        debounce=_LONGEST_MS,
        step=_STEP_MS,
        stop_event=stop,
        force_polling=is_polling,
        recursive=is_recursive,
        # notifications are hints: some file systems send none, and nobody listens while the folders are set up anew
        yield_on_timeout=not is_recursive,
        rust_timeout=_LOOK_MS,
    )
    async for _ in changes if paths else _nothing():
        changed.set()
        if (await asyncio.to_thread(_watched, folder, env_file))[0] != deep:  # a folder has come or gone
            stop.set()
    if paths:
        stop.set()


async def _nothing() -> AsyncIterator[None]:
    return
    yield


def _watched(folder: Path, env_file: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What to watch with everything in it, and without what is in its folders."""
    baml = folder / "baml_src"
    is_file = env_file.is_file() or not env_file.exists()  # not /dev/null
    shallow = (folder, env_file.parent) if is_file and env_file.parent != folder else (folder,)
    return (*packages(folder), *((baml,) if baml.is_dir() else ())), shallow


class _Entries(NamedTuple):
    """What is in one folder, by name."""

    files: list[os.DirEntry[str]]
    folders: list[str]
    total: int


def _entries(place: Path | str, *, most: int | None = None, follow: bool = True) -> _Entries:
    """List a folder, or the `most` entries that come first; links to folders count if `follow`."""
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError), os.scandir(place) as found:
        entries = sorted(islice(found, most), key=lambda entry: entry.name)
    # editors keep drafts beside a file: `.#chat.baml`, `.chat.baml.swp`, `#chat.baml#`, `chat.baml~`
    shown = [entry for entry in entries if not entry.name.startswith((".", "#"))]
    folders = [entry.path for entry in shown if entry.name not in _NEVER and _is_folder(entry, follow=follow)]
    own = [path for path in folders if not any(os.path.lexists(os.path.join(path, mark)) for mark in _MARKS)]
    return _Entries([entry for entry in shown if _is_file(entry)], own, len(entries))


def _is_folder(entry: os.DirEntry[str], *, follow: bool) -> bool:
    with suppress(OSError):  # a link to itself
        return entry.is_dir(follow_symlinks=follow)
    return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_file()
    return False


def _walk(top: Path) -> tuple[list[os.DirEntry[str]], bool]:
    """Return the files in a folder and the folders in it, and whether that is all of them (see MOST_ENTRIES)."""
    found: list[os.DirEntry[str]] = []
    waiting, left = deque([str(top)]), MOST_ENTRIES
    while waiting:
        entries = _entries(waiting.popleft(), most=left + 1, follow=False)
        left -= entries.total
        if left < 0:
            return found, False
        found += entries.files
        waiting += entries.folders
    return found, True
