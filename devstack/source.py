"""What `make dev` watches in a project's folder: `baml_src`, the Python modules beside it, and `.env`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

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
_NEVER = frozenset(("__pycache__", "node_modules", "baml_client"))
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

    def line_of_function(self, name: str) -> tuple[str, int] | None:
        """Return the file and line that define a BAML function, or None."""
        for file, content in self.baml.items():
            text = content.decode(errors="replace")
            for found in _FUNCTION.finditer(text):
                if found[1] == name:
                    return file, text.count("\n", 0, found.end()) + 1
        return None


def read(folder: Path, env_file: Path) -> Source:
    """Read what is there now. A file that disappears meanwhile counts as absent."""
    baml = dict(_contents(folder, (folder / "baml_src",), ".baml"))
    modules = dict(_contents(folder, packages(folder), ".py"))
    for file in sorted(folder.glob("[!.#]*.py")):
        with suppress(OSError):
            modules[file.name] = file.read_bytes()
    own = [text for name, text in modules.items() if not name.startswith("bridge/")]
    names = (*_named(_FUNCTION, baml.values()), *_named(_HANDLER, own))
    env = b""
    with suppress(OSError):
        env = env_file.read_bytes()
    return Source(
        baml,
        {name: hashlib.sha256(content).digest() for name, content in modules.items()},
        env,
        "handlers" if {"handlers.py", "handlers/__init__.py"} & modules.keys() else None,
        tuple(dict.fromkeys(names)),
    )


def _named(pattern: re.Pattern[str], contents: Iterable[bytes]) -> list[str]:
    return [found[1] for content in contents for found in pattern.finditer(content.decode(errors="replace"))]


def packages(folder: Path) -> tuple[Path, ...]:
    """Return the folders directly inside of `folder` that may hold modules of a worker."""
    left_out = _NOT_THE_WORKERS if folder == PROJECT else _NEVER | {"baml_src"}
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return tuple(sorted(path for path in found if path.name not in left_out | _NEVER | {"baml_src"}))


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


def _contents(folder: Path, inside: tuple[Path, ...], suffix: str) -> Iterator[tuple[str, bytes]]:
    for top in inside:
        for place, folders, files in os.walk(top):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NEVER)
            for name in sorted(files):
                # editors keep drafts beside a file: `.#chat.baml`, `.chat.baml.swp`, `#chat.baml#`, `chat.baml~`
                if name.endswith(suffix) and not name.startswith((".", "#")):
                    file = Path(place, name)
                    with suppress(OSError):
                        yield file.relative_to(folder).as_posix(), file.read_bytes()
