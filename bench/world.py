"""The environment of a row: projects, models, workers and users, started when a row needs them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench import processes
from bench.baselines.conversation import EARLIER, HISTORY
from bench.counting import CountingProxy
from bench.database import Database, add_finished, one_row
from bench.processes import Failed, Program, cpu_seconds
from tests.support import database, users
from tests.support.database import Row
from tests.support.users import Ear, Person

Entered = TypeVar("Entered")

NO_QUOTA = "1000000"
# Seconds between two polls of postgres_changes: as on the hosted service, and without delay.
POLLING = {"hosted": (0.1, 0.5), "at once": (0.0, 0.0)}
# Seconds to the first token, and tokens a second (0: without delay).
PACES = {"no delay": (0.0, 0.0), "realistic": (0.3, 80.0)}


@dataclass(frozen=True)
class Project:
    """A running embedded Supabase."""

    program: Program
    environment: dict[str, str]
    admin_url: str
    data: Path

    def database(self) -> AbstractAsyncContextManager[Database]:
        """A superuser's connection."""
        return database.database(self.admin_url)

    async def events(self, since: float) -> list[tuple[float, int]]:
        """Samples (monotonic time, events so far) of Realtime's counter since a monotonic time."""
        async with httpx.AsyncClient(timeout=10) as http:
            response = await http.get(f"{self.program.hello['control']}/events", params={"since": str(since)})
        return [(float(at), int(count)) for at, count in response.json()["samples"]]

    async def events_by_topic(self) -> Counter[str]:
        """Realtime's events so far, by the topic without its last part, and of `postgres_changes`."""
        async with httpx.AsyncClient(timeout=10) as http:
            response = await http.get(f"{self.program.hello['control']}/events", params={"since": "inf"})
        return Counter(response.json()["by_topic"])

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far of the gateway with Realtime, of REST and Auth (Lite), and of Postgres."""
        parent = psutil.Process(self.program.pid)
        found = {"gateway and Realtime": cpu_seconds(parent), "REST (Lite)": 0.0, "Postgres": 0.0}
        for child in parent.children(recursive=True):
            try:
                part = "Postgres" if child.name().startswith("postgres") else "REST (Lite)"
                found[part] += cpu_seconds(child)
            except psutil.NoSuchProcess:
                continue  # the backend of a connection that was closed
        return found


async def metrics(workers: Sequence[Program]) -> Counter[str]:
    """The sums of the workers' counters: by name, and of the claims also by their source (`claims: broadcast`)."""
    found: Counter[str] = Counter()
    async with httpx.AsyncClient(timeout=10) as http:
        for worker in workers:
            text = (await http.get(f"{worker.hello['health']}/metrics")).text
            for family in text_string_to_metric_families(text):
                for sample in family.samples if family.type == "counter" else ():
                    name = sample.name.removeprefix("bridge_").removesuffix("_total")
                    found[name] += int(sample.value)
                    if name == "claims":
                        found[f"claims: {', '.join(sample.labels.values())}"] += int(sample.value)
    return found


@dataclass(frozen=True)
class Model:
    """A running demo model."""

    program: Program

    @property
    def environment(self) -> dict[str, str]:
        """The settings that point to it."""
        return {"LLM_BASE_URL": self.program.hello["url"], "LLM_API_KEY": "key", "LLM_MODEL": "demo-model"}

    async def exchange(self, text: str, *, count: int = 1, ended: bool = False, within: float = 30) -> list[Row]:
        """Wait for the `count`th request about `text` to begin or end; latest first. Raises `Failed`."""
        query = {"text": text, "count": str(count), "within": str(within)} | ({"ended": "1"} if ended else {})
        async with httpx.AsyncClient(timeout=within + 5) as http:
            response = await http.get(f"{self.program.hello['control']}/exchange", params=query)
        if response.status_code != 200:
            raise Failed(f"the model received no request about {text!r}")
        return cast(list[Row], response.json())


class World:
    """Starts what a row needs and keeps it for the next row; everything stops with the context.

    `quick` asks for fewer samples. `say` prints a line of progress. Files go to data/`name` and logs/`name`.
    """

    def __init__(self, out: Path, *, quick: bool, say: Callable[[str], None], name: str = "") -> None:
        self.quick = quick
        self.say = say
        self.logs = out / "logs" / name
        self._data = out / "data" / name
        self._exit = AsyncExitStack()
        self._projects: dict[str, Project] = {}
        self._models: dict[str, Model] = {}
        self._workers = 0

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def pick(self, quick: int, full: int) -> int:
        """One number for a quick run, another for a full one."""
        return quick if self.quick else full

    async def project(self, polling: str = "hosted", *, realtime: bool = True) -> Project:
        """An embedded Supabase with this polling delay of `postgres_changes`."""
        key = polling if realtime else "tables"
        if key not in self._projects:
            name = f"project-{key.replace(' ', '-')}"
            arguments: list[object] = ["--data", self._data / name, "--polling", *POLLING[polling]]
            if not realtime:
                arguments.append("--no-realtime")
            program = await processes.start(name, "bench.project", *arguments, env={}, logs=self.logs)
            self._exit.push_async_callback(program.stop)
            hello = program.hello
            self._projects[key] = Project(program, hello["environment"], hello["admin_url"], self._data / name)
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
        """Enter several contexts concurrently: programs take a second each to start. Raises the first failure."""
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
        self, project: Project, model: Model, *, url: str | None = None, **settings: object
    ) -> AsyncIterator[Program]:
        """`bridge run`, ready. `settings` are BRIDGE_ settings; by default there is no quota of events.

        `url` replaces the project's address, for example with that of a counting proxy.
        """
        self._workers += 1
        env = _environment(project, model, url) | {
            "BRIDGE_EVENTS_PER_SECOND": NO_QUOTA,
            **{f"BRIDGE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        async with processes.stopping(
            await processes.start_worker(env, self.logs, f"worker-{self._workers}")
        ) as program:
            yield program

    @asynccontextmanager
    async def baseline(self, module: str, project: Project, model: Model, *arguments: object) -> AsyncIterator[Program]:
        """A program of bench/baselines, ready."""
        env = _environment(project, model)
        async with processes.stopping(
            await processes.start(module, f"bench.baselines.{module}", *arguments, env=env, logs=self.logs)
        ) as program:
            yield program

    @asynccontextmanager
    async def crowd(self, project: Project, model: Model, workers: int, *, url: str) -> AsyncIterator[Program]:
        """Many workers in one process, ready, at this address of the project."""
        env = _environment(project, model, url)
        async with processes.stopping(
            await processes.start("crowd", "bench.crowd", "--workers", workers, env=env, logs=self.logs)
        ) as program:
            yield program

    async def raw_baml(
        self, project: Project, model: Model, driver: str, *, replies: int, at_once: int, directive: str
    ) -> Row:
        """Run the same BAML calls without Supabase; returns seconds, CPU and lags."""
        arguments = ("--driver", driver, "--replies", replies, "--at-once", at_once, "--message", f"[[{directive}]]")
        async with self.baseline("raw_baml", project, model, *arguments) as program:
            await program.process.wait()
            return program.hello

    @asynccontextmanager
    async def counted(self, project: Project) -> AsyncIterator[CountingProxy]:
        """A counting proxy in front of a project."""
        async with CountingProxy(project.environment["SUPABASE_URL"]) as proxy:
            yield proxy

    @asynccontextmanager
    async def person(self, project: Project) -> AsyncIterator[Person]:
        """A user who has just signed up."""
        person = await users.person(project.environment)
        try:
            yield person
        finally:
            await person.close()


def _environment(project: Project, model: Model, url: str | None = None) -> dict[str, str]:
    return {**project.environment, **model.environment, **({"SUPABASE_URL": url} if url else {})}


def progress() -> Callable[[str], None]:
    """A function that prints a line with the seconds since now."""
    began = time.monotonic()
    return lambda line: print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)


def unique(directive: str) -> str:
    """A message with a directive for the model, and an id to recognise it by."""
    return f"[[{directive}]] {uuid.uuid4().hex}"


def mark(message: str) -> str:
    """The id in a message made by `unique`."""
    return message.rpartition(" ")[2]


async def holder_of(project: Project, question: str, workers: Sequence[Program]) -> Program:
    """Which of these workers has the lease of a question. Raises `Failed`."""
    async with project.database() as db:
        row = await one_row(db, "select worker from bridge.jobs where question_id = %s", (question,))
    for worker in workers:
        if f"-{worker.pid}-" in row["worker"]:
            return worker
    raise Failed(f"none of the workers holds the reply: {row}")


async def first_delta(ear: Ear, question: str) -> float:
    """Wait for the reply's first delta; returns its monotonic time. Raises TimeoutError."""
    await ear.until(lambda heard: heard.of("delta", reply_to=question), within=30)
    return next(
        at
        for (event, payload), at in zip(ear.heard, ear.times, strict=True)
        if event == "delta" and payload["reply_to"] == question
    )


async def reply_ended(ear: Ear, question: str, status: str = "done") -> None:
    """Wait until a subscriber has received the reply's last event. Raises TimeoutError."""
    await ear.until(lambda heard: heard.of("message", reply_to=question, status=status), within=30)


async def conversation(db: Database, user_id: str) -> str:
    """A session of the bridge in which HISTORY messages were said; returns its id."""
    (session,) = await add_finished(db, user_id, HISTORY, per_session=HISTORY)
    return session


async def chat(db: Database, user_id: str) -> str:
    """The same in `chat_messages`, for the baselines; a tutorial's worker that runs would answer it."""
    chat_id = str(uuid.uuid4())
    for role, content in EARLIER:
        await db.execute(
            "insert into public.chat_messages (chat_id, user_id, role, content, status)"
            " values (%s, %s, %s, %s, 'done')",
            (chat_id, user_id, role, content),
        )
    return chat_id


async def insert_chat(person: Person, message: str, chat_id: str, **columns: Any) -> str:
    """Ask as the tutorial does: insert a row of `chat_messages`."""
    message_id = str(uuid.uuid4())
    row = {"id": message_id, "chat_id": chat_id, "content": message, "role": "user", **columns}
    await person.client.table("chat_messages").insert(row).execute()
    return message_id
