"""What a user builds by the documentation, with its tests, and the folder in which these are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.docs.conftest import CLI, write_project
from tests.support import ROOT
from tests.support.blocks import BLOCKS, OWN_TESTS, in_page

CHECKED = [block for block in BLOCKS if block.text.startswith(OWN_TESTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of somebody who has followed the README and docs/functions.md."""
    folder = tmp_path_factory.mktemp("own")
    write_project(folder, in_page("README.md", "baml"))
    (folder / "handlers.py").write_text("\n".join(block.text for block in in_page("README.md", "python")))
    shutil.copytree(ROOT / "app_tests", folder / "app_tests", ignore=shutil.ignore_patterns("__pycache__"))
    for block in CHECKED:
        name, _, _ = block.text.removeprefix("# ").partition("\n")
        (folder / name).write_text(block.text)
    subprocess.run([CLI, "generate"], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def run_pytest(folder: Path, *arguments: str) -> str:
    """What pytest prints in this folder, with the project's settings."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    options = (
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(folder),
        "-o",
        "pythonpath=",
        "-p",
        "no:cacheprovider",
        "-q",
    )
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    return ran.stdout + ran.stderr


def test_tests_of_the_guide_pass(folder: Path) -> None:
    assert "3 passed" in run_pytest(folder, "app_tests/test_translate.py")


def test_examples_pass(folder: Path) -> None:
    assert "4 passed" in run_pytest(folder, "app_tests/test_example.py")


def test_tests_of_the_guide_can_fail(folder: Path) -> None:
    (file,) = (path for path in (folder / "baml_src").glob("README*.baml"))
    source = file.read_text()
    try:
        file.write_text(source.replace("{{ language }}", "Klingon"))
        subprocess.run([CLI, "generate"], cwd=folder, check=True, capture_output=True, timeout=60)
        said = run_pytest(folder, "app_tests/test_translate.py")
    finally:
        file.write_text(source)
    assert "1 failed" in said
    assert "into German" in said
