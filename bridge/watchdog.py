"""Ends the process when its event loop has stopped: not every host restarts a machine because a health check fails.

A process of its own watches. A thread would stand still as well while C code holds the GIL, and so would each handler
of a signal that is written in Python. This file is also the program of that process.
"""

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import subprocess
import sys
import time

END_SECONDS = 5.0  # from the signal that ends the process to SIGKILL


class Watchdog:
    """When it is not fed for `patience` seconds, every traceback is printed, and the process exits with code 1.

    Time in which the process was frozen does not count (SIGSTOP, a paused container).
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._fed_at = time.monotonic()
        self._watching: subprocess.Popen[bytes] | None = None

    @property
    def age(self) -> float:
        """Seconds since it was last fed."""
        return time.monotonic() - self._fed_at

    def feed(self) -> None:
        """Report that the loop turns."""
        self._fed_at = time.monotonic()
        if self._watching is None or self._watching.stdin is None:
            return
        try:
            os.write(self._watching.stdin.fileno(), b".")
        except BlockingIOError:
            pass  # it is frozen, and will find enough when it goes on
        except BrokenPipeError:  # something killed it
            self.stop()
            self.start()

    def start(self) -> None:
        """Start watching."""
        number = _exit_on_signal()
        self._watching = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(self.patience), str(int(number))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
        assert self._watching.stdin is not None
        os.set_blocking(self._watching.stdin.fileno(), False)

    def stop(self) -> None:
        """Stop watching, also before `start`."""
        if self._watching is not None:
            assert self._watching.stdin is not None
            self._watching.stdin.close()
            self._watching.kill()  # it may be frozen
            self._watching.wait(END_SECONDS)
            self._watching = None


def _exit_on_signal() -> signal.Signals:
    """Make SIGHUP print every traceback and exit with code 1, whatever holds the GIL; return the signal that ends.

    `faulthandler` passes the signal on to the handler before its own. That is `_exit`, and SIGHUP's number is the code.
    SIGKILL would not do: process 1 of a container is immune to it.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
        return signal.SIGKILL
    faulthandler.unregister(signal.SIGHUP)  # of an earlier start
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal(signal.SIGHUP, ctypes.cast(libc._exit, ctypes.c_void_p))
    faulthandler.register(signal.SIGHUP, file=sys.__stderr__ or 2, all_threads=True, chain=True)
    return signal.SIGHUP


def watch(process: int, patience: float, number: int) -> None:
    """Read what `process` writes to stdin, until it ends. End it when nothing came for `patience` seconds."""
    pause = patience / 10
    since = checked_at = time.monotonic()
    while True:
        is_fed, *_ = select.select([0], [], [], pause)
        now = time.monotonic()
        if is_fed:
            if not os.read(0, 65_536):
                return
            since = now
        elif now - checked_at > 2 * pause + 1 or _is_stopped(process):
            since = now  # the process, or this one as well, was frozen
        elif now - since > patience:
            break
        checked_at = now
    sys.stderr.write(f"no progress for {patience:.0f} s: exiting\n")
    sys.stderr.flush()
    for last in (number, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, last)
        until = time.monotonic() + END_SECONDS
        while (left := until - time.monotonic()) > 0 and select.select([0], [], [], left)[0]:
            if not os.read(0, 65_536):
                return


def _is_stopped(process: int) -> bool:
    """Whether the process is stopped, as by SIGSTOP or a debugger."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except OSError:  # not Linux
        shown = subprocess.run(["ps", "-o", "state=", "-p", str(process)], capture_output=True, check=False)
        state = shown.stdout.strip()
    return state[:1] in (b"T", b"t")


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
