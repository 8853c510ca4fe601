"""What goes wrong while `make dev` replaces a worker: errors of the system, and a save or Ctrl-C at a bad moment."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from devstack import DevstackError, generate, reload
from devstack.generate import Problem
from devstack.part import Console, Part
from devstack.reload import Reload, Version
from devstack.source import Source

SOURCE = Source({"baml_src/a.baml": b""}, {}, b"", None, ())
CHANGED = Source({"baml_src/a.baml": b" "}, {}, b"", None, ())


class Worker(Part):
    """A worker that is never started, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__("worker", (), {}, Console())
        self.told: list[str] = []
        self.ordered = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        return False

    async def ended(self) -> str:
        return "over"

    async def order(self, line: str) -> None:
        self.ordered.set()
        await asyncio.Event().wait()

    def signal(self, number: signal.Signals) -> None:
        self.told.append(number.name)

    def kill(self) -> None:
        self.told.append("SIGKILL")


class Reloading(Reload):
    """A reload, what it reported, and the versions that it used."""

    def __init__(self, folder: Path) -> None:
        self.reported: list[Sequence[Problem]] = []
        self.used: list[Version] = []
        self.may_use = asyncio.Event()
        self.may_use.set()
        self.switched = asyncio.Event()
        super().__init__(folder, folder / ".env", folder / "versions", self.variables, self.reported.append, self.use)
        self._spare = (Worker(), Console())

    async def variables(self, source: Source) -> Mapping[str, str]:
        return {}

    async def use(self, version: Version) -> None:
        self.switched.set()
        await self.may_use.wait()
        self.used.append(version)

    def version(self, source: Source, number: str) -> Version:
        return Version(source, Worker(), self._versions / number, "http://127.0.0.1:9", {}, ())

    def begin(self, source: Source) -> asyncio.Task[None]:
        return asyncio.create_task(self._replace(source))


@pytest.fixture
async def reloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reloading:
    async def nothing(*arguments: object) -> list[Problem]:
        return []

    monkeypatch.setattr(reload, "generate", nothing)
    monkeypatch.setattr(reload, "warnings", nothing)
    monkeypatch.setattr(reload, "install", lambda *arguments: None)
    return Reloading(tmp_path)


def ready(reloading: Reloading, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every worker be ready at once."""

    async def start(source: Source, folder: Path) -> Version:
        return reloading.version(source, folder.name)

    monkeypatch.setattr(reloading, "_start", start)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x.baml"), DevstackError("baml-cli is slow")])
async def test_error_of_the_system_keeps_the_version_before(
    reloading: Reloading, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*arguments: object) -> list[Problem]:
        raise error

    monkeypatch.setattr(reload, "generate", fail)
    with pytest.raises(type(error)):  # there is none before: `make dev` ends, and says so
        await reloading.begin(CHANGED)
    before = reloading.current = reloading.version(SOURCE, "0")
    await reloading.begin(CHANGED)
    assert reloading.current is before
    assert reloading.reported == [(Problem(str(error)),)]


@pytest.mark.parametrize("part", ["install", "warnings"])
async def test_error_after_the_switch_is_a_warning(
    reloading: Reloading, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "baml_client")

    ready(reloading, monkeypatch)
    monkeypatch.setattr(reload, part, fail)
    reloading.current = reloading.version(SOURCE, "0")
    await reloading.begin(CHANGED)
    assert [version.source for version in reloading.used] == [CHANGED]
    [problem] = reloading.reported[-1]
    assert problem.is_warning
    assert "Permission denied" in str(problem)


async def test_save_during_the_switch_leaves_no_version_half_in_use(
    reloading: Reloading, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(reloading, monkeypatch)
    reloading.may_use.clear()
    task = reloading.begin(CHANGED)
    await reloading.switched.wait()
    task.cancel()
    reloading.may_use.set()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert [version.source for version in reloading.used] == [CHANGED]


@pytest.mark.parametrize("then", [Reload.kill, None])
async def test_worker_that_is_starting_is_never_lost(reloading: Reloading, then: Callable[[Reload], None]) -> None:
    assert reloading._spare is not None
    worker = reloading._spare[0]
    assert isinstance(worker, Worker)
    task = reloading.begin(SOURCE)
    await worker.ordered.wait()
    if then is not None:
        then(reloading)
        assert worker.told == ["SIGKILL"]
    task.cancel()  # while its order is written
    await asyncio.wait((task,))
    assert worker.told[-1] == "SIGTERM"
    await reloading.stop()


async def test_oldest_worker_is_told_to_end_once(reloading: Reloading, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(part: Part) -> str:
        await asyncio.Event().wait()
        return ""

    ready(reloading, monkeypatch)
    monkeypatch.setattr(Worker, "ended", never)
    workers = []
    for number in range(reload.MOST_FINISHING + 3):
        await reloading.begin(Source({"baml_src/a.baml": b"%d" % number}, {}, b"", None, ()))
        assert reloading.current is not None
        workers.append(reloading.current.worker)
    first = workers[0]
    assert isinstance(first, Worker)
    assert first.told == ["SIGUSR1", "SIGTERM"]
    for task in list(reloading._leaving):
        task.cancel()


async def test_baml_cli_does_not_get_the_terminals_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "baml-cli"
    program.write_text(f"#!{sys.executable}\nimport os\nprint(os.getsid(0) == os.getpid())\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(generate, "_cli", lambda: os.fspath(program))
    assert await generate.run("generate", tmp_path) == (False, "True\n")
