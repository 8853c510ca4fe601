"""The CI workflow: few permissions, timeouts, and every supported version."""

from __future__ import annotations

import re
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

from devstack.postgres import binaries
from tests.support import ROOT
from tests.unit.deploy.test_image import PROJECT, of

TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
WORKFLOW: dict[str, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, Any] = WORKFLOW["jobs"]


def steps(key: str) -> list[str]:
    return [step[key] for job in JOBS.values() for step in job["steps"] if key in step]


def test_workflow_has_read_permission_only() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in JOBS.values())
    assert "secrets." not in TEXT
    for job in JOBS.values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


def test_jobs_have_timeouts_and_actions_have_versions() -> None:
    assert WORKFLOW["concurrency"]["group"]
    for name, job in JOBS.items():
        assert job["timeout-minutes"] <= 90, name
    for action in steps("uses"):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


def test_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {word for line in steps("run") for word in re.findall(r"\bmake ([a-z-]+)", line)}
    assert made
    assert made <= targets
    for line in steps("run"):
        for path in re.findall(r"pytest (\S+)", line):
            assert (ROOT / path).is_dir()


def test_matrix_covers_supported_versions() -> None:
    matrix = JOBS["test"]["strategy"]["matrix"]
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert all(version in supported for version in matrix["python"])
    assert str(supported).removeprefix(">=") in matrix["python"], "the oldest"
    [image] = set(re.findall(r"python:(\d+\.\d+)", " ".join(of("FROM"))))
    assert image in matrix["python"], "the image's"
    for version in matrix["postgres"]:
        binaries(int(version))  # raises if there are none


def test_conformance_job_sets_every_variable() -> None:
    given = set(re.findall(r"--override-name \S+=(SUPABASE_\w+)", TEXT))
    documented = (ROOT / "tests" / "conformance" / "conftest.py").read_text().split('"""')[1]
    assert given == set(re.findall(r"`(SUPABASE_\w+)`", documented))
