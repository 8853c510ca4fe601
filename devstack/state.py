"""What a data folder tells about its devstack: whether one runs on it, and how to reach that one."""

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
    """Hold the data folder for ourselves. Raises `DevstackError` if another devstack has it.

    The lock ends with the process that took it, however that ends.
    """
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevstackError(
                f"another devstack runs on {data_dir}: stop it, or choose another folder with --data"
            ) from None
        _file(data_dir).unlink(missing_ok=True)  # from a run that was killed
        yield
    finally:
        os.close(descriptor)


@contextmanager
def published(data_dir: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Let `running` find this environment for as long as the context lasts."""
    draft = _file(data_dir).with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(dict(environment), out)
    draft.replace(_file(data_dir))
    try:
        yield
    finally:
        _file(data_dir).unlink(missing_ok=True)


def running(data_dir: Path) -> dict[str, str]:
    """Return the environment of the devstack that runs on the folder. Raises `DevstackError` if none does."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR)
    except FileNotFoundError:
        raise DevstackError(_none(data_dir)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        raise DevstackError(_none(data_dir))
    finally:
        os.close(descriptor)
    try:
        found = json.loads(_file(data_dir).read_text())
    except (FileNotFoundError, ValueError):
        raise DevstackError(f"the devstack on {data_dir} is still starting: try again in a moment") from None
    return {str(name): str(value) for name, value in found.items()}


def _none(data_dir: Path) -> str:
    return f"no devstack runs on {data_dir}: start one with `python -m devstack`, or name its folder with --data"


def _file(data_dir: Path) -> Path:
    return data_dir / "state.json"
