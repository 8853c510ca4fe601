"""The CI workflow: few permissions, timeouts, and every supported version."""

from __future__ import annotations

import re
from typing import Any

import pytest
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


# -- the release, and the other files of .github ---------------------------------------------------------

RELEASE: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())


def test_release_runs_for_version_tags_only() -> None:
    assert RELEASE[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}  # YAML 1.1 reads the key `on` as true


def test_release_publishes_with_short_lived_identities() -> None:
    assert RELEASE["permissions"] == {"contents": "read"}
    publishing = {name: job for name, job in RELEASE["jobs"].items() if "permissions" in job}
    assert set(publishing) == {"python", "npm"}
    for name, job in publishing.items():
        assert job["permissions"] == {"id-token": "write"}, name
        assert (job["needs"], job["environment"]) == ("build", "release"), name
    assert "secrets." not in str(RELEASE)


def test_release_jobs_have_timeouts_and_actions_have_versions() -> None:
    for name, job in RELEASE["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        for action in (step["uses"] for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


@pytest.mark.parametrize("name", ["dependabot.yml", "ISSUE_TEMPLATE/bug.yml", "ISSUE_TEMPLATE/feature.yml"])
def test_configuration_of_the_repository_is_valid_yaml(name: str) -> None:
    assert isinstance(yaml.safe_load((ROOT / ".github" / name).read_text()), dict)


def test_commit_hooks_run_the_tools_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = " ".join(hook["entry"] for hook in hooks)
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile[makefile.index("\ncheck:") : makefile.index("\nchaos:")]
    for tool in re.findall(r"\$\(BIN\)/(ruff check|ruff format|mypy|lint-imports)", recipe):
        assert f".venv/bin/{tool}" in entries, tool
