"""What the figures are made of, as text in bench/out/profile: `python -m bench --profile`.

`worker-….txt`: where a worker with 64 streams spends, by cProfile. `claim.txt`: a claim's time by function, and the
plans of its statements, in the states that bounds are about. `transactions.txt`: the statements of one reply by role.
`wal.txt`: the write-ahead log of one reply by record and relation, as pg_waldump tells.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import backlog, claim
from bench.backlog import Database
from bench.processes import Failed
from bench.statements import Statement, listened
from bench.wal import waldump
from bench.world import Project, World, unique

STREAMS = 64
TOKENS = 940
# The claim's own statements that look for jobs, in the source of its function.
LOOKUPS = re.compile(r"select coalesce\(array_agg\(r\.id\).*?\) r;", re.DOTALL)
LITERALS = {
    "take_expired.worker": "'bench'",
    "take_expired.slots": "1",
    "take_ready.slots": "1",
    "take_expired.horizon": "now() - interval '30 seconds'",
    "take_ready.horizon": "now() - interval '30 seconds'",
}


def main(out: Path) -> int:
    """Write all of them; give the exit code."""
    try:
        asyncio.run(_all(out))
    except (Failed, TimeoutError) as error:
        print(f"bench: {error or 'TimeoutError'}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(out / "data" / "profile", ignore_errors=True)
    return 0


async def _all(out: Path) -> None:
    async with World(out, quick=True, say=print, name="profile") as world:
        folder = out / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        await _worker(world, folder / "worker-no-delay.txt", "no delay", "tokens=100", rounds=6)
        await _worker(world, folder / "worker-realistic.txt", "realistic", "tokens=400", rounds=2)
        await _reply(world, folder)
        await _claims(world, folder / "claim.txt")


def _save(file: Path, text: str) -> None:
    file.write_text(text)
    print(f"wrote {file}")


async def _worker(world: World, file: Path, pace: str, directive: str, *, rounds: int) -> None:
    """A worker under cProfile with 64 streams; what Python's own profiler costs is in its figures."""
    project, model = await world.project(), await world.model(pace)
    async with world.person(project) as person, project.database() as db:
        sessions = await backlog.open_sessions(db, person.id, STREAMS)
        async with world.worker(project, model, concurrency=STREAMS, profile=file):
            for _ in range(rounds):
                asked = [(session, unique(directive)) for session in sessions]
                await backlog.only_done(db, await backlog.ask(db, asked))
    print(f"wrote {file}")


async def _reply(world: World, folder: Path) -> None:
    """One reply of 12 s in a new session: its statements, and its write-ahead log."""
    project, model = await world.project(), await world.model("realistic")
    async with (
        world.person(project) as person,
        project.database() as db,
        world.worker(project, model),
        listened(project, db) as statements,
        claim.no_autovacuum(db),
    ):
        warm, session = await backlog.open_sessions(db, person.id, 2)
        await backlog.only_done(db, await backlog.ask(db, [(warm, unique(f"tokens={TOKENS}"))]))
        begin = await _position(db)
        statements.mark()
        (question,) = await backlog.ask(db, [(session, unique(f"tokens={TOKENS}"))])
        await _ended(db, question)
        said = _statements(statements.all())
        end = await _position(db)
        names = await _relations(db)
    _save(folder / "transactions.txt", said)
    _save(folder / "wal.txt", await asyncio.to_thread(_wal, project, begin, end, names))


async def _ended(db: Database, question: str) -> None:
    """Wait for the end with few statements of our own."""
    async with asyncio.timeout(60):
        while True:
            cursor = await db.execute("select from bridge.jobs where question_id = %s", (question,))
            if await cursor.fetchone() is None:
                return
            await asyncio.sleep(1)


def _statements(all_: Sequence[Statement]) -> str:
    """The statements by role and beginning, the most frequent first; and how many transactions they were."""
    counted = Counter((one.role, one.text[:110]) for one in all_)
    transactions = Counter(role for role, _ in {(one.role, one.transaction) for one in all_})
    lines = [f"{count:5}  {role:24} {statement}" for (role, statement), count in counted.most_common()]
    said = [f"{count:5}  {role}" for role, count in transactions.most_common()]
    head = "count  role                     statement (its beginning)"
    return "\n".join(["transactions by role:", *said, "", head, *lines, ""])


async def _position(db: Database) -> str:
    cursor = await db.execute("select pg_switch_wal(), pg_current_wal_insert_lsn()::text as at")
    row: Any = await cursor.fetchone()
    return str(row["at"])


async def _relations(db: Database) -> dict[str, str]:
    """Names of relations by their files' numbers."""
    cursor = await db.execute(
        "select pg_relation_filenode(oid)::text as file, oid::regclass::text as name from pg_class"
        " where relkind in ('r', 'i', 't', 'S') and relfilenode > 0"
    )
    return {row["file"]: row["name"] for row in await cursor.fetchall()}


def _wal(project: Project, begin: str, end: str, names: dict[str, str]) -> str:
    """Bytes by relation and record, whole pages apart."""
    sizes: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for line in waldump(project, begin, end).splitlines():
        found = re.match(r"rmgr: (\S+)\s+len \(rec/tot\):\s*(\d+)/\s*(\d+).*?desc: (\S+)", line)
        if found is None:
            continue
        file = re.search(r"rel \d+/\d+/(\d+)", line)
        where = names.get(file[1], file[1]) if file else ""
        whole = ", whole page" if "FPW" in line else ""
        key = (where, f"{found[1]} {found[4]}{whole}")
        sizes[key] += int(found[3])
        counts[key] += 1
    lines = [f"{size:9,} {counts[key]:6}  {key[0]:44} {key[1]}" for key, size in sizes.most_common()]
    return "\n".join([f"{sum(sizes.values()):,} bytes in all", "    bytes  count  relation, record", *lines, ""])


async def _claims(world: World, file: Path) -> None:
    """In each state: the time of a claim by function, and the plans of its look-ups."""
    project = await world.project(realtime=False)
    lines: list[str] = []
    async with project.database() as db:
        user_id = await claim.user(db)

        async def look(state: str) -> None:
            lines.append(f"==== {state}\n")
            lines.extend(await _by_function(db, user_id))
            lines.extend(await _plans(db))

        await backlog.finished(db, user_id, 1_000)
        await look("1,000 finished messages, nothing queued")
        sessions = await backlog.open_sessions(db, user_id, 10_000)
        await claim.queue(db, sessions)
        await look("10,000 queued")
        await claim.clear(db)
        async with claim.snapshot(project):
            await claim.churn(db, user_id, 100_000)
            await look("100,000 jobs came and went under one open snapshot")
        await claim.clear(db)
        await backlog.finished(db, user_id, 1_000_000)
        await db.execute("analyze public.messages")
        await look("1,000,000 finished messages")
    _save(file, "\n".join(lines))


async def _by_function(db: Database, user_id: str, claims: int = 20) -> list[str]:
    """Milliseconds of a claim of one job by function, each without what it calls; all of it taken back."""
    lines = []
    async with db.transaction(force_rollback=True):
        await db.execute("set local track_functions = 'all'")
        await db.execute("set local statement_timeout = 0")
        sessions = await backlog.open_sessions(db, user_id, claims)
        await backlog.ask(db, [(session, "a question") for session in sessions])
        await db.execute("select public.bridge_claim('bench', 0, '{}', 30, 100)")  # it looks at all once in a while
        before = await _functions(db)
        for _ in range(claims):
            held = "array(select question_id from bridge.jobs where worker = 'bench')"
            await db.execute(f"select public.bridge_claim('bench', 1, {held}, 30, 100)")
        after = await _functions(db)
    spent = {name: (calls - before.get(name, (0, 0.0))[0], used - before.get(name, (0, 0.0))[1])
             for name, (calls, used) in after.items()}  # fmt: skip
    for name, (calls, used) in sorted(spent.items(), key=lambda item: -item[1][1]):
        if calls:
            lines.append(f"{used / claims:8.3f} ms  {calls / claims:5.1f} calls  {name}")
    return ["a claim of one job by function, without what each calls:", *lines, ""]


async def _functions(db: Database) -> dict[str, tuple[int, float]]:
    """Calls and time of this transaction so far."""
    cursor = await db.execute(
        "select schemaname || '.' || funcname as name, calls, self_time from pg_stat_xact_user_functions"
    )
    return {row["name"]: (row["calls"], row["self_time"]) for row in await cursor.fetchall()}


async def _plans(db: Database) -> list[str]:
    """EXPLAIN of the claim's look-ups with the claim's own settings; taken back."""
    cursor = await db.execute(
        "select proconfig, (select string_agg(q.prosrc, '') from pg_proc q"
        " where q.pronamespace = 'bridge'::regnamespace"
        " and q.proname in ('take_expired', 'take_ready')) as bodies"
        " from pg_proc where oid = 'public.bridge_claim'::regproc"
    )
    row: Any = await cursor.fetchone()
    statements: Sequence[str] = LOOKUPS.findall(row["bodies"])
    if not statements:
        raise Failed("the claim's look-ups are not where they were: see LOOKUPS in bench/explain.py")
    lines = []
    async with db.transaction(force_rollback=True):
        for setting in row["proconfig"]:
            name, _, value = setting.partition("=")
            if name != "search_path":
                await db.execute("select set_config(%s, %s, true)", (name, value))
        for statement in statements:
            plain = re.sub(r"\binto \w+", "", statement.rstrip(";"))
            for variable, literal in LITERALS.items():
                plain = plain.replace(variable, literal)
            cursor = await db.execute(f"explain (analyze, buffers, settings) {plain}")
            lines += [" ".join(plain.split()), *(one["QUERY PLAN"] for one in await cursor.fetchall()), ""]
    return lines
