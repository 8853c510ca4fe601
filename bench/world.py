"""The machine room of a run: projects, models, workers and people, started when a row needs them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import psutil
import psycopg

from bench import processes
from bench.counting import CountingProxy
from bench.processes import Failed, Program
from tests.support import database, users
from tests.support.database import Row
from tests.support.users import Ear, Person

Entered = TypeVar("Entered")

NO_QUOTA = "1000000"
# Seconds between the rounds of postgres_changes: as the hosted server polls, and at once.
POLLING = {"hosted": (0.1, 0.5), "at once": (0.0, 0.0)}
# Seconds to the first token and tokens a second.
PACES = {"no delay": (0.0, 0.0), "realistic": (0.3, 80.0)}


@dataclass(frozen=True)
class Project:
    """A running embedded Supabase."""

    program: Program
    environment: dict[str, str]
    admin_url: str
    data: Path

    @asynccontextmanager
    async def database(self) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """A superuser's connection."""
        async with database.database(self.admin_url) as connection:
            yield connection

    async def events(self, since: float) -> list[tuple[float, int]]:
        """Realtime's counter since a monotonic time: (time, events so far)."""
        async with httpx.AsyncClient(timeout=10) as http:
            answer = await http.get(f"{self.program.hello['control']}/events", params={"since": str(since)})
        return [(float(at), int(count)) for at, count in answer.json()]

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far of gateway with Realtime, REST and Auth (Lite), and Postgres."""
        return self._parts(_seconds)

    def memory(self) -> dict[str, float]:
        """Resident memory of the same parts, in MB. Postgres's shared pages count once for each of its processes."""
        return self._parts(lambda process: process.memory_info().rss / 1e6)

    def _parts(self, measure: Callable[[psutil.Process], float]) -> dict[str, float]:
        parent = psutil.Process(self.program.pid)
        found = {"gateway and Realtime": measure(parent), "REST (Lite)": 0.0, "Postgres": 0.0}
        for child in parent.children(recursive=True):
            try:
                part = "Postgres" if child.name().startswith("postgres") else "REST (Lite)"
                found[part] += measure(child)
            except psutil.NoSuchProcess:
                continue  # a connection's backend that has ended
        return found


@dataclass(frozen=True)
class Model:
    """A running demo model."""

    program: Program

    @property
    def environment(self) -> dict[str, str]:
        """The settings that lead to it."""
        return {"LLM_BASE_URL": self.program.hello["url"], "LLM_API_KEY": "key", "LLM_MODEL": "demo-model"}

    async def exchange(self, text: str, *, count: int = 1, ended: bool = False, within: float = 30) -> list[Row]:
        """Wait for the `count`th request about `text` to begin or end; newest first. Raises `Failed`."""
        query = {"text": text, "count": str(count), "within": str(within)} | ({"ended": "1"} if ended else {})
        async with httpx.AsyncClient(timeout=within + 5) as http:
            answer = await http.get(f"{self.program.hello['control']}/exchange", params=query)
        if answer.status_code != 200:
            raise Failed(f"the model was not asked about {text!r}")
        return cast(list[Row], answer.json())


class World:
    """Starts what a row needs and keeps it for the next one; all of it ends with the context.

    `quick` asks for fewer samples. `say` shows a line of progress. What it writes goes to data/`name` and logs/`name`.
    """

    def __init__(self, out: Path, *, quick: bool, say: Callable[[str], None], name: str = "") -> None:
        self.out = out
        self.name = name
        self.quick = quick
        self.say = say
        self._exit = AsyncExitStack()
        self._projects: dict[str, Project] = {}
        self._models: dict[str, Model] = {}
        self._workers = 0

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    @property
    def logs(self) -> Path:
        """Where the programs write what they say."""
        return self.out / "logs" / self.name

    def pick(self, quick: int, full: int) -> int:
        """How many: for a quick run, or for a full one."""
        return quick if self.quick else full

    async def project(self, polling: str = "hosted", *, realtime: bool = True) -> Project:
        """An embedded Supabase with this polling delay of `postgres_changes`."""
        key = polling if realtime else "tables"
        if key not in self._projects:
            name = f"project-{key.replace(' ', '-')}"
            data = self.out / "data" / self.name / name
            delays = POLLING[polling]
            arguments: list[object] = ["--data", data, "--polling", *delays, *([] if realtime else ["--no-realtime"])]
            program = await processes.start(name, "bench.project", *arguments, env={}, logs=self.logs)
            self._exit.push_async_callback(program.stop)
            self._projects[key] = Project(program, program.hello["environment"], program.hello["admin_url"], data)
        return self._projects[key]

    async def model(self, pace: str = "no delay") -> Model:
        """A demo model of this pace."""
        if pace not in self._models:
            first, rate = PACES[pace]
            name = f"model-{pace.replace(' ', '-')}"
            program = await processes.start(
                name, "bench.model", "--first", first, "--rate", rate, env={}, logs=self.logs
            )
            self._exit.push_async_callback(program.stop)
            self._models[pace] = Model(program)
        return self._models[pace]

    async def enter(self, opened: AsyncExitStack, *contexts: AbstractAsyncContextManager[Entered]) -> list[Entered]:
        """Enter all of these at once: programs take a second each to start. Raises what the first to fail does."""
        entered = await asyncio.gather(
            *(opened.enter_async_context(context) for context in contexts), return_exceptions=True
        )
        found: list[Entered] = []
        for one in entered:
            if isinstance(one, BaseException):
                raise one
            found.append(one)
        return found

    @asynccontextmanager
    async def worker(
        self, project: Project, model: Model, *, url: str | None = None, profile: Path | None = None, **changes: object
    ) -> AsyncIterator[Program]:
        """`bridge run`, ready, without a quota of events unless `changes` (BRIDGE_ settings) say so; killed at the end.

        `url` is another address of the project, such as that of a counting proxy; `profile` is where a profile goes.
        """
        self._workers += 1
        env = {
            **project.environment,
            **model.environment,
            "BRIDGE_EVENTS_PER_SECOND": NO_QUOTA,
            **({"SUPABASE_URL": url} if url else {}),
            **{f"BRIDGE_{name.upper()}": str(value) for name, value in changes.items()},
        }
        program = await processes.start_worker(env, self.logs, f"worker-{self._workers}", profile)
        try:
            yield program
        finally:
            await program.stop()

    @asynccontextmanager
    async def baseline(
        self, module: str, project: Project, model: Model, *arguments: object, url: str | None = None
    ) -> AsyncIterator[Program]:
        """A program of bench/baselines, ready; stopped at the end."""
        env = {**project.environment, **model.environment, **({"SUPABASE_URL": url} if url else {})}
        async with processes.running(
            module, f"bench.baselines.{module}", *arguments, env=env, logs=self.logs
        ) as program:
            yield program

    @asynccontextmanager
    async def counted(self, project: Project) -> AsyncIterator[CountingProxy]:
        """A counting proxy in front of a project."""
        async with CountingProxy(project.environment["SUPABASE_URL"]) as proxy:
            yield proxy

    @asynccontextmanager
    async def person(self, project: Project) -> AsyncIterator[Person]:
        """Somebody who has just signed up."""
        somebody = await users.person(project.environment)
        try:
            yield somebody
        finally:
            await somebody.close()


def unique(directive: str) -> str:
    """A message with a directive for the model, and an id to know it by."""
    return f"[[{directive}]] {uuid.uuid4().hex}"


def mark(message: str) -> str:
    """The id in a message of `unique`."""
    return message.rpartition(" ")[2]


async def heard_of(ear: Ear, event: str, **fields: Any) -> None:
    """Wait until a subscriber has heard such an event. Raises TimeoutError."""
    await ear.until(lambda heard: heard.of(event, **fields), within=30)


async def insert_chat(person: Person, message: str, chat_id: str, **columns: Any) -> str:
    """Ask the tutorial's way: a row of `chat_messages`."""
    message_id = str(uuid.uuid4())
    row = {"id": message_id, "chat_id": chat_id, "content": message, "role": "user", **columns}
    await person.client.table("chat_messages").insert(row).execute()
    return message_id


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
