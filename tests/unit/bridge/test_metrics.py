"""The answer to a scrape."""

from __future__ import annotations

from typing import Literal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.metrics import Metrics
from bridge.model import AttemptStats, Result, Usage


def ended(metrics: Metrics, state: str = "ok", code: str | None = None, retry_ms: int | None = None) -> None:
    error = None if code is None else {"code": code, "message": "Failed."}
    run = AttemptStats(function="Chat", usage=Usage(output_tokens=3), first_delta_ms=400, duration_ms=2000)
    outcome: Literal["done", "failed"] = "done" if error is None else "failed"
    metrics.attempt_ended(Result("id", 1, outcome, error=error, retry_ms=retry_ms, stats=run), state)


def samples(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample, by its name."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_finished_attempt_is_counted_with_its_tokens_and_durations() -> None:
    metrics = Metrics()
    ended(metrics)
    assert metrics.value("bridge_attempts_total", outcome="done") == 1
    assert metrics.value("bridge_tokens_total", kind="output") == 3
    assert metrics.value("bridge_first_delta_seconds_bucket", le="0.5") == 1
    assert metrics.value("bridge_first_delta_seconds_bucket", le="0.25") == 0
    assert metrics.value("bridge_attempt_seconds_sum") == 2


def test_failed_attempt_is_counted_as_retried_or_given_up() -> None:
    metrics = Metrics()
    ended(metrics, code="model_busy", retry_ms=100)
    ended(metrics, code="model_refused")
    ended(metrics, state="refused")
    assert metrics.value("bridge_attempts_total", outcome="failed") == 3
    assert metrics.value("bridge_retries_total") == metrics.value("bridge_retries_total", reason="model_busy") == 1
    assert metrics.value("bridge_given_up_total") == metrics.value("bridge_given_up_total", reason="model_refused") == 1


def test_lost_attempt_is_counted_only_as_a_lost_lease() -> None:
    metrics = Metrics()
    ended(metrics, state="lost")
    assert metrics.value("bridge_leases_lost_total") == 1
    assert metrics.value("bridge_attempts_total") == 0


def test_unused_labels_and_unknown_queue_have_no_samples() -> None:
    metrics = Metrics()
    found = samples(metrics)
    assert "bridge_attempts_total" not in found
    assert "bridge_queue_depth" not in found
    assert "bridge_deltas_total" in found
    assert not [name for name in found if name.endswith("_created")]
    metrics.queue.status = {"queued": 2, "oldest_seconds": 1.5, "dead_letters": 0}
    assert metrics.value("bridge_queue_age_seconds") == 1.5
    assert "bridge_queue_depth" in samples(metrics)


@pytest.mark.parametrize(
    ("code", "label"), [('an "odd"\n\\ code', 'an "odd"\n\\ code'), ("\ud800", "?")], ids=["quotes", "surrogate"]
)
def test_any_error_code_can_be_scraped(code: str, label: str) -> None:
    """A handler may end a reply with any code."""
    metrics = Metrics()
    ended(metrics, code=code)
    assert samples(metrics)["bridge_given_up_total"] == [{"reason": label}]
