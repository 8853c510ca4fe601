"""The workflow of CI: it asks for little, ends, and runs what the project says it runs on."""

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


def test_it_may_read_and_nothing_else() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in JOBS.values())
    assert "secrets." not in TEXT
    for job in JOBS.values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


def test_every_job_ends_and_every_action_has_a_version() -> None:
    assert WORKFLOW["concurrency"]["group"]
    for name, job in JOBS.items():
        assert job["timeout-minutes"] <= 90, name
    for action in steps("uses"):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


def test_what_it_runs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {word for line in steps("run") for word in re.findall(r"\bmake ([a-z]+)", line)}
    assert made
    assert made <= targets
    for line in steps("run"):
        for path in re.findall(r"pytest (\S+)", line):
            assert (ROOT / path).is_dir()


def test_the_matrix_is_what_is_supported() -> None:
    matrix = JOBS["test"]["strategy"]["matrix"]
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert all(version in supported for version in matrix["python"])
    assert str(supported).removeprefix(">=") in matrix["python"], "the oldest"
    [image] = set(re.findall(r"python:(\d+\.\d+)", " ".join(of("FROM"))))
    assert image in matrix["python"], "the image's"
    for version in matrix["postgres"]:
        binaries(int(version))  # raises if there are none


def test_the_conformance_tests_are_given_all_that_they_can_use() -> None:
    given = set(re.findall(r"--override-name \S+=(SUPABASE_\w+)", TEXT))
    told = (ROOT / "tests" / "conformance" / "conftest.py").read_text().split('"""')[1]
    assert given == set(re.findall(r"`(SUPABASE_\w+)`", told))
