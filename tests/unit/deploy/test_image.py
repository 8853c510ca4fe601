"""The Dockerfile: its build context, its stages and what it installs."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support import ROOT
from tests.support.source import DEFAULTS, is_command

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMED_BY = "supabase-baml-bridge (pyproject.toml)"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as pairs of instruction and arguments, without comments and line breaks."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(n for n, (word, _) in enumerate(found) if word == "FROM") :]


def sent() -> set[str]:
    """The paths that `.dockerignore` lets into the build context."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert [line for line in lines[1:] if not line.startswith("!")] == ["**/__pycache__"]
    return {line[1:] for line in lines if line.startswith("!")}


def copied() -> set[str]:
    """The paths that the Dockerfile copies from the build context."""
    copies = [line for line in of("COPY") if not line.startswith("--from=")]
    assert not of("ADD")
    return {source for line in copies for source in line.split()[:-1]}


def pins(lock: str) -> dict[str, str]:
    """Every package of a lock file, with its version."""
    text = (ROOT / lock).read_text()
    blocks = re.findall(r"^(\S+)==(\S+?)(?: ;[^\\\n]*)? \\\n((?:    .*\n)+)", text, re.MULTILINE)
    assert len(blocks) == len(re.findall(r"^\S", text, re.MULTILINE)), f"{lock}: a line cannot be parsed"
    assert all("--hash=sha256:" in rest for _, _, rest in blocks)
    return {canonicalize_name(name): version for name, version, _ in blocks}


def asked_for(lock: str) -> set[str]:
    """The packages of a lock file that pyproject.toml names itself."""
    text = (ROOT / lock).read_text()
    blocks = re.findall(r"^(\S+)==.*\n((?:    .*\n)+)", text, re.MULTILINE)
    return {canonicalize_name(name) for name, rest in blocks if NAMED_BY in rest}


def test_image_copies_the_whole_build_context() -> None:
    assert sent() == copied()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in sent():
        assert re.search(rf"^{re.escape(name)}(/|$)", tracked, re.MULTILINE), f"{name} is not in the repository"


def test_stages_share_a_supported_python() -> None:
    bases = {line.split()[0] for line in of("FROM")}
    assert len(bases) == 1
    image = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", bases.pop())
    assert image
    assert image[1] in SpecifierSet(PROJECT["project"]["requires-python"])


def test_worker_is_process_1_and_not_root() -> None:
    stage = dict(last_stage())
    assert json.loads(stage["ENTRYPOINT"]) == ["bridge"]  # exec form: a shell would not forward SIGTERM
    assert set(json.loads(stage["ENTRYPOINT"])) <= set(PROJECT["project"]["scripts"])
    assert is_command(" ".join(json.loads(stage["CMD"])))
    user = re.fullmatch(r"(\d+):(\d+)", stage["USER"])  # numeric: Kubernetes' runAsNonRoot rejects names
    assert user
    assert int(user[1]) >= 10000
    assert f"--uid {user[1]}" in stage["RUN"]
    words = [word for word, _ in last_stage()]
    assert words.index("USER") > max(n for n, word in enumerate(words) if word in ("COPY", "RUN"))
    assert stage["EXPOSE"] == str(DEFAULTS.health_port)


def test_installs_are_locked_and_compile_nothing() -> None:
    installs = [part for line in of("RUN") for part in line.split("&&") if "install" in part or "pip wheel" in part]
    assert installs
    for part in installs:
        assert "--no-cache-dir" in part
        assert "--require-hashes" in part or "--no-deps" in part, part
    assert any("--only-binary :all:" in part and "requirements.lock" in part for part in installs)
    for line in of("RUN"):
        assert not re.search(r"\b(apt|apt-get|curl|wget|gcc|npm)\b", line), line


def test_image_contains_no_secret() -> None:
    assert not of("ARG")
    assert not re.search(r"KEY|SECRET|TOKEN|URL", " ".join(of("ENV")))


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        (
            "requirements-dev.lock",
            [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]],
        ),
    ],
)
def test_locks_match_pyproject(lock: str, wanted: list[str]) -> None:
    found = pins(lock)
    requirements = [Requirement(line) for line in wanted]
    assert {canonicalize_name(requirement.name) for requirement in requirements} == asked_for(lock)
    for requirement in requirements:
        assert found[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_image_tests_and_build_share_versions() -> None:
    run, tested, built = (pins(f"requirements{kind}.lock") for kind in ("", "-dev", "-build"))
    assert run.items() <= tested.items()
    assert built.items() <= tested.items()
    assert {Requirement(line).name for line in PROJECT["build-system"]["requires"]} == set(built)
