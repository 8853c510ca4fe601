"""The alerts, the dashboard and the manual match the metrics of a worker."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from bridge.health import Health
from bridge.store import Store
from bridge.watchdog import Watchdog
from tests.support import ROOT
from tests.support.users import Person
from tests.support.workers import working

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
MANUAL = (ROOT / "docs" / "operations.md").read_text()
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
SCRAPED = {"job", "instance"}  # labels that Prometheus adds

# For each alert the series, a value a minute, that have raised it by the 85th minute.
RAISED = {
    "BridgeNoWorkers": {"up": "0x90"},
    "BridgeNoWorkerReady": {'bridge_ready{instance="a"}': "0x90", 'bridge_ready{instance="b"}': "0x90"},
    "BridgeQueueDelayed": {'bridge_queue_age_seconds{instance="a"}': "0+60x90"},
    "BridgeQueueUnknown": {'bridge_ready{instance="a"}': "1x90"},
    "BridgeWorkerNotReady": {'bridge_ready{instance="a"}': "0x90", 'bridge_ready{instance="b"}': "1x90"},
    "BridgeSaturated": {'bridge_running_jobs{instance="a"}': "31x90", 'bridge_concurrency{instance="a"}': "32x90"},
    "BridgeAttemptsFailing": {
        'bridge_attempts_total{instance="a", outcome="failed"}': "0+3x90",
        'bridge_attempts_total{instance="a", outcome="done"}': "0+7x90",
    },
    "BridgeDeadLetters": {'bridge_dead_letters{instance="a"}': "2x70 3x20"},
    "BridgeWorkerVanished": {'bridge_takeovers_total{instance="a"}': "0x80 4x10"},
    "BridgeWakeupsMissed": {'bridge_missed_wakeups_total{instance="a"}': "0+1x90"},
    "BridgeDeltasLost": {
        'bridge_deltas_total{instance="a"}': "0+100x90",
        'bridge_deltas_failed_total{instance="a"}': "0+5x90",
        'bridge_delta_gaps_total{instance="a"}': "0+5x90",
    },
    "BridgeSlowModel": {
        'bridge_first_delta_seconds_bucket{instance="a", le="10.0"}': "0+1x90",
        'bridge_first_delta_seconds_bucket{instance="a", le="30.0"}': "0+10x90",
        'bridge_first_delta_seconds_bucket{instance="a", le="+Inf"}': "0+10x90",
    },
    "BridgeSingleWorker": {'bridge_workers{instance="a"}': "1x90"},
}
# Two workers under normal load, one of which was restarted: they raise no alert.
NORMAL = {
    **{f'bridge_ready{{instance="{name}"}}': "1x90" for name in "ab"},
    **{f'bridge_workers{{instance="{name}"}}': "2x90" for name in "ab"},
    **{f'bridge_running_jobs{{instance="{name}"}}': "0 5 9x88" for name in "ab"},
    **{f'bridge_concurrency{{instance="{name}"}}': "32x90" for name in "ab"},
    **{f'bridge_queue_depth{{instance="{name}"}}': "0 3 0x88" for name in "ab"},
    **{f'bridge_queue_age_seconds{{instance="{name}"}}': "0 2 0x88" for name in "ab"},
    **{f'bridge_dead_letters{{instance="{name}"}}': "3x90" for name in "ab"},
    'bridge_attempts_total{instance="a", outcome="done"}': "0+60x40 0+60x50",
    'bridge_attempts_total{instance="a", outcome="failed"}': "0+1x90",
    'bridge_takeovers_total{instance="a"}': "1x40 0x50",
    'bridge_missed_wakeups_total{instance="a"}': "0x60 1x30",
    'bridge_resubscriptions_total{instance="a"}': "2x40 0x20 3x30",
    'bridge_deltas_total{instance="a"}': "0+900x90",
    'bridge_deltas_failed_total{instance="a"}': "0+1x90",
    'bridge_delta_gaps_total{instance="a"}': "0+1x90",
    'bridge_first_delta_seconds_bucket{instance="a", le="2.5"}': "0+60x90",
    'bridge_first_delta_seconds_bucket{instance="a", le="+Inf"}': "0+60x90",
}


def queries() -> Iterator[tuple[str, str]]:
    """Every query, with the alert, panel or variable it belongs to."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["name"], variable["query"]


def metrics_of(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of a query, with the labels it uses."""
    grouped = {label.strip() for found in re.findall(r"\bby \(([^)]*)\)", query) for label in found.split(",")}
    for name, matchers in re.findall(r"\b(bridge_\w+)(?:\{([^}]*)\})?", query):
        yield name, grouped | set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


async def scraped(environment: dict[str, str], user: Person) -> dict[str, set[str]]:
    """The samples of a worker that has answered, with their labels. Every labelled counter has a value."""
    async with working(environment) as worker:
        store = await Store.open(worker.settings, "scraped")
        health = Health(worker, store, Watchdog(30))
        await health.start()
        try:
            await user.reply(await user.ask(await user.open_session(title="named"), "[[text=hello]]"))
            async with asyncio.timeout(15):
                await worker.jobs.is_empty.wait()  # the worker learns of it a moment after the row is done
            worker.metrics.retries.labels("model_busy").inc()
            worker.metrics.given_up.labels("model_refused").inc()
            address = f"http://127.0.0.1:{health.port}/metrics"
            async with aiohttp.ClientSession() as http, http.get(address) as answer:
                text = await answer.text()
        finally:
            await health.stop()
            await store.close()
    samples: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        samples.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    typed = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert typed == {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples}
    return samples


async def test_queries_use_existing_metrics_and_every_metric_is_used(environment: dict[str, str], user: Person) -> None:
    samples = await scraped(environment, user)
    seen: set[str] = set()
    for where, query in queries():
        for name, labels in metrics_of(query):
            assert name in samples, f"{where}: workers do not export {name}"
            assert labels <= samples[name] | SCRAPED, f"{where}: {name} has the labels {samples[name]}"
            seen.add(name)
    seen |= {name.replace("_bucket", kind) for name in seen for kind in ("_sum", "_count") if name.endswith("_bucket")}
    assert seen == set(samples), "a metric is on no panel and in no alert"
    documented = set(re.findall(r"`(bridge_\w+)", MANUAL))
    assert documented == {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples}


def test_every_alert_has_a_runbook_entry() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    assert re.findall(r"^### (Bridge\w+)$", MANUAL, re.MULTILINE) == names
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_dashboard_panels_are_valid() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"  # chosen on import


def test_each_alert_fires_for_its_condition_and_none_under_normal_load(tmp_path: Path) -> None:
    """Run by Prometheus's own `promtool test rules`."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH (on Debian: the package prometheus)")
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True, timeout=60)
    assert set(RAISED) == {rule["alert"] for rule in RULES}

    def scene(series: dict[str, str], **condition: Any) -> dict[str, Any]:
        found = [{"series": name, "values": values} for name, values in series.items()]
        return {"interval": "1m", "input_series": found, "promql_expr_test": [], **condition}

    def firing(name: str) -> dict[str, Any]:
        return {"expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) > bool 0', "eval_time": "85m"}

    raised = [
        scene(series, promql_expr_test=[{**firing(name), "exp_samples": [{"labels": "{}", "value": 1}]}])
        for name, series in RAISED.items()
    ]
    normal = scene(
        NORMAL,
        promql_expr_test=[
            {"expr": "ALERTS", "eval_time": f"{minute}m", "exp_samples": []} for minute in range(0, 90, 5)
        ],
    )
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [*raised, normal]}))
    done = subprocess.run([promtool, "test", "rules", str(rules)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
