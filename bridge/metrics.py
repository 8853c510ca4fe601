"""Every metric of a worker: its name, its help text and its value."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from bridge.model import Result

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds

# a `_created` series beside each counter, which no alert and no panel reads
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client 0.26 has no annotation there


class Metrics:
    """The metrics of one worker, counted since its start, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        gauge, counter = partial(prometheus.Gauge, registry=registry), partial(prometheus.Counter, registry=registry)
        histogram = partial(prometheus.Histogram, buckets=BUCKETS, registry=registry)

        # the gauges are set for each scrape, by Health
        self.ready = gauge("bridge_ready", "1 if the worker can do work now, else 0.")
        self.running_jobs = gauge("bridge_running_jobs", "Jobs this worker holds.")
        self.concurrency = gauge("bridge_concurrency", "The most jobs this worker holds at once.")
        self.media_bytes = gauge("bridge_media_bytes", "Bytes of the attachments in calls of models.")
        self.workers = gauge("bridge_workers", "Live workers, according to the database.")
        opened = "1 while this worker leaves a function to others, because its model is out of order, else 0."
        self.breaker_open = gauge("bridge_breaker_open", opened, ["function"])
        self.queue = Queue(registry)
        self.claims = counter("bridge_claims", "Claims the database answered, by trigger.", ["woken_by"])
        self.claimed = counter("bridge_claimed", "Jobs taken, by a claim or a dispatch.")
        self.dispatched = counter("bridge_dispatched", "Jobs that the database handed over without a claim.")
        self.takeovers = counter("bridge_takeovers", "Jobs taken over from a worker that vanished.")
        self.leases_lost = counter("bridge_leases_lost", "Jobs lost to another worker or a deletion.")
        self.missed_wakeups = counter(
            "bridge_missed_wakeups", "Times when work was found whose wake-up or dispatch had not arrived."
        )
        self.resubscriptions = counter("bridge_resubscriptions", "Realtime subscriptions that were replaced.")
        self.attempts = counter("bridge_attempts", "Attempts that ended.", ["outcome"])
        self.retries = counter("bridge_retries", "Failed attempts that are retried, by error code.", ["reason"])
        self.given_up = counter("bridge_given_up", "Questions given up, by error code.", ["reason"])
        self.tokens = counter("bridge_tokens", "Tokens of the models: input, output, cached.", ["kind"])
        self.deltas = counter("bridge_deltas", "Deltas sent.")
        self.deltas_failed = counter("bridge_deltas_failed", "Deltas that failed to send.")
        self.delta_gaps = counter("bridge_delta_gaps", "Deltas not sent because Realtime was unavailable.")
        self.orphans_removed = counter("bridge_orphans_removed", "Objects removed that no message names.")
        self.queue_seconds = histogram("bridge_queue_seconds", "From the insert to the claim.")
        self.first_delta_seconds = histogram("bridge_first_delta_seconds", "From the claim to the first delta.")
        self.attempt_seconds = histogram("bridge_attempt_seconds", "From the claim to the result.")

    def attempt_ended(self, result: Result, state: str) -> None:
        """Count an attempt by its result and the state that the database answered for it."""
        if state not in ("ok", "refused"):
            self.leases_lost.inc()
            return
        stats = result.stats
        self.attempts.labels("failed" if state == "refused" else result.outcome).inc()
        if result.error is not None:
            # a handler may have chosen a code that is not valid UTF-8, which would fail every scrape from then on
            code = result.error["code"].encode(errors="replace").decode()
            (self.given_up if result.retry_ms is None else self.retries).labels(code).inc()
        if stats.first_delta_ms is not None:
            self.first_delta_seconds.observe(stats.first_delta_ms / 1000)
        if stats.duration_ms is not None:
            self.attempt_seconds.observe(stats.duration_ms / 1000)
        for kind in ("input", "output", "cached"):
            count = getattr(stats.usage, f"{kind}_tokens") or 0
            self.tokens.labels(kind).inc(min(max(count, 0), 2**31))  # a handler may yield any int

    def value(self, name: str, **labels: str) -> float:
        """Sum the samples called `name` that have these labels; 0.0 if there are none."""
        samples = [sample for family in self.registry.collect() for sample in family.samples if sample.name == name]
        return sum((sample.value for sample in samples if labels.items() <= sample.labels.items()), 0.0)

    def render(self) -> tuple[bytes, str]:
        """Return the answer to a scrape, in Prometheus's text format, and its content type."""
        return prometheus.generate_latest(self.registry), prometheus.CONTENT_TYPE_PLAIN_0_0_4


class Queue(Collector):
    """The queue according to the database. While `status` is None its series are absent, which raises an alert."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.status: Mapping[str, Any] | None = None
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges, for `generate_latest`."""
        if (status := self.status) is not None:
            yield GaugeMetricFamily("bridge_queue_depth", "Questions that could be claimed now.", status["queued"])
            yield GaugeMetricFamily("bridge_queue_age_seconds", "Age of the oldest one.", status["oldest_seconds"])
            yield GaugeMetricFamily("bridge_dead_letters", "Questions that were given up.", status["dead_letters"])
