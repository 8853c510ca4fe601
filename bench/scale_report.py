"""The tables of `bench/scale.py`: what calls cost, what fleets ask for, and what is full first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.fleet import PLANS, TEAM, Costs, Fleet, Limits, Load, Reply, load
from bench.report import columns, number

WORKERS = (1, 10, 100, 1_000)
# The shares of all slots that are taken: nobody asks, a quiet hour, a busy one.
UTILISATIONS = {"idle": 0.0, "a tenth of the slots taken": 0.1, "seven tenths taken": 0.7}
# As many slots as 100 workers have by default.
SLOTS = 3_200
FATTER = (4, 10, 32, 100)
Rows = list[tuple[str, ...]]

CALLS = {
    "a question's insert": "ask",
    "claim that finds nothing": "claim_nothing",
    "claim of one job": "claim_one",
    "claim of 32": "claim_many",
    "beat of 32, leases alone": "beat",
    "beat of 1 with its checkpoint": "checkpoint_one",
    "beat of 32 with checkpoints": "checkpoint_many",
    "finish of one": "finish_one",
    "finish of 32": "finish_many",
}
LOADS: dict[str, Callable[[Load], float]] = {
    "questions": lambda one: one.messages,
    "wake-ups heard, all workers": lambda one: one.wake_ups,
    "claims": lambda one: one.claims,
    "… that find nothing": lambda one: one.claims_in_vain,
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
    "… of canaries": lambda one: one.events_of_canaries,
    "… of wake-ups": lambda one: one.events_of_wake_ups,
    "… of rows": lambda one: one.events_of_rows,
    "… of deltas, as the quota allows": lambda one: one.events_of_deltas,
    "… of deltas without a quota": lambda one: one.deltas_wanted,
    "seconds between a reply's deltas": lambda one: one.delta_seconds,
}


def tables(costs: Sequence[Costs], reply: Reply | None) -> dict[str, Rows]:
    """All tables by title, each with its head first."""
    return {
        "A call's time in the database, its CPU and its write-ahead log": calls(costs),
        **{
            f"A second of a fleet, {name} ({TEAM.name})": loads(costs, reply, share)
            for name, share in UTILISATIONS.items()
        },
        "The share of each limit that is used most": bottlenecks(costs, reply),
        f"{SLOTS:,} slots, seven tenths taken, in fewer and fatter workers ({TEAM.name})": fatter(costs, reply),
    }


def calls(costs: Sequence[Costs]) -> Rows:
    """Each call: milliseconds, milliseconds of CPU, kB of log, by the jobs in hand of the fleet."""
    rows: Rows = [("ms / CPU ms / kB, jobs in hand:", *(f"{one.held:,}" for one in costs))]
    for name, operation in CALLS.items():
        each = [getattr(one, operation) for one in costs]
        rows.append(
            (name, *(f"{_short(c.seconds * 1000)} / {_short(c.cpu * 1000)} / {_short(c.wal / 1000)}" for c in each))
        )
    return rows


def loads(costs: Sequence[Costs], reply: Reply | None, utilisation: float) -> Rows:
    """What fleets of each size ask for, on the largest plan."""
    each = [load(Fleet(workers, utilisation), costs, TEAM, reply) for workers in WORKERS]
    return [
        ("a second, workers:", *(f"{workers:,}" for workers in WORKERS)),
        *((name, *(_short(value(one)) for one in each)) for name, value in LOADS.items()),
    ]


def bottlenecks(costs: Sequence[Costs], reply: Reply | None) -> Rows:
    """For each plan and load what each size uses most, how much of it, and what comes next if that is full."""
    rows: Rows = [("plan and compute", "load", *(f"{workers:,}" for workers in WORKERS))]
    for limits in PLANS:
        for name, utilisation in UTILISATIONS.items():
            cells = [_fullest(load(Fleet(size, utilisation), costs, limits, reply), limits) for size in WORKERS]
            rows.append((limits.name, name, *cells))
    return rows


def fatter(costs: Sequence[Costs], reply: Reply | None) -> Rows:
    """The same slots in fewer workers."""
    rows: Rows = [
        ("workers × slots", "Realtime messages", "claims", "beats", "database CPU, cores", "first bottleneck")
    ]
    for workers in FATTER:
        one = load(Fleet(workers, 0.7, concurrency=SLOTS // workers), costs, TEAM, reply)
        figures = (one.events, one.claims, one.beats, one.cpu)
        rows.append((f"{workers} × {SLOTS // workers}", *(_short(value) for value in figures), _fullest(one, TEAM)))
    return rows


def page(costs: Sequence[Costs], reply: Reply | None) -> list[str]:
    """The tables for docs/scale.md."""
    lines: list[str] = []
    for title, (head, *rest) in tables(costs, reply).items():
        lines += [f"**{title}**", "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in rest] + [""]
    lines.append(
        "The cost of a reply by `make bench` is in these figures."
        if reply
        else "No whole run of `make bench` was there to hold these figures to."
    )
    return lines


def terminal(rows: Rows) -> str:
    """A table for a terminal."""
    return columns(rows)


def _fullest(one: Load, limits: Limits) -> str:
    first, second, *_ = one.uses(limits)
    text = f"{first.resource} {_percent(first.share)}"
    return f"**{text}**, then {second.resource} {_percent(second.share)}" if first.share > 1 else text


def _percent(share: float) -> str:
    return f"{share:.0%}" if share < 10 else f"{number(share)} ×"


def _short(value: float) -> str:
    """Two digits that count; a thousand and more in whole."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
