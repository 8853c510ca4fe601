"""DBOS in place of the bridge's steps: a workflow whose steps give a short text each.

`python -m bench.baselines.dbos_steps`. `GET /steps?count=25&bytes=200` on `control` runs a workflow, and returns the
milliseconds of each step, and where the write-ahead log was before the first one and after the last one.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from aiohttp import web
from dbos import DBOS, DBOSConfig

from bench.processes import serve
from bench.waldump import position
from tests.support.database import database


@DBOS.step()
async def give(value: str) -> str:
    """Return the value."""
    return value


@DBOS.workflow()
async def take_steps(count: int, size: int) -> dict[str, Any]:
    """Take the steps one after the other."""
    value, taken = "x" * size, []
    async with database(os.environ["SUPABASE_DB_URL"]) as db:
        begin = await position(db)
        for _ in range(count):
            began = time.perf_counter()
            await give(value)
            taken.append((time.perf_counter() - began) * 1000)
        return {"ms": taken, "begin": begin, "end": await position(db)}


async def main() -> None:
    """Serve until SIGTERM."""
    url = os.environ["SUPABASE_DB_URL"]
    config: DBOSConfig = {"name": "bench", "system_database_url": url, "log_level": "WARNING"}
    DBOS(config=config)
    DBOS.launch()

    async def steps(request: web.Request) -> web.Response:
        return web.json_response(await take_steps(int(request.query["count"]), int(request.query["bytes"])))

    await serve("/steps", steps)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main())
