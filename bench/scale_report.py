"""The tables of `bench/scale.py`: what calls cost, what fleets ask for, and which limit they reach first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.fleet import PLANS, TEAM, Costed, Costs, Fleet, Limits, Load, Reply, Stored, load
from bench.report import markdown, number

WORKERS = (1, 10, 100, 1_000)
# The share of all slots in use: without users, in a quiet hour, in a busy one.
UTILISATIONS = {"idle": 0.0, "10 % of slots in use": 0.1, "70 % of slots in use": 0.7}
SLOTS = 3_200  # of 100 workers by default
FEWER = (4, 10, 32, 100)
KEPT_SECONDS = 3 * 86_400  # of rows of realtime.messages, on the hosted service
Rows = list[tuple[str, ...]]

CALLS = {
    "insert that dispatches": "dispatch",
    "insert that finds no room": "ask",
    "claim that finds nothing": "claim_nothing",
    "claim of one job": "claim_one",
    "claim of 32": "claim_many",
    "beat of 32, leases only": "beat",
    "beat of 1 with its checkpoint": "checkpoint_one",
    "beat of 32 with checkpoints": "checkpoint_many",
    "finish of one": "finish_one",
    "finish of 32": "finish_many",
}
LOADS: dict[str, Callable[[Load], float]] = {
    "questions": lambda one: one.questions,
    "wake-ups received, all workers": lambda one: one.wakeups,
    "claims, which find nothing": lambda one: one.claims,
    "beats": lambda one: one.beats,
    "finishes": lambda one: one.finishes,
    "REST calls": lambda one: one.rest_calls,
    "database transactions": lambda one: one.transactions,
    "database CPU, cores": lambda one: one.cpu,
    "write-ahead log, MB": lambda one: one.wal / 1e6,
    "REST's connections in use": lambda one: one.rest_connections,
    "channel joins": lambda one: one.joins,
    "Realtime connections": lambda one: one.realtime_connections,
    "channels on a connection, at most": lambda one: one.channels,
    "Realtime messages": lambda one: one.events,
    "… of probes": lambda one: one.events_of_probes,
    "… of wake-ups": lambda one: one.events_of_wakeups,
    "… of rows": lambda one: one.events_of_rows,
    "… of deltas, within the quota": lambda one: one.events_of_deltas,
    "… of deltas without a quota": lambda one: one.deltas_wanted,
    "seconds between a reply's deltas": lambda one: one.delta_seconds,
}


def tables(measured: Costed, reply: Reply | None) -> dict[str, Rows]:
    """All tables by title, each with its header row first."""
    return {
        "Time in the database, CPU and write-ahead log of a call": calls(measured.levels),
        "What a question and its reply leave in `realtime.messages`, for three days": stored(measured.stored),
        **{
            f"Load per second, {name} ({TEAM.name})": loads(measured, reply, share)
            for name, share in UTILISATIONS.items()
        },
        "The limit that is used most": bottlenecks(measured, reply),
        f"{SLOTS:,} slots, 70 % in use, in fewer and larger workers ({TEAM.name})": fewer(measured, reply),
    }


def calls(costs: Sequence[Costs]) -> Rows:
    """Each call: milliseconds, milliseconds of CPU, kB of log, by the size of the fleet."""
    rows: Rows = [
        ("ms / CPU ms / kB, workers:", *(f"{workers:,}" for workers in WORKERS)),
        ("jobs held", *(f"{one.held:,}" for one in costs)),
    ]
    for name, operation in CALLS.items():
        each = [getattr(one, operation) for one in costs]
        rows.append(
            (name, *(f"{_short(c.seconds * 1000)} / {_short(c.cpu * 1000)} / {_short(c.wal / 1000)}" for c in each))
        )
    return rows


def stored(each: Sequence[Stored]) -> Rows:
    """Rows and bytes of a question, and what a question a second adds up to."""
    topics = sorted({topic for one in each for topic in one.rows})
    head = ("bytes of history", "rows", *(f"on `{topic}:…`, rows / kB" for topic in topics))
    rows: Rows = [(*head, "kB on disk", "three days of a question a second: million rows", "GB")]
    for one in each:
        count = sum(one.rows.values())
        parts = [f"{_short(one.rows.get(t, 0))} / {_short(one.payloads.get(t, 0) / 1000)}" for t in topics]
        total = (count * KEPT_SECONDS / 1e6, one.disk * KEPT_SECONDS / 1e9)
        rows.append((f"{one.history:,}", _short(count), *parts, _short(one.disk / 1000), *map(_short, total)))
    return rows


def loads(measured: Costed, reply: Reply | None, utilisation: float) -> Rows:
    """What fleets of each size ask for, on the largest plan."""
    each = [load(Fleet(workers, utilisation), measured.levels, TEAM, reply) for workers in WORKERS]
    kept = KEPT_SECONDS * measured.stored[0].disk / 1e9
    return [
        ("per second, workers:", *(f"{workers:,}" for workers in WORKERS)),
        *((name, *(_short(value(one)) for one in each)) for name, value in LOADS.items()),
        ("`realtime.messages` after three days, GB", *(_short(one.questions * kept) for one in each)),
    ]


def bottlenecks(measured: Costed, reply: Reply | None) -> Rows:
    """For each plan, load and size the limit that is used most, and the next one if that is exceeded."""
    rows: Rows = [("plan and compute", "load", *(f"{workers:,}" for workers in WORKERS))]
    for limits in PLANS:
        for name, utilisation in UTILISATIONS.items():
            cells = [
                _fullest(load(Fleet(size, utilisation), measured.levels, limits, reply), limits) for size in WORKERS
            ]
            rows.append((limits.name, name, *cells))
    return rows


def fewer(measured: Costed, reply: Reply | None) -> Rows:
    """The same slots in fewer workers."""
    rows: Rows = [
        ("workers × slots", "Realtime messages", "claims", "beats", "database CPU, cores", "first bottleneck")
    ]
    for workers in FEWER:
        one = load(Fleet(workers, 0.7, concurrency=SLOTS // workers), measured.levels, TEAM, reply)
        figures = (one.events, one.claims, one.beats, one.cpu)
        rows.append((f"{workers} × {SLOTS // workers}", *(_short(value) for value in figures), _fullest(one, TEAM)))
    return rows


def page(measured: Costed, reply: Reply | None) -> list[str]:
    """The tables for docs/scale.md."""
    lines: list[str] = []
    for title, rows in tables(measured, reply).items():
        lines += [f"**{title}**", "", *markdown(rows), ""]
    lines.append(
        "The model counts a reply at least as `make bench` measured it."
        if reply
        else "The model was not checked against a full run of `make bench`."
    )
    return lines


def _fullest(one: Load, limits: Limits) -> str:
    first, second, *_ = one.uses(limits)
    text = f"{first.resource} {_percent(first.share)}"
    return f"**{text}**, then {second.resource} {_percent(second.share)}" if first.share > 1 else text


def _percent(share: float) -> str:
    return f"{share:.0%}" if share < 10 else f"{number(share)} ×"


def _short(value: float) -> str:
    """Two significant digits; from a hundred on whole numbers."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
