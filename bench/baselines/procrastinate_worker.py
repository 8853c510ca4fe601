"""Procrastinate with the same model call: a job queue in Postgres, woken by LISTEN/NOTIFY.

`python -m bench.baselines.procrastinate_worker`. It needs a direct connection to the database (SUPABASE_DB_URL), and
so does the client that defers the jobs, which therefore has to be a server.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from procrastinate import App, PsycopgConnector

from bench.baselines.conversation import partials
from bench.baselines.procrastinate_app import QUEUE, TASK
from bench.processes import greet
from bridge.model import Role


def worker_app(url: str) -> App:
    """The worker's application, with the task."""
    connector = PsycopgConnector(conninfo=url)
    app = App(connector=connector)

    @app.task(name=TASK, queue=QUEUE)
    async def answer(text: str, earlier: list[tuple[Role, str]], chat_id: str, user_id: str) -> None:
        reply = ""
        async for reply in partials(text, earlier):  # noqa: B007 - the last partial is the whole reply
            pass
        async with connector.pool.connection() as connection:
            await connection.execute(
                "insert into public.chat_messages (chat_id, user_id, role, content, status)"
                " values (%s, %s, 'assistant', %s, 'done')",
                (chat_id, user_id, reply),
            )

    return app


async def main() -> None:
    """Work until SIGTERM, which Procrastinate handles."""
    app = worker_app(os.environ["SUPABASE_DB_URL"])
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        greet()
        with suppress(asyncio.CancelledError):
            await app.run_worker_async(queues=[QUEUE], concurrency=32, delete_jobs="successful")


if __name__ == "__main__":
    asyncio.run(main())
