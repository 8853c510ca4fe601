"""Tells at once when a session asks for a function that the worker lacks: it leaves that to others at first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

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
            try:
                asked = await _asked(session, f"{project['SUPABASE_URL']}/rest/v1")
            except (_Passing, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                continue  # the worker says that the project does not answer
            except (_Refused, aiohttp.ClientError, ValueError, TypeError, LookupError) as error:
                said = f"the project does not tell which functions sessions wait for: {str(error)[:200]}"
                board.show("unanswered", [Problem(said, is_warning=True)])
            else:
                board.show("unanswered", _problems(sorted(asked - set(present.functions)), present))


class _Refused(Exception):
    """The project does not answer this, and would not the next time."""


class _Passing(Exception):
    """The project does not answer this now."""


async def _asked(session: aiohttp.ClientSession, rest: str) -> set[str]:
    """The functions that questions wait for, if some wait for one that no worker knows.

    The queue is small, and says whether there are any. Only then are the messages read, which have no index for it.
    """
    async with session.post(f"{rest}/rpc/bridge_status", json={}) as response:
        status = await _body(response)
    if not status["unknown_function"]:
        return set()
    async with session.get(f"{rest}/messages", params=_WAITING) as response:
        return {str(row["sessions"]["function"]) for row in await _body(response)}


async def _body(response: aiohttp.ClientResponse) -> Any:
    if response.status >= 500 or response.status in (408, 425, 429):
        raise _Passing
    if response.status != 200:
        raise _Refused(f"HTTP {response.status} {(await response.text(errors='replace'))[:200]}")
    return await response.json()


def _problems(names: list[str], version: Version) -> list[Problem]:
    return [Problem(f"a session asks for {name[:80]!r}, and this worker {_remedy(name, version)}") for name in names]


def _remedy(name: str, version: Version) -> str:
    if name in version.source.names:
        return f"does not answer it: add it to BRIDGE_FUNCTIONS, which is {version.environment['BRIDGE_FUNCTIONS']}"
    similar = [known for known in version.functions if known.lower() == name.lower()]
    hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(version.functions)}"
    return f"has no such function ({hint}): add it to baml_src or to a module of handlers, or correct the session"
