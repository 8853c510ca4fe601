"""What a worker counts, for Prometheus: names, help texts and counters."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from bridge.model import Result

disable_created_metrics()

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """All metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.claims = Counter("bridge_claims", "Claims that were answered.", ["woken_by"], registry=r)
        self.claimed = Counter("bridge_claimed", "Jobs claimed.", registry=r)
        self.takeovers = Counter("bridge_takeovers", "Jobs.", registry=r)
        self.leases_lost = Counter("bridge_leases_lost", "Jobs lost.", registry=r)
        self.missed_wakeups = Counter("bridge_missed_wakeups", "Unannounced work found.", registry=r)
        self.attempts = Counter("bridge_attempts", "Attempts that ended.", ["outcome"], registry=r)
        self.retries = Counter("bridge_retries", "Attempts to be repeated.", ["reason"], registry=r)
        self.given_up = Counter("bridge_given_up", "Questions given up.", ["reason"], registry=r)
        self.tokens = Counter("bridge_tokens", "Tokens of models.", ["kind"], registry=r)
        self.deltas = Counter("bridge_deltas", "Deltas sent.", registry=r)
        self.deltas_failed = Counter("bridge_deltas_failed", "Deltas that could not be sent.", registry=r)
        self.delta_gaps = Counter("bridge_delta_gaps", "Deltas that nobody was sent.", registry=r)
        self.queue_seconds = Histogram("bridge_queue_seconds", "q", buckets=_SECONDS, registry=r)
        self.first_delta_seconds = Histogram("bridge_first_delta_seconds", "f", buckets=_SECONDS, registry=r)
        self.attempt_seconds = Histogram("bridge_attempt_seconds", "a", buckets=_SECONDS, registry=r)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def attempt_ended(self, result: Result, state: str) -> None:
        if state not in ("ok", "refused"):
            self.leases_lost.inc()
            return
        run = result.stats
        self.attempts.labels("failed" if state == "refused" else result.outcome).inc()
        if result.error is not None:
            (self.given_up if result.retry_ms is None else self.retries).labels(result.error["code"]).inc()
        if run.first_delta_ms is not None:
            self.first_delta_seconds.observe(run.first_delta_ms / 1000)
        if run.duration_ms is not None:
            self.attempt_seconds.observe(run.duration_ms / 1000)
        self.tokens.labels("input").inc(run.usage.input_tokens or 0)
        self.tokens.labels("output").inc(run.usage.output_tokens or 0)
        self.tokens.labels("cached").inc(run.usage.cached_tokens or 0)
