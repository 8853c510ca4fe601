"""Event loop lag and memory of a worker while eight questions bring 10 MB each, against the same worker idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import AsyncIterator

import httpx
import psutil

from bench import database
from bench.database import Database
from bench.processes import Program
from bench.report import Figure, Measured, Spread, percentile
from bench.world import Project, World

QUESTIONS = 8
BYTES = 10_000_000
MEDIA_BYTES = 32 << 20  # BRIDGE_MEDIA_BYTES, as by default
IDLE_SECONDS = 4.0
SAMPLE_SECONDS = 0.05
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\4\0\0\0\4\0\x08\2\0\0\0"


async def run(world: World) -> Measured:
    """Rounds of idling, and of eight questions at once."""
    project, model = await world.project(), await world.model()
    picture = PNG + random.Random(1).randbytes(BYTES - len(PNG))
    idle: list[float] = []
    busy: list[float] = []
    each: list[float] = []
    grown: list[float] = []
    took: list[float] = []
    async with (
        world.person(project) as person,
        project.database() as db,
        world.worker(
            project, model, functions="Describe", handlers="bench.lag_probe", media_bytes=MEDIA_BYTES
        ) as worker,
    ):
        warm = await _ask(project, db, person.id, PNG, 1)
        await database.replies_done(db, warm)
        for _ in range(world.pick(1, 3)):
            before = psutil.Process(worker.pid).memory_info().rss
            began = time.monotonic()
            await asyncio.sleep(IDLE_SECONDS)  # it is what is measured: nothing happens
            quiet = _lags(worker, began, time.monotonic())
            peaks = [before]
            async with _sampled(worker, peaks):
                began = time.monotonic()
                asked = await _ask(project, db, person.id, picture, QUESTIONS)
                asked_at = time.monotonic()
                await database.replies_done(db, asked)
                ended = time.monotonic()
            took.append(ended - asked_at)
            await asyncio.sleep(1.1)  # the probe prints once a second
            now = _lags(worker, asked_at - 1, ended + 1)
            idle, busy = idle + quiet, busy + now
            each.append((percentile(now, 0.99) - percentile(quiet, 0.99)) * 1000)
            grown.append((max(peaks) - before) / MEDIA_BYTES)
    over = (percentile(busy, 0.99) - percentile(idle, 0.99)) * 1000
    spread, memory = Spread.of(each), Spread.of(grown)
    lag = Figure(
        "media_lag_p99", over, "ms", percentile(idle, 0.99) * 1000, (spread.first, spread.third),
        {"unit": "ms", "ours": percentile(busy, 0.99) * 1000, "ours_max": max(busy) * 1000,
         "questions": QUESTIONS, "bytes": BYTES, "seconds": took},
    )  # fmt: skip
    rss = Figure(
        "media_memory", memory.median, "×", MEDIA_BYTES / 1e6, (memory.first, memory.third),
        {"unit": "MB", "ours": memory.median * MEDIA_BYTES / 1e6, "most": memory.high * MEDIA_BYTES / 1e6},
    )  # fmt: skip
    return Measured(
        [lag, rss], {"lag with media": {"idle": [s * 1000 for s in idle], "8 × 10 MB": [s * 1000 for s in busy]}}
    )


async def _ask(project: Project, db: Database, user_id: str, picture: bytes, count: int) -> list[str]:
    """Upload a picture for each of so many sessions, then ask in all of them at once; returns the questions."""
    sessions = await database.open_sessions(db, user_id, count, "Describe")
    named = [(session, f"{session}/{uuid.uuid4()}.png") for session in sessions]
    key = project.environment["SUPABASE_SECRET_KEY"]
    async with httpx.AsyncClient(timeout=60, headers={"apikey": key, "Authorization": f"Bearer {key}"}) as http:
        for _, path in named:
            url = f"{project.environment['SUPABASE_URL']}/storage/v1/object/attachments/{path}"
            (await http.post(url, content=picture, headers={"Content-Type": "image/png"})).raise_for_status()
    cursor = await db.execute(
        "insert into public.messages (session_id, content, attachments)"
        " select q.session_id::uuid, q.content, jsonb_build_array(jsonb_build_object('path', q.path, 'name', 'a.png'))"
        "   from jsonb_to_recordset(%s::jsonb) q (session_id text, content text, path text)"
        " returning id::text",
        (
            json.dumps(
                [{"session_id": id, "path": path, "content": f"What is this? {uuid.uuid4()}"} for id, path in named]
            ),
        ),
    )
    return [str(row["id"]) for row in await cursor.fetchall()]


@contextlib.asynccontextmanager
async def _sampled(worker: Program, found: list[int]) -> AsyncIterator[None]:
    """Sample the memory of the worker and its children within the block."""

    async def sample() -> None:
        process = psutil.Process(worker.pid)
        while True:
            found.append(process.memory_info().rss)
            await asyncio.sleep(SAMPLE_SECONDS)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _lags(worker: Program, began: float, ended: float) -> list[float]:
    """The worker's lags in the whole seconds between two monotonic times."""
    lines = [line for line in worker.lines() if "lags" in line and began < line["at"] - 1 and line["at"] < ended]
    return [lag for line in lines for lag in line["lags"]]
