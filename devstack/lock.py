"""`python -m devstack.lock`: regenerate package-lock.json from the package.json files, complete for every platform.

npm omits optional packages of other platforms from the lock file if `node_modules` exists, or if the registry does
not serve them; `npm ci` then rejects the lock on those platforms. This adds the missing entries: the version comes
from the package that depends on them, the platform from their name.
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
    """Write the lock file. Raises `subprocess.CalledProcessError` if npm fails."""
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
    """Return entries for optional dependencies that the lock file lacks."""
    found: dict[str, Any] = {}
    for package in packages.values():
        for name, version in package.get("optionalDependencies", {}).items():
            if version[0].isdigit() and f"node_modules/{name}" not in packages:
                found[f"node_modules/{name}"] = {"version": version, "optional": True, "dev": True, **_platform(name)}
    return found


def _platform(name: str) -> dict[str, list[str]]:
    """Derive `os`, `cpu` and `libc` from a name's suffix: `…-linux-x64-musl`, `…-darwin-arm64`, `…-windows-x64`."""
    words = name.rsplit("/", 1)[-1].split("-")
    at = next(i for i, word in enumerate(words) if word in ("linux", "darwin", "windows", "win32"))
    system, cpu, *libc = words[at:]
    limits = {"cpu": [cpu], "os": ["win32" if system == "windows" else system]}
    return limits | {"libc": libc or ["glibc"]} if system == "linux" else limits


if __name__ == "__main__":
    main()
