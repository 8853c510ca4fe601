"""Keeps a worker running with the newest version of the functions that works, while somebody edits them.

A version is a generated client in a folder of its own, and a worker that imports it. The next worker starts beside the
present one, and replaces it when it is ready; the present one then finishes its replies. What does not work, changes
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from devstack import DevstackError, warm
from devstack.generate import Problem, generate, install, run, warnings
from devstack.part import Console, Part
from devstack.problems import locate, unreadable_lines
from devstack.process import free_port
from devstack.source import MOST_ENTRIES, Reader, Source, watch

READY_SECONDS = 60.0
# How many workers may finish their replies beside the present one; the oldest hands its replies over.
MOST_FINISHING = 3
_RETIRE_SECONDS = 2.0  # how long a worker is asked whether it claims no more
_FUNCTIONS = re.compile(r'^bridge_breaker_open\{function="([^"]+)"\}', re.MULTILINE)


class BadVersion(DevstackError):
    """A version does not work: `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Version:
    """A worker that is ready, and what it was made from."""

    source: Source
    worker: Part
    folder: Path
    health: str  # the address of its health server
    environment: Mapping[str, str]
    functions: tuple[str, ...]


class Reload:
    """Runs a worker with what is in `folder` and `env_file`, and replaces it when that changes.

    `environment` returns the variables of a worker; a `DevstackError` that it raises is shown. `report` gets the
    problems of what is there now, or none. `use` gets each version from when it is the present one. Generated clients
    are kept in the folder `versions`.
    """

    def __init__(
        self,
        folder: Path,
        env_file: Path,
        versions: Path,
        environment: Callable[[Source], Awaitable[Mapping[str, str]]],
        report: Callable[[Sequence[Problem]], None],
        use: Callable[[Version], Awaitable[None]],
    ) -> None:
        self.current: Version | None = None
        self.began = asyncio.Event()  # the first version is in use, or has been reported
        self._folder, self._env_file, self._versions = folder, env_file, versions
        self._environment, self._report, self._use = environment, report, use
        self._reader = Reader(folder, env_file)
        self._changed = asyncio.Event()
        self._spare: tuple[Part, Console] | None = None  # the process of the next worker
        self._starting: Part | None = None  # the next worker, from its order until it is the present one
        self._leaving: dict[asyncio.Task[None], Part] = {}  # the oldest first
        self._number = 0

    async def run(self) -> str:
        """Work until the present worker exits by itself; return why.

        Raises `DevstackError` if the first one cannot start, for a reason that no change of a file would mend.
        """
        await asyncio.to_thread(shutil.rmtree, self._versions, ignore_errors=True)  # of a run that was killed
        watching = asyncio.create_task(watch(self._folder, self._env_file, self._changed))
        replacing: asyncio.Task[None] | None = None
        tried: Source | None = None
        try:
            while True:
                self._changed.clear()
                source = await asyncio.to_thread(self._reader.read)
                if source != tried:
                    await cancelled(replacing)
                    tried, replacing = source, asyncio.create_task(self._replace(source))
                present = self.current
                change, exit_ = asyncio.create_task(self._changed.wait()), asyncio.create_task(_exit(present))
                try:
                    tasks = {task for task in (change, exit_, watching, replacing) if task is not None}
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await cancelled(change)
                    await cancelled(exit_)
                if replacing in done and replacing is not None:
                    replacing.result()
                    replacing = None
                elif exit_ in done and self.current is present:
                    return exit_.result()
                elif watching in done:
                    watching.result()
        finally:
            await cancelled(watching)
            await cancelled(replacing)

    async def stop(self) -> None:
        """Stop every worker. Each hands over what it cannot finish in time; see `Part.stop` for how long it gets."""
        if self._spare is not None:
            self._spare[0].kill()
            await self._spare[0].stop()
        if self.current is not None:
            self._leave(self.current.worker, self.current.folder)
        await asyncio.gather(*(part.stop() for part in self._leaving.values()))
        await asyncio.gather(*self._leaving)
        await asyncio.to_thread(shutil.rmtree, self._versions, ignore_errors=True)

    def kill(self) -> None:
        """Kill every worker immediately."""
        present = (self.current.worker,) if self.current else ()
        spare = (self._spare[0],) if self._spare else ()
        starting = (self._starting,) if self._starting else ()
        for part in (*self._leaving.values(), *present, *spare, *starting):
            part.kill()

    async def _replace(self, source: Source) -> None:
        """Replace the present version if this one works, and otherwise report why not."""
        if self.current is not None and source == self.current.source:
            self._report(())  # a mistake was taken back
            return
        self._number += 1
        folder = self._versions / str(self._number)
        try:
            problems = await self._try(source, folder)
            self._report(problems)
            self.began.set()
            if self.current is not None and self.current.folder == folder:
                self._report((*problems, *self._left_out(source), *await warnings(folder)))
                if sum(content.count(b"generator ") for content in source.baml.values()) > 1:
                    await run("generate", self._folder)  # for other languages
            else:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await self._warm_up()
        except (DevstackError, OSError) as error:  # as of a full disk
            if self.current is None:
                raise
            self._report((Problem(str(error), is_warning=self.current.folder == folder),))

    async def _try(self, source: Source, folder: Path) -> Sequence[Problem]:
        """Put a version into use, or return why it does not work."""
        await self._warm_up()
        try:
            if problems := await generate(source.baml, folder):
                return problems
            switching = asyncio.create_task(self._switch(await self._start(source, folder)))
            try:
                return await asyncio.shield(switching)
            finally:
                await asyncio.wait((switching,))  # a version is never half in use
        except BadVersion as error:
            return (error.problem,)
        finally:
            self._starting = None

    async def _switch(self, version: Version) -> Sequence[Problem]:
        """Put a version that is ready into use, and return what could not be done for the commands beside it."""
        await self._take_over(version)
        problem: Problem | None = None
        try:
            await asyncio.to_thread(install, version.folder, self._folder)
        except OSError as error:
            problem = Problem(
                f"cannot be replaced, so commands beside use the old one: {error}", "baml_client", 0, True
            )
        problems = (problem,) if problem else ()
        self._report(problems)
        await self._use(version)
        return problems

    def _left_out(self, source: Source) -> Sequence[Problem]:
        """Return warnings of what has no effect: lines of `.env`, and folders that are too large to watch."""
        large = [
            Problem(f"holds more than {MOST_ENTRIES} files: changes of some have no effect", name, is_warning=True)
            for name in source.too_large
        ]
        return (*unreadable_lines(self._env_file), *large)

    async def _start(self, source: Source, folder: Path) -> Version:
        """Start a worker and wait until it is ready. Raises `BadVersion`, or `DevstackError` if nothing can mend it."""
        try:
            environment = await self._environment(source)
        except DevstackError as error:
            problem = locate(str(error), source, self._folder, self._env_file)
            if self.current is None and not problem.file:
                raise
            raise BadVersion(problem) from error
        port = free_port()
        part, terminal = await self._warm_up()
        self._spare, self._starting = None, part
        order = {
            "environment": {
                **environment,
                "BRIDGE_HEALTH_HOST": "127.0.0.1",
                "BRIDGE_HEALTH_PORT": str(port),
            },
            # the client of this version, not the one in the folder, which may be of another
            "path": [str(folder), str(self._folder)],
        }
        health = f"http://127.0.0.1:{port}"
        try:
            await part.order(json.dumps(order))
            functions = await self._until_ready(part, health)
        except TimeoutError:
            self._leave(part, folder)
            await part.stop()
            terminal.release()
            raise self._failure(f"the worker is not ready after {READY_SECONDS:.0f} s", source) from None
        except asyncio.CancelledError:
            self._leave(part, folder)
            part.terminate()
            raise
        if functions is None:
            reason = await part.ended()
            said = [line.removeprefix("bridge: ") for line in part.lines() if line.startswith("bridge: ")]
            failure = self._failure(said[-1] if said else reason, source, reason)
            if not isinstance(failure, BadVersion) or not (said or failure.problem.line):
                terminal.release()
            raise failure
        terminal.release(without=" info " if self.current is not None else None)
        return Version(source, part, folder, health, environment, functions)

    async def _warm_up(self) -> tuple[Part, Console]:
        """Return the process of the next worker, which loads its libraries and waits for an order."""
        if self._spare is None or self._spare[0].has_ended:
            terminal = Console()
            terminal.hold()  # what a version says that does not work is shown by file and line
            command = [sys.executable, "-u", "-P", str(Path(warm.__file__)), "bridge.cli", "run"]
            part = Part("worker", command, os.environ, terminal, folder=self._folder, takes_orders=True)
            self._spare = part, terminal
            await part.start()
        return self._spare

    def _failure(self, said: str, source: Source, reason: str = "") -> DevstackError:
        problem = locate(said, source, self._folder, self._env_file)
        if self.current is None and not problem.file:
            return DevstackError(reason or said)  # as when the project rejects the key: it is over
        return BadVersion(problem)

    async def _until_ready(self, part: Part, health: str) -> tuple[str, ...] | None:
        """Wait until a worker is ready, and return its functions; None if it exits. Raises TimeoutError."""
        async with asyncio.timeout(READY_SECONDS):
            while not part.has_ended:
                if (await _get(f"{health}/readyz"))[0] == 200:
                    status, metrics = await _get(f"{health}/metrics")
                    if status == 200:
                        return tuple(dict.fromkeys(_FUNCTIONS.findall(metrics)))
                await asyncio.sleep(0.05)
        return None

    async def _take_over(self, version: Version) -> None:
        """Make a version the present one, and let the one before it finish its replies."""
        before, self.current = self.current, version
        self._changed.set()  # so that `run` waits for the exit of the right worker
        if before is None:
            return
        self._leave(before.worker, before.folder)
        before.worker.signal(signal.SIGUSR1)
        for part in list(self._leaving.values())[:-MOST_FINISHING]:
            part.terminate()
        # what is asked from now on is for the new one
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETIRE_SECONDS):
                while True:
                    if (await _get(f"{before.health}/readyz"))[0] != 200:
                        return
                    await asyncio.sleep(0.02)

    def _leave(self, part: Part, folder: Path) -> None:
        """Let a worker end, however long that takes; then its version is deleted."""

        async def wait() -> None:
            await part.ended()
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

        task = asyncio.create_task(wait())
        self._leaving[task] = part
        task.add_done_callback(self._leaving.pop)


async def _exit(version: Version | None) -> str:
    """Wait until a version's worker exits; return why."""
    if version is not None:
        return await version.worker.ended()
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    return await never


async def _get(url: str) -> tuple[int, str]:
    """Return status and body; (0, "") if there is no answer."""
    try:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status, await response.text()
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        return 0, ""


async def cancelled(task: asyncio.Task[object] | asyncio.Task[None] | None) -> None:
    """Cancel a task and wait for its end. What it raises is for its owner, who no longer waits."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))
