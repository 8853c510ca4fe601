"""The state of a data folder: whether a devstack is running on it, and how to reach it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from devstack import DevstackError


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Lock the data folder. Raises `DevstackError` if another devstack is using it.

    The operating system releases the lock when the process ends, however that happens.
    """
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevstackError(
                f"another devstack is using {data_dir}: stop it, or choose another folder with --data "
                "(make dev ARGS='--data DIR')"
            ) from None
        _file(data_dir).unlink(missing_ok=True)  # left by a killed run
        yield
    finally:
        os.close(descriptor)


@contextmanager
def published(data_dir: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Publish the environment for `running` while the context is open."""
    _write(data_dir, environment)
    try:
        yield
    finally:
        _file(data_dir).unlink(missing_ok=True)


def add(data_dir: Path, more: Mapping[str, str]) -> None:
    """Add variables to those that are published."""
    _write(data_dir, {**running(data_dir), **more})


def running(data_dir: Path) -> dict[str, str]:
    """Return the environment of the devstack running on the folder. Raises `DevstackError` if there is none."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR)
    except FileNotFoundError:
        raise DevstackError(_not_running(data_dir)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        raise DevstackError(_not_running(data_dir))
    finally:
        os.close(descriptor)
    try:
        found = json.loads(_file(data_dir).read_text())
    except (FileNotFoundError, ValueError):
        raise DevstackError(f"the devstack on {data_dir} is still starting: try again in a moment") from None
    return {str(name): str(value) for name, value in found.items()}


def _write(data_dir: Path, environment: Mapping[str, str]) -> None:
    draft = _file(data_dir).with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(dict(environment), out)
    draft.replace(_file(data_dir))


def _not_running(data_dir: Path) -> str:
    return f"no devstack is running on {data_dir}: start one with `python -m devstack`, or pass its folder with --data"


def _file(data_dir: Path) -> Path:
    return data_dir / "state.json"
