"""The devstack's Realtime under load: many subscribers on private channels, many deltas a second.

`python bench/devstack_load.py` starts an embedded Supabase in a process of its own, on loopback, lets one user have a
session for each subscriber, and pushes deltas at an even pace from a few sockets that hold the secret key. It prints
what it found as JSON, and exits 1 if a delta was lost or doubled, or the server's memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
SENDERS = 8
WARM_UP_SECONDS = 5.0
GROWTH = 1.1  # of the server's memory between the first and the last third of the time after the warm-up
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure; `bound` says what it had to be."""

    name: str
    value: float
    unit: str
    bound: str
    ok: bool


@contextlib.asynccontextmanager
async def devstack(folder: Path) -> AsyncIterator[tuple[dict[str, str], int]]:
    """Run the devstack without limits; yield its variables and the id of its process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devstack", "--data", str(folder), "--port", "0"),
        cwd=ROOT,
        env={**os.environ, "DEVSTACK_LIMITS": "none"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(90):
            while line := await process.stdout.readline():
                if line.startswith(b"ready"):
                    break
            else:
                raise RuntimeError("the devstack did not start")
        published = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "devstack", "env", "--data", str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        yield dict(line.split("=", 1) for line in published.stdout.splitlines()), process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                await process.wait()


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu(pid: int) -> float:
    """Return the seconds of CPU a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def sessions(http: aiohttp.ClientSession, env: dict[str, str], count: int) -> tuple[str, list[str]]:
    """Sign somebody up who has `count` sessions; return the token and the sessions' ids."""
    url, key = env["SUPABASE_URL"], env["SUPABASE_PUBLISHABLE_KEY"]
    credentials = {"email": f"{uuid.uuid4()}@example.com", "password": "correct horse battery"}
    async with http.post(f"{url}/auth/v1/signup", headers={"apikey": key}, json=credentials) as answer:
        signed_up = await answer.json()
    secret = {"apikey": env["SUPABASE_SECRET_KEY"], "Prefer": "return=representation"}
    rows = [{"user_id": signed_up["user"]["id"]} for _ in range(count)]
    async with http.post(f"{url}/rest/v1/sessions", headers=secret, json=rows) as answer:
        answer.raise_for_status()
        made = await answer.json()
    return signed_up["access_token"], [row["id"] for row in made]


async def connect(http: aiohttp.ClientSession, env: dict[str, str], key: str) -> aiohttp.ClientWebSocketResponse:
    """Open a socket of the second serializer."""
    return await http.ws_connect(f"{env['SUPABASE_URL']}/realtime/v1/websocket?apikey={key}&vsn=2.0.0", max_msg_size=0)


async def join(websocket: aiohttp.ClientWebSocketResponse, topic: str, token: str | None) -> None:
    """Join a private topic."""
    config = {"private": True, "broadcast": {"self": False, "ack": False}, "presence": {"enabled": False}}
    payload: dict[str, Any] = {"config": config}
    if token is not None:
        payload["access_token"] = token
    await websocket.send_str(json.dumps([topic, topic, f"realtime:{topic}", "phx_join", payload]))
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = json.loads((await websocket.receive()).data)
            if answer[1] == topic:
                break
    if answer[4]["status"] != "ok":
        raise RuntimeError(f"{topic}: {answer[4]}")


async def hear(websocket: aiohttp.ClientWebSocketResponse, seen: list[int], latencies: list[float]) -> None:
    """Note the number and the age of each delta until cancelled."""
    async for message in websocket:
        payload = json.loads(message.data)[4]
        if isinstance(payload, dict) and payload.get("event") == "delta":
            delta = payload["payload"]
            seen.append(delta["seq"])
            latencies.append(time.monotonic() - delta["at"])


async def push(websocket: aiohttp.ClientWebSocketResponse, topics: Sequence[str], rate: float, seconds: float) -> int:
    """Push deltas to the topics in turn, `rate` a second; return how many each topic got."""
    begun = time.monotonic()
    rounds = round(rate * seconds / len(topics))
    for number in range(rounds):
        for place, topic in enumerate(topics):
            due = begun + (number * len(topics) + place) / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            delta = {"message_id": str(uuid.uuid4()), "attempt": 1, "seq": number + 1, "text": "some words of a reply"}
            payload = {"type": "broadcast", "event": "delta", "payload": {**delta, "at": time.monotonic()}}
            await websocket.send_str(json.dumps([topic, None, f"realtime:{topic}", "broadcast", payload]))
    return rounds


async def sample(pid: int, into: list[float]) -> None:
    """Note the memory of a process each second until cancelled."""
    while True:
        into.append(memory(pid))
        await asyncio.sleep(1)


async def measure(subscribers: int, rate: float, seconds: float) -> list[Finding]:
    """Run the load and return what was found."""
    with tempfile.TemporaryDirectory(prefix="devstack-load-") as folder:
        async with (
            devstack(Path(folder)) as (env, pid),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            token, ids = await sessions(http, env, subscribers)
            topics = [f"session:{id_}" for id_ in ids]
            heard: list[list[int]] = [[] for _ in topics]
            latencies: list[float] = []
            hearing: list[asyncio.Task[None]] = []
            for topic, seen in zip(topics, heard, strict=True):
                websocket = await connect(http, env, env["SUPABASE_PUBLISHABLE_KEY"])
                await join(websocket, topic, token)
                hearing.append(asyncio.create_task(hear(websocket, seen, latencies)))
            parts = [topics[place::SENDERS] for place in range(SENDERS)]
            pushing = []
            for part in parts:
                websocket = await connect(http, env, env["SUPABASE_SECRET_KEY"])
                for topic in part:
                    await join(websocket, topic, None)
                pushing.append((websocket, part))
            levels: list[float] = []
            sampling = asyncio.create_task(sample(pid, levels))
            before, begun = cpu(pid), time.monotonic()
            counts = await asyncio.gather(
                *(push(socket, part, rate * len(part) / subscribers, seconds) for socket, part in pushing)
            )
            taken = time.monotonic() - begun
            sent = sum(count * len(part) for count, part in zip(counts, parts, strict=True))
            async with asyncio.timeout(PATIENCE):
                while sum(map(len, heard)) < sent:
                    await asyncio.wait(hearing, timeout=0.05)  # none of them ends by itself
            used = (cpu(pid) - before) / taken
            for task in (sampling, *hearing):
                task.cancel()
            await asyncio.gather(sampling, *hearing, return_exceptions=True)
    wanted = {topic: count for count, part in zip(counts, parts, strict=True) for topic in part}
    wrong = sum(seen != list(range(1, wanted[topic] + 1)) for topic, seen in zip(topics, heard, strict=True))
    settled = levels[int(WARM_UP_SECONDS) :] if len(levels) > 3 * WARM_UP_SECONDS else levels
    third = max(1, len(settled) // 3)
    growth = statistics.mean(settled[-third:]) / statistics.mean(settled[:third])
    quantiles = statistics.quantiles(latencies, n=100)
    achieved = sent / taken
    return [
        Finding("deltas sent", sent, "1", "", True),
        Finding("deltas a second", round(achieved), "1/s", f">= {0.95 * rate:.0f}", achieved >= 0.95 * rate),
        Finding("channels that lost, doubled or swapped one", wrong, "1", "= 0", wrong == 0),
        Finding("growth of memory", round(growth, 3), "x", f"<= {GROWTH}", growth <= GROWTH),
        Finding("memory at the end", round(levels[-1], 1), "MiB", "", True),
        Finding("push to event, p50", round(quantiles[49] * 1000, 2), "ms", "", True),
        Finding("push to event, p99", round(quantiles[98] * 1000, 2), "ms", "", True),
        Finding("CPU of the server", round(used, 2), "cores", "", True),
    ]


def main() -> int:
    """Run the command line; return 1 if a bound was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--rate", type=float, default=2000, help="deltas a second, of all together")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    findings = asyncio.run(measure(options.subscribers, options.rate, options.seconds))
    print(json.dumps([asdict(finding) for finding in findings], indent=1))
    return 0 if all(finding.ok for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
