"""What a fleet of workers asks of one project: a model in plain arithmetic, without I/O. In words: docs/scale.md.

Costs come from `bench/scale.py`, limits from the pages of Supabase that are named beside them. Where the code leaves a
choice, the model takes the dearer one: it is meant to err upwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge.channels import CHANNELS_PER_CONNECTION
from bridge.claims import LATER_SECONDS, PROMPT_WORKERS
from bridge.connection import CANARY_SECONDS
from bridge.inbox import LEAST_SILENCE
from bridge.outbox import EVENTS_PER_DELTA, EVENTS_PER_REPLY
from bridge.settings import Settings

DEFAULTS = Settings(supabase_url="http://127.0.0.1", supabase_key="key")

# A beat extends a lease once a quarter of it has passed, so what others hear of leases is never nearer than this share.
EARLIEST_LEASE_END = 0.75
# Of every reply the first delta and the last are sent, whatever the quota says.
DELTAS_ALWAYS = 2
# A channel's join asks the policies twice, each in a transaction (docs/performance.md).
TRANSACTIONS_PER_JOIN = 2
# Connections of a worker beside those for deltas: broadcasts, and postgres_changes.
INBOX_CONNECTIONS = 2
MANY = 32  # jobs in a batch that was measured, beside batches of one


@dataclass(frozen=True)
class Cost:
    """Of one call: seconds that it holds a connection, seconds of the backend's CPU, bytes of write-ahead log."""

    seconds: float
    cpu: float
    wal: float

    def toward(self, other: Cost, share: float) -> Cost:
        """This far on the line to another cost; beyond it if `share` is above 1."""
        return Cost(
            self.seconds + (other.seconds - self.seconds) * share,
            self.cpu + (other.cpu - self.cpu) * share,
            self.wal + (other.wal - self.wal) * share,
        )


@dataclass(frozen=True)
class Costs:
    """Of each call, with so many jobs held by all workers of the fleet together."""

    held: int
    ask: Cost
    claim_nothing: Cost
    claim_one: Cost
    claim_many: Cost
    beat: Cost  # of MANY jobs, leases alone; the model does not use it
    checkpoint_one: Cost
    checkpoint_many: Cost
    finish_one: Cost
    finish_many: Cost

    def toward(self, other: Costs, share: float) -> Costs:
        """This far on the line to the costs with other jobs held."""
        parts = {name: getattr(self, name).toward(getattr(other, name), share) for name in OPERATIONS}
        return Costs(round(self.held + (other.held - self.held) * share), **parts)


OPERATIONS = (
    "ask", "claim_nothing", "claim_one", "claim_many", "beat",
    "checkpoint_one", "checkpoint_many", "finish_one", "finish_many",
)  # fmt: skip


def costs_at(measured: Sequence[Costs], held: float) -> Costs:
    """The costs with so many jobs held: on straight lines between the levels that were measured, in their order."""
    for low, high in itertools.pairwise(measured):
        if held <= high.held:
            return low.toward(high, max(0.0, held - low.held) / (high.held - low.held))
    return measured[-1]


@dataclass(frozen=True)
class Reply:
    """What a reply costs by `make bench`; the model counts no less. `wal` in bytes, `cpu` of Postgres in seconds."""

    rest_calls: float = 0.0  # of the worker
    transactions: float = 0.0
    wal: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """Workers, and how busy they are. `utilisation` is the share of all slots that are taken on average."""

    workers: int
    utilisation: float
    concurrency: int = DEFAULTS.concurrency
    reply_seconds: float = 12.0
    call_seconds: float = 0.05  # what a worker waits for an answer beside the database's time
    sweep_seconds: float = DEFAULTS.sweep_seconds
    lease_seconds: float = DEFAULTS.lease_seconds
    checkpoint_seconds: float = DEFAULTS.checkpoint_seconds
    delta_ms: float = DEFAULTS.delta_ms

    @property
    def in_hand(self) -> float:
        """Replies that run, on average."""
        return self.workers * self.concurrency * self.utilisation

    @property
    def messages(self) -> float:
        """Questions a second."""
        return self.in_hand / self.reply_seconds


@dataclass(frozen=True)
class Limits:
    """Of one project: a plan's for Realtime, a compute size's for the rest.

    Realtime: https://supabase.com/docs/guides/realtime/limits. Cores: …/guides/platform/compute-and-disk. Disk, in
    MB/s that are sustained: …/guides/troubleshooting/interpreting-supabase-grafana-io-charts-MUynDR. The pool of REST
    is PostgREST's own default (db-pool, https://docs.postgrest.org/en/v12/references/configuration.html).
    """

    name: str
    events: float  # Realtime's messages a second
    connections: int  # to Realtime
    joins: float  # of channels, a second
    cores: float
    disk: float
    rest_pool: int = 10

    @property
    def events_for_replies(self) -> float:
        """BRIDGE_EVENTS_PER_SECOND as it is for Free: four fifths."""
        return self.events * 0.8


# Nano's CPU is "shared" and has no number: it counts as one core.
FREE = Limits("Free, Nano", 100, 200, 100, 1, 5)
PRO = Limits("Pro, Micro", 500, 500, 500, 2, 11)
TEAM = Limits("Pro without a spend cap, or Team, 4XL", 2_500, 10_000, 2_500, 16, 594)
PLANS = (FREE, PRO, TEAM)


@dataclass(frozen=True)
class Use:
    """How much of a resource is asked for, and how much there is."""

    resource: str
    asked: float
    limit: float

    @property
    def share(self) -> float:
        """The asked part of the limit; above 1 it is not to be had."""
        return self.asked / self.limit


@dataclass(frozen=True)
class Load:
    """What a fleet asks for, a second unless it says otherwise."""

    messages: float
    wake_ups: float  # heard by all workers together
    claims: float
    claims_in_vain: float
    beats: float
    finishes: float
    rest_calls: float  # of workers, and the questions' own inserts
    transactions: float
    cpu: float  # cores of the database
    wal: float  # bytes
    rest_connections: float  # held at any time
    joins: float
    realtime_connections: float  # of workers, and one for each reply that runs
    channels: float  # on a worker's fullest connection
    events_of_canaries: float
    events_of_wake_ups: float
    events_of_rows: float
    events_of_deltas: float
    deltas_wanted: float  # events of deltas without a quota
    delta_seconds: float = field(default=0.0)  # between two deltas of a reply; 0: no reply runs

    @property
    def events(self) -> float:
        """Of Realtime, all together."""
        return self.events_of_canaries + self.events_of_wake_ups + self.events_of_rows + self.events_of_deltas

    def uses(self, limits: Limits) -> list[Use]:
        """Of each resource that has a limit, the one that is used most first."""
        uses = [
            Use("Realtime messages", self.events, limits.events),
            Use("Realtime connections", self.realtime_connections, limits.connections),
            Use("channel joins", self.joins, limits.joins),
            Use("database CPU", self.cpu, limits.cores),
            Use("write-ahead log", self.wal / 1e6, limits.disk),
            Use("REST's connections", self.rest_connections, limits.rest_pool),
        ]
        return sorted(uses, key=lambda use: -use.share)


def coalesced(rate: float, seconds: float) -> float:
    """Calls a second, one after the other, if news comes at `rate` and each call answers all that came before it."""
    if rate == 0:
        return 0.0
    return 1 / (seconds + math.exp(-rate * seconds) / rate)


def load(fleet: Fleet, measured: Sequence[Costs], limits: Limits, reply: Reply | None = None) -> Load:
    """What the fleet asks of a project. `measured` is in the order of jobs held; the limits bound the deltas."""
    least = reply or Reply()
    costs = costs_at(measured, fleet.in_hand)
    workers, messages = fleet.workers, fleet.messages
    busy = workers * (1 - math.exp(-fleet.concurrency * fleet.utilisation))  # have something in hand

    claims = workers * _claims_of_one(fleet, costs)
    fruitful = min(messages, claims)
    beats = busy / (fleet.checkpoint_seconds + fleet.call_seconds)
    finishes = workers * coalesced(messages / workers, fleet.call_seconds + costs.finish_one.seconds)
    called = [
        (messages, costs.ask),
        (claims - fruitful, costs.claim_nothing),
        (fruitful, _batch(costs.claim_one, costs.claim_many, messages, fruitful)),
        (beats, _batch(costs.checkpoint_one, costs.checkpoint_many, fleet.in_hand, busy)),
        (finishes, _batch(costs.finish_one, costs.finish_many, messages, finishes)),
    ]
    joins = messages  # as if no session had been answered by the same worker before
    rest_calls = messages + max(claims + beats + finishes, messages * least.rest_calls)

    # an inbox's reaches every worker and stands for theirs, an outbox's is its own
    canaries = (1 + workers) / (CANARY_SECONDS * LEAST_SILENCE) + 2 * workers / CANARY_SECONDS
    wake_ups = messages * (1 + 2 * workers)  # a send; and of both lanes a delivery to every worker
    rows = messages * (EVENTS_PER_REPLY - 1)
    wanted = fleet.in_hand * 1000 / max(1.0, fleet.delta_ms) * EVENTS_PER_DELTA
    budget = limits.events_for_replies - messages * (EVENTS_PER_REPLY + workers)
    deltas = min(wanted, max(budget, messages * DELTAS_ALWAYS * EVENTS_PER_DELTA))
    most_in_hand = fleet.concurrency if fleet.utilisation else 0
    return Load(
        messages=messages,
        wake_ups=messages * workers * 2,
        claims=claims,
        claims_in_vain=claims - fruitful,
        beats=beats,
        finishes=finishes,
        rest_calls=rest_calls,
        transactions=max(rest_calls + joins * TRANSACTIONS_PER_JOIN, messages * least.transactions),
        cpu=max(sum(rate * cost.cpu for rate, cost in called), messages * least.cpu),
        wal=max(sum(rate * cost.wal for rate, cost in called), messages * least.wal),
        rest_connections=sum(rate * cost.seconds for rate, cost in called),
        joins=joins,
        realtime_connections=workers * (INBOX_CONNECTIONS + _outboxes(most_in_hand)) + fleet.in_hand,
        channels=1 + (CHANNELS_PER_CONNECTION if messages else 0),
        events_of_canaries=canaries,
        events_of_wake_ups=wake_ups,
        events_of_rows=rows,
        events_of_deltas=deltas,
        deltas_wanted=wanted,
        delta_seconds=fleet.in_hand * EVENTS_PER_DELTA / deltas if deltas else 0.0,
    )


def _claims_of_one(fleet: Fleet, costs: Costs) -> float:
    """Claims a second of one worker: woken at once, woken later, or else by a due lease or the sweep."""
    prompt_share = min(1.0, PROMPT_WORKERS / fleet.workers)
    call = fleet.call_seconds + costs.claim_one.seconds
    at_once = coalesced(fleet.messages * prompt_share, call)
    put_off = fleet.messages * (1 - prompt_share)
    later = 1 / (1 / put_off + LATER_SECONDS[0]) if put_off else 0.0
    if not fleet.utilisation:
        floor = 1 / (fleet.sweep_seconds * 0.95)  # jittered by a tenth
    elif fleet.workers > 1:
        floor = 1 / (fleet.lease_seconds * EARLIEST_LEASE_END)  # when another's lease would end
    else:
        floor = 1 / fleet.lease_seconds
    return max(min(at_once + later, 1 / call), floor)


def _batch(one: Cost, many: Cost, items: float, calls: float) -> Cost:
    """Of a call that carries so many items on average."""
    if not calls:
        return one
    return one.toward(many, max(0.0, items / calls - 1) / (MANY - 1))


def _outboxes(in_hand: int) -> int:
    return max(1, math.ceil(in_hand / CHANNELS_PER_CONNECTION))
