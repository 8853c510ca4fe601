"""A handler for tests of frontends, to name in BRIDGE_HANDLERS: `Reader`. Each line of the question, or what stands
between semicolons, is something to do.

fetch http://…      call a tool that fetches a page
ask Send it?        ask the user, and wait for an answer
choose Which one?   ask the user to choose `One` or `Two`
sleep 60            wait so many seconds, without a worker
think …             show a thought
…                   write a line
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from bridge import ToolFailed, Turn, handler


@handler("Reader")
async def read(turn: Turn) -> AsyncGenerator[str, None]:
    """Do what the question says."""
    for line in re.split(r"\n|; ", turn.message):
        match line.split(" ", 1):
            case ["fetch", url]:
                try:
                    page = await turn.tool("fetch_page", fetch, url=url)
                    yield f"It has {page['words']} words.\n\n"
                except ToolFailed as failure:
                    yield f"{failure}\n\n"
            case ["ask", title]:
                answer = await turn.ask("send", {"title": title, "to": "ann@example.com"})
                yield "Sent.\n\n" if answer.approved else "Not sent.\n\n"
            case ["choose", title]:
                answer = await turn.ask("which", title, ["One", "Two"])
                yield f"So {answer['choice']}.\n\n"
            case ["sleep", seconds]:
                await turn.sleep("night", float(seconds))
            case ["think", thought]:
                turn.show({"type": "reasoning", "text": thought})
            case _:
                yield f"{line}\n\n"


async def fetch(url: str) -> dict[str, Any]:
    """Fetch a page. Raises ToolFailed if there is none."""
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        if response.status != 200:
            raise ToolFailed("There is no such page.")
        text = await response.text()
        return {"title": text.partition("\n")[0], "words": len(text.split())}
