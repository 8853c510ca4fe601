"""What a fleet of workers asks of one project: a model in plain arithmetic, without I/O; docs/scale.md explains it.

The costs come from `bench/scale.py`, the limits from the Supabase pages linked below. Where the code leaves a choice,
the model takes the more expensive one: it should err on the high side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bridge.claims import LONGEST_SECONDS
from bridge.pacing import EVENTS_PER_DELTA, EVENTS_PER_REPLY, WATCHERS
from bridge.realtime.channels import CHANNELS_PER_CONNECTION
from bridge.realtime.connection import PROBE_SECONDS
from bridge.realtime.listener import LEAST_SILENCE
from bridge.settings import Settings

DEFAULTS = Settings(supabase_url="http://127.0.0.1", supabase_key="key")
# The first and the last delta of every reply are sent regardless of the quota.
DELTAS_ALWAYS = 2
# A question is sent to its worker and delivered there.
EVENTS_PER_PUSH = 2
# When a worker joins a channel, Realtime checks the policies twice, each in a transaction (docs/performance.md).
TRANSACTIONS_PER_JOIN = 2
# A worker's connections besides those for deltas: one for broadcasts.
LISTENER_CONNECTIONS = 1
MANY = 32  # jobs in the large batches that are measured, besides batches of one


@dataclass(frozen=True)
class Cost:
    """Of one call: seconds that it holds a connection, seconds of the backend's CPU, bytes of write-ahead log."""

    seconds: float
    cpu: float
    wal: float

    def toward(self, other: Cost, share: float) -> Cost:
        """Interpolate to another cost; extrapolate if `share` is above 1."""
        return Cost(
            self.seconds + (other.seconds - self.seconds) * share,
            self.cpu + (other.cpu - self.cpu) * share,
            self.wal + (other.wal - self.wal) * share,
        )


@dataclass(frozen=True)
class Costs:
    """Of each call, while the whole fleet holds `held` jobs."""

    held: int
    dispatch: Cost  # an insert that gives the question to a worker
    ask: Cost  # an insert that finds no room; the model does not use it, nor the next ones up to `beat`
    claim_one: Cost
    claim_many: Cost
    beat: Cost  # of MANY jobs, leases only
    claim_nothing: Cost
    checkpoint_one: Cost
    checkpoint_many: Cost
    finish_one: Cost
    finish_many: Cost

    def toward(self, other: Costs, share: float) -> Costs:
        """Interpolate to the costs at another number of jobs."""
        parts = {name: getattr(self, name).toward(getattr(other, name), share) for name in OPERATIONS}
        return Costs(round(self.held + (other.held - self.held) * share), **parts)


OPERATIONS = (
    "dispatch", "ask", "claim_nothing", "claim_one", "claim_many", "beat",
    "checkpoint_one", "checkpoint_many", "finish_one", "finish_many",
)  # fmt: skip


def costs_at(measured: Sequence[Costs], held: float) -> Costs:
    """The costs while `held` jobs are held: linear between the measured levels, which are in ascending order."""
    for low, high in itertools.pairwise(measured):
        if held <= high.held:
            return low.toward(high, max(0.0, held - low.held) / (high.held - low.held))
    return measured[-1]


@dataclass(frozen=True)
class Stored:
    """What a question and its reply leave in `realtime.messages`, for three days.

    `history`: bytes of the messages before it. `rows` and bytes of `payloads` by the first part of their topic; `disk`
    in bytes, with indexes.
    """

    history: int
    rows: Mapping[str, float]
    payloads: Mapping[str, float]
    disk: float


@dataclass(frozen=True)
class Costed:
    """What `bench/scale.py` measured: the levels are in ascending order of the jobs that are held."""

    levels: Sequence[Costs]
    stored: Sequence[Stored]


@dataclass(frozen=True)
class Reply:
    """The cost of a reply as `make bench` measured it: a lower bound. `wal` in bytes, `cpu` of Postgres in seconds."""

    rest_calls: float = 0.0  # of the worker
    transactions: float = 0.0
    wal: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """Workers and their load. `utilisation` is the average share of all slots in use."""

    workers: int
    utilisation: float
    concurrency: int = DEFAULTS.concurrency
    reply_seconds: float = 12.0
    call_seconds: float = 0.05  # of a call, besides the time in the database
    sweep_seconds: float = DEFAULTS.sweep_seconds
    lease_seconds: float = DEFAULTS.lease_seconds
    checkpoint_seconds: float = DEFAULTS.checkpoint_seconds
    delta_ms: float = DEFAULTS.delta_ms

    @property
    def running(self) -> float:
        """Running replies, on average."""
        return self.workers * self.concurrency * self.utilisation

    @property
    def questions(self) -> float:
        """Questions a second."""
        return self.running / self.reply_seconds


@dataclass(frozen=True)
class Limits:
    """Of one project: the plan's for Realtime, the compute size's for the rest.

    Realtime: https://supabase.com/docs/guides/realtime/limits. Cores: …/guides/platform/compute-and-disk. Disk, in
    sustained MB/s: …/guides/troubleshooting/interpreting-supabase-grafana-io-charts-MUynDR. The pool of REST is
    PostgREST's default (db-pool, https://docs.postgrest.org/en/v12/references/configuration.html).
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
        """BRIDGE_EVENTS_PER_SECOND, as its default is for Free: four fifths."""
        return self.events * 0.8


# Nano's CPU is "shared", without a number: it counts as one core.
FREE = Limits("Free, Nano", 100, 200, 100, 1, 5)
PRO = Limits("Pro, Micro", 500, 500, 500, 2, 11)
TEAM = Limits("Pro without a spend cap, or Team, 4XL", 2_500, 10_000, 2_500, 16, 594)
PLANS = (FREE, PRO, TEAM)


@dataclass(frozen=True)
class Use:
    """Demand for a resource, and its limit."""

    resource: str
    asked: float
    limit: float

    @property
    def share(self) -> float:
        """Demand over limit; above 1 the project cannot provide it."""
        return self.asked / self.limit


@dataclass(frozen=True)
class Load:
    """What a fleet asks for, per second unless noted otherwise."""

    questions: float
    wakeups: float  # received by all workers together, with those by postgres_changes
    claims: float
    beats: float
    finishes: float
    rest_calls: float  # of workers, and the inserts of questions
    transactions: float
    cpu: float  # cores of the database
    wal: float  # bytes
    rest_connections: float  # in use at any time
    joins: float
    realtime_connections: float  # of workers, and one for each running reply
    channels: float  # on a worker's fullest connection
    events_of_probes: float
    events_of_wakeups: float
    events_of_rows: float
    events_of_deltas: float
    deltas_wanted: float  # events of deltas without a quota
    delta_seconds: float = field(default=0.0)  # between two deltas of a reply; 0: no reply is running

    @property
    def events(self) -> float:
        """All of Realtime's messages."""
        return self.events_of_probes + self.events_of_wakeups + self.events_of_rows + self.events_of_deltas

    def uses(self, limits: Limits) -> list[Use]:
        """Every limited resource, the one with the highest share first."""
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
    """Serial calls a second, if news arrives at `rate` and each call handles everything that arrived before it."""
    if rate == 0:
        return 0.0
    return 1 / (seconds + math.exp(-rate * seconds) / rate)


def load(fleet: Fleet, measured: Sequence[Costs], limits: Limits, reply: Reply | None = None) -> Load:
    """What the fleet asks of a project. `measured` is ordered by jobs held; the limits bound the deltas."""
    least = reply or Reply()
    costs = costs_at(measured, fleet.running)
    workers, questions = fleet.workers, fleet.questions
    busy = workers * (1 - math.exp(-fleet.concurrency * fleet.utilisation))  # workers with at least one job

    # No question is claimed while there is room. An idle worker sweeps, and its interval has a jitter of a tenth; a
    # busy one learns from its beats that nothing is ready.
    seldom = max(fleet.sweep_seconds, min(fleet.lease_seconds, LONGEST_SECONDS))
    claims = (workers - busy) / (fleet.sweep_seconds * 0.95) + busy / seldom
    beats = busy / (fleet.checkpoint_seconds + fleet.call_seconds)
    finishes = workers * coalesced(questions / workers, fleet.call_seconds + costs.finish_one.seconds)
    calls = [
        (questions, costs.dispatch),
        (claims, costs.claim_nothing),
        (beats, _batch(costs.checkpoint_one, costs.checkpoint_many, fleet.running, busy)),
        (finishes, _batch(costs.finish_one, costs.finish_many, questions, finishes)),
    ]
    joins = questions  # as if the worker had never answered in the session before
    rest_calls = questions + max(claims + beats + finishes, questions * least.rest_calls)

    watching = min(WATCHERS, workers)  # each on a connection of its own
    wakeups = questions * (EVENTS_PER_PUSH + watching)
    rows = questions * (EVENTS_PER_REPLY - EVENTS_PER_PUSH)
    wanted = fleet.running * 1000 / max(1.0, fleet.delta_ms) * EVENTS_PER_DELTA
    budget = limits.events_for_replies - rows - wakeups
    deltas = min(wanted, max(budget, questions * DELTAS_ALWAYS * EVENTS_PER_DELTA))
    publishers = max(1, math.ceil((fleet.concurrency if fleet.utilisation else 0) / CHANNELS_PER_CONNECTION))
    return Load(
        questions=questions,
        wakeups=questions * (1 + watching),
        claims=claims,
        beats=beats,
        finishes=finishes,
        rest_calls=rest_calls,
        transactions=max(rest_calls + joins * TRANSACTIONS_PER_JOIN, questions * least.transactions),
        cpu=max(sum(rate * cost.cpu for rate, cost in calls), questions * least.cpu),
        wal=max(sum(rate * cost.wal for rate, cost in calls), questions * least.wal),
        rest_connections=sum(rate * cost.seconds for rate, cost in calls),
        joins=joins,
        realtime_connections=workers * (LISTENER_CONNECTIONS + publishers) + watching + fleet.running,
        channels=1 + (CHANNELS_PER_CONNECTION if questions else 1),
        events_of_probes=_probes(fleet),
        events_of_wakeups=wakeups,
        events_of_rows=rows,
        events_of_deltas=deltas,
        deltas_wanted=wanted,
        delta_seconds=fleet.running * EVENTS_PER_DELTA / deltas if deltas else 0.0,
    )


def _probes(fleet: Fleet) -> float:
    """Realtime messages a second of probes: each publisher sends its own, and one listener's reaches every worker.

    It replaces theirs. The workers that watch are the first to send one, after a random time up to PROBE_SECONDS; so
    two may be sent at once.
    """
    waits = PROBE_SECONDS * (1 - LEAST_SILENCE)
    sent = 1 + (min(WATCHERS, fleet.workers) - 1) * min(1.0, fleet.call_seconds / waits)
    listeners = sent * (1 + fleet.workers) / (PROBE_SECONDS * LEAST_SILENCE)
    return listeners + 2 * fleet.workers / PROBE_SECONDS


def _batch(one: Cost, many: Cost, items: float, calls: float) -> Cost:
    """The cost of a call when `calls` of them carry `items` jobs."""
    if not calls:
        return one
    return one.toward(many, max(0.0, items / calls - 1) / (MANY - 1))
