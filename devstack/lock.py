"""`python -m devstack.lock`: package-lock.json anew, from the package.json files alone and whole for every platform.

npm leaves packages of other platforms out of the lock where `node_modules` exists already, or where the registry at
hand does not serve them; `npm ci` then refuses the lock everywhere. What is left out is named here by the version
that the package which wants it asks for, and by the platform that its name tells.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from devstack.migrations import PROJECT

WORKSPACES = ("client", "web", "devstack")
LOCK = "package-lock.json"


def main() -> None:
    """Write the lock; raises `subprocess.CalledProcessError` with npm's words if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (".", *WORKSPACES):
            (Path(folder) / name).mkdir(exist_ok=True)
            shutil.copy(PROJECT / name / "package.json", Path(folder) / name)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "devstack.node",
                "npm",
                "install",
                "--package-lock-only",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            check=True,
            timeout=600,
        )
        lock = json.loads((Path(folder) / LOCK).read_text())
    lock["packages"] = dict(sorted((lock["packages"] | missing(lock["packages"])).items()))
    (PROJECT / LOCK).write_text(json.dumps(lock, indent=2, ensure_ascii=False) + "\n")


def missing(packages: dict[str, Any]) -> dict[str, Any]:
    """The optional packages that the lock's packages want and the lock has not."""
    found: dict[str, Any] = {}
    for package in packages.values():
        for name, version in package.get("optionalDependencies", {}).items():
            if version[0].isdigit() and f"node_modules/{name}" not in packages:
                found[f"node_modules/{name}"] = {"version": version, "optional": True, "dev": True, **_platform(name)}
    return found


def _platform(name: str) -> dict[str, list[str]]:
    """`os`, `cpu` and `libc` as a name ends: `…-linux-x64-musl`, `…-darwin-arm64`, `…-windows-x64`."""
    words = name.rsplit("/", 1)[-1].split("-")
    at = next(i for i, word in enumerate(words) if word in ("linux", "darwin", "windows", "win32"))
    system, cpu, *libc = words[at:]
    limits = {"cpu": [cpu], "os": ["win32" if system == "windows" else system]}
    return limits | {"libc": libc or ["glibc"]} if system == "linux" else limits


if __name__ == "__main__":
    main()
