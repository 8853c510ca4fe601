"""A step in the database, against a step of DBOS and in Absurd's manner: milliseconds, and write-ahead log.

The bridge's is called as its worker calls it: one call as the service role, with one step. In Absurd's manner it takes
two calls. DBOS's library makes its own, in a process of its own; its time is that of `await step()`. With the text of
the reply, which has grown meanwhile, the bridge writes the reply's row in the same call, and Absurd's manner needs a
third one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from psycopg.types.json import Jsonb

from bench import database, waldump
from bench.database import Database, one_row
from bench.handlers import prose
from bench.report import Figure, Measured, Spread, ratio
from bench.world import Project, World
from tests.support.database import Row

WORKER = "bench"
BLOCK = 25  # steps of a message
VALUE = prose(200, 0)
SAID = 60  # characters that the reply grows by, from step to step
ASKED = "select public.bridge_step(%s, %s) as ack"
SET = "select peers.set_task_checkpoint_state('bench', %s, %s, %s, %s, 30)"
OLD_MESSAGES = 20_000
OLD_STEPS = """
    insert into bridge.steps (question_id, name, ordinal, kind, value, attempt, chars, parts)
    select m.id, 'step ' || n, n, 'done', %(value)s, 1, 0, 0 from public.messages m, generate_series(1, 2) n
     where m.role = 'user'
"""
OLD_CHECKPOINTS = """
    insert into peers.c_bench (task_id, checkpoint_name, state, owner_run_id)
    select m.id, 'step ' || n, %(value)s, m.id from public.messages m, generate_series(1, 2) n where m.role = 'user'
"""
Logged = tuple[str, str]  # positions in the log, before and after


@dataclass
class Samples:
    """Milliseconds of each step, and kB of log a step of each block."""

    ms: list[float] = field(default_factory=list)
    wal: list[float] = field(default_factory=list)


async def run(world: World) -> Measured:
    """Take steps in blocks, in turn."""
    project = await world.project(realtime=False)
    url = project.environment["SUPABASE_DB_URL"]
    async with (
        project.database() as db,
        database.service_role(url) as own,
        world.baseline("dbos_steps", project, await world.model()) as dbos,
        database.no_autovacuum(db),
    ):
        user_id = await database.create_user(db)
        # as in a project that has been in use: the first pages of a table are another case for its indexes
        await database.add_finished(db, user_id, OLD_MESSAGES, per_session=10)
        await db.execute(OLD_STEPS, {"value": Jsonb(VALUE)})
        await db.execute(OLD_CHECKPOINTS, {"value": Jsonb(VALUE)})
        await db.execute("analyze")

        async def of_dbos() -> tuple[list[float], Logged]:
            async with httpx.AsyncClient(timeout=60) as http:
                query = {"count": str(BLOCK), "bytes": str(len(VALUE))}
                found: Row = (await http.get(f"{dbos.hello['control']}/steps", params=query)).json()
            return found["ms"], (found["begin"], found["end"])

        ways: dict[str, Callable[[], Awaitable[tuple[list[float], Logged]]]] = {
            "bridge": lambda: _bridge(db, own, user_id, is_shown=False),
            "Absurd": lambda: _absurd(db, is_shown=False),
            "DBOS": of_dbos,
            "bridge, with its text": lambda: _bridge(db, own, user_id, is_shown=True),
            "Absurd, with its text": lambda: _absurd(db, is_shown=True),
        }
        found = {name: Samples() for name in ways}
        for number in range(world.pick(5, 24) + 1):
            for name, take in ways.items():
                ms, (begin, end) = await take()
                if number:  # the first ones fill caches
                    found[name].ms += ms
                    found[name].wal.append((await _records(project, begin, end)) / BLOCK)
        await db.execute("truncate public.sessions cascade")
        await db.execute("truncate peers.c_bench")
    return Measured(_figures(found))


def _figures(found: dict[str, Samples]) -> list[Figure]:
    """Each against the better one."""
    figures = []
    for suffix, peers in (("", ("Absurd", "DBOS")), (", with its text", ("Absurd, with its text",))):
        ours, theirs = found[f"bridge{suffix}"], {name: found[name] for name in peers}
        figures += [
            _against_better(f"step{suffix}", ours.ms, {name: one.ms for name, one in theirs.items()}, "ms"),
            _against_better(f"step_wal{suffix}", ours.wal, {name: one.wal for name, one in theirs.items()}, "kB"),
        ]
    return figures


def _against_better(name: str, ours: list[float], peers: dict[str, list[float]], unit: str) -> Figure:
    medians = {peer: Spread.of(samples).median for peer, samples in peers.items()}
    better = min(medians, key=lambda peer: medians[peer])
    return ratio(name, ours, peers[better], unit=unit, against=better, peers=medians)


async def _records(project: Project, begin: str, end: str) -> float:
    return (await waldump.written(project, begin, end)).records


async def _bridge(db: Database, own: Database, user_id: str, *, is_shown: bool) -> tuple[list[float], Logged]:
    """Ask a question, claim it, and take its steps."""
    (session,) = await database.open_sessions(db, user_id, 1)
    await database.ask(db, [(session, "a question")])
    claim = "select public.bridge_claim(%s, 1, '{}', 30, 10, '{Chat}', capacity => 0, knows_steps => true) as claim"
    (job,) = (await one_row(own, claim, (WORKER,)))["claim"]["jobs"]
    key = {"question_id": job["question_id"], "attempt": job["attempt"]}
    said, taken = "", []
    begin = await waldump.position(db)
    for number in range(1, BLOCK + 1):
        step = {**key, "name": f"step {number}", "ordinal": number, "kind": "done", "value": VALUE}
        step |= {"chars": len(said), "n_parts": 0, "emitted_before": number, "emitted": number}
        if is_shown:
            said += prose(SAID, number)
            step |= {"seq": number, "content": said, "chars": len(said)}
        began = time.perf_counter()
        row = await one_row(own, ASKED, (WORKER, Jsonb([step])))
        taken.append((time.perf_counter() - began) * 1000)
        assert set(row["ack"]["results"].values()) == {"ok"}, row
    end = await waldump.position(db)
    result = {**key, "outcome": "done", "content": said or "a reply"}
    await own.execute("select public.bridge_finish(%s, %s, true)", (WORKER, Jsonb([result])))
    return taken, (begin, end)


async def _absurd(db: Database, *, is_shown: bool) -> tuple[list[float], Logged]:
    """Begin a task, and take its steps."""
    task = (await one_row(db, "insert into peers.t_bench default values returning task_id as id"))["id"]
    run = (await one_row(db, "insert into peers.r_bench (task_id) values (%s) returning run_id as id", (task,)))["id"]
    reply = "insert into public.chat_messages (chat_id, user_id) values (%s, %s) returning id"
    message = (await one_row(db, reply, (task, task)))["id"]
    said, taken = "", []
    begin = await waldump.position(db)
    for number in range(1, BLOCK + 1):
        said += prose(SAID, number)
        name = f"step {number}"
        began = time.perf_counter()
        await one_row(db, "select peers.get_task_checkpoint_state('bench', %s, %s)", (task, name))
        await db.execute(SET, (task, name, Jsonb(VALUE), run))
        if is_shown:
            await db.execute("update public.chat_messages set content = %s where id = %s", (said, message))
        taken.append((time.perf_counter() - began) * 1000)
    return taken, (begin, await waldump.position(db))
