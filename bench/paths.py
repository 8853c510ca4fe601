"""`python -m bench.paths`: the ways a delta could take to a subscriber, with the same stream, for 1 topic and for 64.

Every topic gets a delta every 50 ms: pushed on the worker's socket, as the bridge does; posted to Realtime's HTTP API,
all topics in one request; sent by `realtime.send` in one database call for all topics, every 50 ms, or once a second as
part of the heartbeat. For each: the time to the subscriber, and what worker, database and project spend.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from bench import backlog, document, processes
from bench.backlog import Database
from bench.processes import ROOT, Failed
from bench.report import columns, number, percentile
from bench.statements import Statements, listened
from bench.world import Project, World
from bridge.channels import CHANNELS_PER_CONNECTION, SessionChannels

OUT = ROOT / "bench" / "out"
PERIOD_SECONDS = 0.05
LATE_SECONDS = 5.0
# Seconds at least between two sends; 0: whenever there is something, one call at a time.
PATHS = {"socket": 0.0, "HTTP": 0.0, "realtime.send": 0.0, "realtime.send in the beat": 1.0}
TOPICS = (1, 64)
TEXT = "some words of a reply"

# the deltas of all topics in one transaction
FUNCTION = """
create or replace function public.bench_send(deltas jsonb) returns void
language plpgsql security definer set search_path = '' as $$
declare
    item jsonb;
begin
    for item in select jsonb_array_elements(bench_send.deltas) loop
        perform realtime.send(item -> 'payload', 'delta', item ->> 'topic', true);
    end loop;
end
$$;
revoke all on function public.bench_send from public, anon, authenticated;
grant execute on function public.bench_send to service_role;
notify pgrst, 'reload schema';
"""

Socket = aiohttp.ClientWebSocketResponse
Send = Callable[[Mapping[str, list[float]]], Awaitable[None]]


async def send(path: str, topics: Sequence[str], seconds: float, env: Mapping[str, str]) -> dict[str, float]:
    """The worker's part, in a process of its own: a delta for every topic each PERIOD_SECONDS; what it took."""
    url, key = env["SUPABASE_URL"], env["SUPABASE_SECRET_KEY"]
    async with AsyncExitStack() as opened:
        http = await opened.enter_async_context(
            httpx.AsyncClient(base_url=url, timeout=30, headers={"apikey": key, "Authorization": f"Bearer {key}"})
        )
        seq = 0

        def payload(times: list[float]) -> dict[str, Any]:
            text = TEXT * len(times)
            return {"message_id": "m", "reply_to": "q", "attempt": 1, "seq": seq, "text": text, "at": times}

        joined = asyncio.Event()
        channels = SessionChannels(f"{url}/realtime/v1", key, "paths", lambda: set(topics), joined.set)

        async def by_socket(pieces: Mapping[str, list[float]]) -> None:
            for topic, times in pieces.items():
                if not await channels.send(topic, "delta", payload(times)):
                    raise Failed("a push was not sent")

        async def by_http(pieces: Mapping[str, list[float]]) -> None:
            messages = [
                {"topic": f"session:{topic}", "event": "delta", "payload": payload(times), "private": True}
                for topic, times in pieces.items()
            ]
            (await http.post("/realtime/v1/api/broadcast", json={"messages": messages})).raise_for_status()

        async def by_database(pieces: Mapping[str, list[float]]) -> None:
            deltas = [{"topic": f"session:{topic}", "payload": payload(times)} for topic, times in pieces.items()]
            (await http.post("/rest/v1/rpc/bench_send", json={"deltas": deltas})).raise_for_status()

        ways: dict[str, Send] = {"socket": by_socket, "HTTP": by_http}
        way = ways.get(path, by_database)
        if path == "socket":
            supervising = asyncio.create_task(channels.supervisor.run())
            opened.callback(supervising.cancel)
            for topic in topics:
                channels.use(topic)
            async with asyncio.timeout(30):
                while not all(channels.is_joined(topic) for topic in topics):
                    joined.clear()
                    await joined.wait()
        waiting: dict[str, list[float]] = {topic: [] for topic in topics}
        there, done = asyncio.Event(), asyncio.Event()
        calls = 0

        async def produce() -> None:
            due = time.monotonic()
            for _ in range(round(seconds / PERIOD_SECONDS)):
                due += PERIOD_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                for times in waiting.values():
                    times.append(time.monotonic())
                there.set()
            done.set()
            there.set()

        producing = asyncio.create_task(produce())
        cpu, due = time.process_time(), time.monotonic()
        while not done.is_set() or any(waiting.values()):
            if not any(waiting.values()):
                there.clear()
                await there.wait()
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            due = time.monotonic() + PATHS[path]
            pieces = {topic: times for topic, times in waiting.items() if times}
            if pieces:
                waiting = {topic: [] for topic in topics}
                seq += 1
                calls += 1
                await way(pieces)
        await producing
        return {"cpu": time.process_time() - cpu, "rounds": calls}


async def subscribe(http: aiohttp.ClientSession, project: Project, token: str, topics: Sequence[str]) -> Socket:
    """A subscriber of all these sessions on one socket, in the first serializer: there everything is JSON."""
    key = project.environment["SUPABASE_PUBLISHABLE_KEY"]
    url = f"{project.environment['SUPABASE_URL']}/realtime/v1/websocket?apikey={key}&vsn=1.0.0"
    websocket = await http.ws_connect(url, max_msg_size=0)
    for topic in topics:
        payload = {"config": {"private": True}, "access_token": token}
        name = f"realtime:session:{topic}"
        await websocket.send_json({"topic": name, "event": "phx_join", "payload": payload, "ref": topic})
        async with asyncio.timeout(10):
            while (answer := await websocket.receive_json())["ref"] != topic:
                pass
        if answer["payload"]["status"] != "ok":
            raise Failed(f"a subscriber could not join: {answer['payload']}")
    return websocket


async def hear(websocket: Socket, waits: list[float]) -> None:
    """Note the age of every delta's pieces in milliseconds, until cancelled."""
    async for message in websocket:
        heard = json.loads(message.data)
        if heard["event"] == "broadcast" and heard["payload"]["event"] == "delta":
            now = time.monotonic()
            waits.extend((now - at) * 1000 for at in heard["payload"]["payload"]["at"])


async def measure(world: World, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """All ways in turn, so many times over."""
    project = await world.project()
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    async with (
        project.database() as db,
        listened(project, db) as statements,
        world.person(project) as person,
        aiohttp.ClientSession() as http,
    ):
        await db.execute(FUNCTION)
        await db.execute("alter function public.bench_send owner to postgres")
        await asyncio.sleep(1)  # until REST has read the schema
        for count in TOPICS:
            assert count <= CHANNELS_PER_CONNECTION
            topics = await backlog.open_sessions(db, person.id, count)
            for _ in range(rounds):
                for path in PATHS:
                    # a new one each time: Realtime closes a connection that says nothing for 65 s
                    websocket = await subscribe(http, project, person.token, topics)
                    one = await _once(world, project, db, statements, websocket, path, topics, seconds)
                    await websocket.close()
                    found.setdefault((path, count), []).append(one)
                    world.say(f"  {path}, {count} topics: " + ", ".join(f"{k} {number(v)}" for k, v in one.items()))
    return [{"path": path, "topics": count, "rounds": each} for (path, count), each in found.items()]


async def _once(
    world: World,
    project: Project,
    db: Database,
    statements: Statements,
    websocket: Socket,
    path: str,
    topics: Sequence[str],
    seconds: float,
) -> dict[str, float]:
    waits: list[float] = []
    hearing = asyncio.create_task(hear(websocket, waits))
    before, parts, since = await _written(db), project.cpu(), time.monotonic()
    statements.mark()
    program = await processes.start(
        "paths", "bench.paths", "--send", path, "--seconds", seconds, "--topics", *topics,
        env=project.environment, logs=world.logs,
    )  # fmt: skip
    await program.process.wait()
    events = await project.events(since)
    used = {part: now - parts[part] for part, now in project.cpu().items()}
    wal = await _written(db) - before
    # joining is in it, which a worker does once a session
    transactions = statements.transactions().total()
    wanted = round(seconds / PERIOD_SECONDS) * len(topics)
    deadline = time.monotonic() + LATE_SECONDS
    while len(waits) < wanted and time.monotonic() < deadline and not hearing.done():
        await asyncio.wait({hearing}, timeout=0.05)
    hearing.cancel()
    await asyncio.gather(hearing, return_exceptions=True)
    if len(waits) != wanted:
        raise Failed(f"{path}: {len(waits)} of {wanted} deltas were heard")
    counted = events[-1][1] - events[0][1] if events else 0
    return {
        "p50 ms": percentile(waits, 0.5),
        "p99 ms": percentile(waits, 0.99),
        "worker CPU %": program.hello["cpu"] / seconds * 100,
        "Postgres CPU %": used["Postgres"] / seconds * 100,
        "rest of project CPU %": (used["gateway and Realtime"] + used["REST (Lite)"]) / seconds * 100,
        "WAL kB/s": wal / seconds / 1000,
        "transactions/s": transactions / seconds,
        "events/s": counted / seconds,
    }


async def _written(db: Database) -> float:
    cursor = await db.execute("select (pg_current_wal_insert_lsn() - '0/0')::float8 as bytes")
    row: Any = await cursor.fetchone()
    return float(row["bytes"])


def rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The table: medians of the rounds, with the lowest and highest where they differ."""
    names = list(found[0]["rounds"][0])
    lines: list[tuple[str, ...]] = [("path", "topics", *names)]
    for one in found:
        cells = []
        for name in names:
            values = [each[name] for each in one["rounds"]]
            spread = f" ({number(min(values))}–{number(max(values))})" if len(values) > 1 else ""
            cells.append(number(statistics.median(values)) + spread)
        lines.append((one["path"], str(one["topics"]), *cells))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code: 0, or 2 if it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.paths", description="The ways that deltas could take.")
    parser.add_argument("--seconds", type=float, default=8, help="of deltas, each time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=OUT / "paths.json", metavar="FILE")
    parser.add_argument("--docs", action="store_true", help="write the table to docs/performance.md, too")
    parser.add_argument("--again", action="store_true", help="show what FILE holds; measure nothing")
    parser.add_argument("--send", choices=PATHS, help=argparse.SUPPRESS)
    parser.add_argument("--topics", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.send:
        said = asyncio.run(send(options.send, options.topics, options.seconds, os.environ))
        print(json.dumps({"ready": True, **said}), flush=True)
        return 0
    if not options.again:
        try:
            _write(options.json, asyncio.run(_measure(options.seconds, options.rounds)))
        except (Failed, TimeoutError) as error:
            print(f"bench: {error or 'TimeoutError'}", file=sys.stderr)
            return 2
        finally:
            shutil.rmtree(OUT / "paths" / "data", ignore_errors=True)
    lines = rows(json.loads(options.json.read_text()))
    print(f"\n{columns(lines)}")
    if options.docs:
        head, *rest = (f"| {' | '.join(line)} |" for line in lines)
        document.put("paths", [head, f"|---|{'---:|' * (len(lines[0]) - 1)}", *rest])
    return 0


async def _measure(seconds: float, rounds: int) -> list[dict[str, Any]]:
    async with World(OUT / "paths", quick=False, say=print) as world:
        return await measure(world, seconds, rounds)


def _write(file: Path, found: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    sys.exit(main())
