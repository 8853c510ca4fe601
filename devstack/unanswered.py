"""Tells at once when a session asks for a function that the worker lacks: it leaves that to others at first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import aiohttp

from devstack.generate import Problem
from devstack.problems import Board
from devstack.reload import Version

_SECONDS = 10.0
_WAITING = {
    "select": "sessions!messages_session_id_fkey(function)",
    "role": "eq.user",
    "status": "eq.queued",
    "limit": "1000",
}


async def watch(project: Mapping[str, str], every: float, version: Callable[[], Version | None], board: Board) -> str:
    """Look `every` so many seconds, until cancelled, and show what is found on `board`."""
    key = project["SUPABASE_SECRET_KEY"]
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(headers={"apikey": key}, timeout=timeout) as session:
        while True:
            await asyncio.sleep(every)
            if (present := version()) is None:
                continue
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{project['SUPABASE_URL']}/rest/v1/messages", params=_WAITING) as response:
                    if response.status == 200:
                        asked = {str(row["sessions"]["function"]) for row in await response.json()}
                        board.show("unanswered", _problems(sorted(asked - set(present.functions)), present))


def _problems(names: list[str], version: Version) -> list[Problem]:
    return [Problem(f"a session asks for {name[:80]!r}, and this worker {_remedy(name, version)}") for name in names]


def _remedy(name: str, version: Version) -> str:
    if name in version.source.names:
        return f"does not answer it: add it to BRIDGE_FUNCTIONS, which is {version.environment['BRIDGE_FUNCTIONS']}"
    similar = [known for known in version.functions if known.lower() == name.lower()]
    hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(version.functions)}"
    return f"has no such function ({hint}): add it to baml_src or to a module of handlers, or correct the session"
