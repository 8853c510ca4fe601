"""A queue worker that polls: a queue in the manner of pgmq, read over REST every `--seconds`.

`python -m bench.baselines.polling_worker --seconds 1`. Reading a message hides it for 30 s, so a message whose worker
died is read again; the reply is written once it is complete.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from supabase import AsyncClient

from bench.baselines.conversation import partials, supabase_client
from bench.processes import greet

MOST = 32
HIDDEN_SECONDS = 30


async def answer(supabase: AsyncClient, item: Mapping[str, Any]) -> None:
    """Answer one message of the queue."""
    text = ""
    async for text in partials(item["message"]["text"], item["message"]["earlier"]):  # noqa: B007 - the last partial is the whole reply
        pass
    row = {"chat_id": item["message"]["chat_id"], "user_id": item["message"]["user_id"], "role": "assistant"}
    await supabase.table("chat_messages").insert({**row, "content": text, "status": "done"}).execute()
    await supabase.table("queue").delete().eq("id", item["id"]).execute()


async def main(seconds: float, topic: str) -> None:
    """Poll until SIGTERM ends the process."""
    supabase = await supabase_client()
    tasks: set[asyncio.Task[None]] = set()
    greet()
    while True:
        arguments = {"topic": topic, "seconds": str(HIDDEN_SECONDS), "most": str(MOST - len(tasks))}
        read = await supabase.rpc("queue_read", arguments).execute()
        found: Any = read.data
        for item in found:
            task = asyncio.create_task(answer(supabase, item))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if len(found) < MOST:
            await asyncio.sleep(seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.baselines.polling_worker")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--topic", default="questions")
    options = parser.parse_args()
    asyncio.run(main(options.seconds, options.topic))
