"""A worker as a tutorial writes it: `postgres_changes` delivers the question, every token is an UPDATE.

`python -m bench.baselines.tutorial_worker`. It misses questions inserted while it is down, and loses running replies
when it dies; its model call is the usual loop over the chunks of a chat completion.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from supabase import AsyncClient

from bench.baselines.conversation import HISTORY, follow, supabase_client
from bench.processes import greet, until_stopped


async def tokens(http: httpx.AsyncClient, messages: list[dict[str, str]]) -> AsyncIterator[str]:
    """The chunks of a streamed chat completion."""
    async with http.stream(
        "POST",
        f"{os.environ['LLM_BASE_URL']}/chat/completions",
        headers={"Authorization": f"Bearer {os.environ['LLM_API_KEY']}"},
        json={"model": os.environ["LLM_MODEL"], "messages": messages, "stream": True},
    ) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                choices = json.loads(line[6:])["choices"]
                if choices and (text := choices[0]["delta"].get("content")):
                    yield text


async def answer(supabase: AsyncClient, http: httpx.AsyncClient, question: Mapping[str, Any]) -> None:
    """Answer one question."""
    table = supabase.table
    await table("chat_messages").update({"status": "running"}).eq("id", question["id"]).execute()
    history = (
        await table("chat_messages")
        .select("role, content")
        .eq("chat_id", question["chat_id"])
        .order("created_at", desc=True)
        .limit(HISTORY + 1)
        .execute()
    )
    row = {
        "chat_id": question["chat_id"],
        "user_id": question["user_id"],
        "role": "assistant",
        "status": "running",
        "reply_to": question["id"],
    }
    reply = await table("chat_messages").insert(row).execute()
    rows: Any = reply.data
    reply_id = rows[0]["id"]
    text = ""
    newest: Any = history.data
    async for token in tokens(http, newest[::-1]):
        text += token
        await table("chat_messages").update({"content": text}).eq("id", reply_id).execute()
    await table("chat_messages").update({"content": text, "status": "done"}).eq("id", reply_id).execute()
    await table("chat_messages").update({"status": "done"}).eq("id", question["id"]).execute()


async def main() -> None:
    """Listen and answer until SIGTERM."""
    supabase = await supabase_client()
    http = httpx.AsyncClient(timeout=120)
    tasks: set[asyncio.Task[None]] = set()

    def on_insert(question: dict[str, Any]) -> None:
        task = asyncio.create_task(answer(supabase, http, question))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await follow(supabase, "INSERT", "user", on_insert)
    greet()
    await until_stopped()


if __name__ == "__main__":
    asyncio.run(main())
