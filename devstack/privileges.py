"""Postgres refuses to run as root: chooses the user to run it as, and lets that user reach its folders."""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from devstack import DevstackError

# linux/prctl.h and linux/capability.h
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_SECURE_BITS = 1 << 2 | 1 << 4  # NO_SETUID_FIXUP, KEEP_CAPS
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a child process switches to. `capability` is the Linux capability it keeps, if any."""

    uid: int
    gid: int
    capability: int | None

    def assume(self) -> Callable[[], None]:
        """Return a function that a child calls before exec to switch to this user."""
        libc = ctypes.CDLL(None, use_errno=True)

        def run() -> None:
            os.setgroups([])
            os.setgid(self.gid)
            if self.capability is None:
                os.setuid(self.uid)
                return
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
            # Without this, access(2), which initdb calls on its own binaries, ignores capabilities.
            libc.prctl(_PR_SET_SECUREBITS, _SECURE_BITS, 0, 0, 0)
            os.setuid(self.uid)
            header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
            # Effective too: exec itself must traverse the folders above the binary.
            data[0].effective = data[0].permitted = data[0].inheritable = 1 << self.capability
            if libc.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
                raise OSError(ctypes.get_errno(), "capset")
            if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, self.capability, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl")

        return run


def account(paths: Iterable[Path]) -> Account | None:
    """Return the account to run Postgres as, or None to run it as the current user.

    Only root needs another account: `nobody`. If `nobody` cannot enter one of `paths` (a checkout
    below /root, a test's temporary folder), the account keeps the capability to enter any folder.
    Raises `DevstackError` if that capability is not available.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise DevstackError("Postgres cannot run as root and there is no user `nobody`: use an ordinary user") from None
    closed = next((folder for path in paths if (folder := _closed(path, entry))), None)
    if closed is None:
        return Account(entry.pw_uid, entry.pw_gid, None)
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if _held(capability):
            return Account(entry.pw_uid, entry.pw_gid, capability)
    raise DevstackError(
        f"Postgres cannot run as root, and the user `nobody` cannot enter {closed}: "
        "use an ordinary user, or move the project to a folder that every user can enter"
    )


def _closed(path: Path, entry: pwd.struct_passwd) -> Path | None:
    """Return the outermost folder in `path` that the user cannot enter, if there is one."""
    path = path.resolve()
    for folder in reversed((path, *path.parents)):
        if not folder.is_dir():
            continue
        status = folder.stat()
        if status.st_uid == entry.pw_uid:
            needed = stat.S_IXUSR
        elif status.st_gid == entry.pw_gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return folder
    return None


def _held(capability: int) -> bool:
    """Return whether this process holds a capability that it can pass on (Linux only)."""
    if sys.platform != "linux":
        return False
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapPrm":
            return bool(int(value, 16) >> capability & 1)
    return False
