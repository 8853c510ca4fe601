"""Keys belong to one data folder and stay out of the repository."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from devstack import keys
from devstack.migrations import PROJECT


def test_each_folder_gets_own_keys(tmp_path: Path) -> None:
    made = [keys.load(tmp_path / name) for name in ("one", "two")]
    for field in dataclasses.fields(keys.Keys):
        one, two = (getattr(keys_, field.name) for keys_ in made)
        assert one != two, field.name
        assert len(one) >= 32
    assert keys.load(tmp_path / "one") == made[0], "the next start reuses them"


def test_repository_contains_no_keys() -> None:
    """Git ignores the data folder, and no committed file contains anything that looks like a key."""
    git = shutil.which("git")
    if git is None or not (PROJECT / ".git").exists():
        pytest.skip("not a git repository")
    for file in (".devstack/keys.json", ".devstack/running.json", ".env"):
        subprocess.run([git, "check-ignore", "--quiet", file], cwd=PROJECT, check=True)
    pattern = (
        r"sb_(secret|publishable)_[A-Za-z0-9_-]{32}|eyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{43}"
    )
    found = subprocess.run([git, "grep", "-lE", pattern], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert found.stdout == ""
