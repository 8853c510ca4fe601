"""The workflows of CI and release: few permissions, timeouts, every supported version, and no accidental release."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from devstack.postgres import binaries
from tests.support import ROOT
from tests.unit.deploy.test_image import PROJECT, of

FOLDER = ROOT / ".github" / "workflows"
TEXTS = {path.stem: path.read_text() for path in sorted(FOLDER.iterdir())}
WORKFLOWS: dict[str, dict[str, Any]] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
RELEASE = WORKFLOWS["release"]["jobs"]
# what each job of a release may write
WRITES = {"python": {"id-token"}, "npm": {"id-token"}, "image": {"packages"}, "notes": {"contents"}}

each_workflow = pytest.mark.parametrize("name", WORKFLOWS)


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[name]["jobs"].values() for step in job["steps"]]


@each_workflow
def test_workflow_reads_only_and_uses_no_stored_secret(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    assert "secrets." not in TEXTS[name]
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False


def test_only_publishing_jobs_may_write() -> None:
    assert not any("permissions" in job for job in WORKFLOWS["ci"]["jobs"].values())
    granted = {
        name: {scope for scope, access in job.get("permissions", {}).items() if access == "write"}
        for name, job in RELEASE.items()
    }
    assert granted == {"build": set(), **WRITES}


@each_workflow
def test_jobs_have_timeouts_and_actions_have_versions(name: str) -> None:
    assert WORKFLOWS[name]["concurrency"]["group"]
    for job in WORKFLOWS[name]["jobs"].values():
        assert job["timeout-minutes"] <= 90
    for action in [step["uses"] for step in steps(name) if "uses" in step]:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


@each_workflow
def test_commands_exist(name: str) -> None:
    commands = [step["run"] for step in steps(name) if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {word for line in commands for word in re.findall(r"\bmake ([a-z-]+)", line)}
    assert made
    assert made <= targets
    for line in commands:
        for path in re.findall(r"pytest (\S+)", line):
            assert (ROOT / path).is_dir()
        for workspace in re.findall(r"--workspace (\S+)", line):
            assert (ROOT / workspace / "package.json").is_file()
        for lock in re.findall(r"-r (\S+)", line):
            assert (ROOT / lock).is_file()


def test_matrix_covers_supported_versions() -> None:
    matrix = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert all(version in supported for version in matrix["python"])
    assert str(supported).removeprefix(">=") in matrix["python"], "the oldest"
    [image] = set(re.findall(r"python:(\d+\.\d+)", " ".join(of("FROM"))))
    assert image in matrix["python"], "the image's"
    for version in matrix["postgres"]:
        binaries(int(version))  # raises if there are none


def test_conformance_job_sets_every_variable() -> None:
    given = set(re.findall(r"--override-name \S+=(SUPABASE_\w+)", TEXTS["ci"]))
    documented = (ROOT / "tests" / "conformance" / "conftest.py").read_text().split('"""')[1]
    assert given == set(re.findall(r"`(SUPABASE_\w+)`", documented))


def test_release_publishes_only_approved_version_tags() -> None:
    # YAML reads the key `on` as true
    triggers: list[Any] = [value for key, value in WORKFLOWS["release"].items() if not isinstance(key, str)]
    assert triggers == [{"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}]
    for name in WRITES:
        if name == "notes":  # skipped when one of the packages is
            assert set(RELEASE[name]["needs"]) == {"python", "npm"}
            continue
        assert RELEASE[name]["needs"] == "build"
        assert "vars.PUBLISH == 'true'" in RELEASE[name]["if"].split(" && ")
        assert RELEASE[name]["environment"] == "release"


@pytest.mark.parametrize(
    ("tag", "pyproject", "client", "changelog", "accepted"),
    [
        ("v1.2.3", "1.2.3", "1.2.3", "1.2.3", True),
        ("v1.2.4", "1.2.3", "1.2.3", "1.2.3", False),
        ("v1.2.3", "1.2.3", "1.2.2", "1.2.3", False),
        ("v1.2.3", "1.2.3", "1.2.3", "1.2.2", False),
        ("v1.2.3", "1.203", "1.2.3", "1.2.3", False),
    ],
)
def test_release_compares_tag_with_versions(
    tmp_path: Path, tag: str, pyproject: str, client: str, changelog: str, accepted: bool
) -> None:
    version = PROJECT["project"]["version"]
    (tmp_path / "client").mkdir()
    for path, own in (("pyproject.toml", pyproject), ("client/package.json", client)):
        (tmp_path / path).write_text((ROOT / path).read_text().replace(f'"{version}"', f'"{own}"'))
    (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{changelog}] - 2026-12-01\n")
    [script] = [step["run"] for step in RELEASE["build"]["steps"] if "GITHUB_REF_NAME" in step.get("run", "")]
    shell = shutil.which("bash")
    assert shell
    command = [shell, "--noprofile", "--norc", "-eo", "pipefail", "-c", script]  # as GitHub runs it
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, "GITHUB_REF_NAME": tag}, check=False)
    assert (ran.returncode == 0) is accepted
