"""Runs a module in a process that was started before its environment was known: `python warm.py MODULE ARGUMENTS`.

Importing the libraries of a worker takes a second, so it is done in advance. The modules of the worker itself are
imported once the order has come: one line of JSON on stdin, with the environment and the first entries of `sys.path`.
Nothing here may import what somebody may be editing.
"""

import contextlib
import importlib
import json
import os
import runpy
import sys

LIBRARIES = ("aiohttp.web", "baml_py", "dotenv", "httpx", "prometheus_client", "pydantic", "realtime", "supabase")


def main() -> None:
    """Wait for the order, and carry it out. Returns if there is none."""
    for name in LIBRARIES:
        with contextlib.suppress(Exception):  # the worker will meet it too, and say what is wrong
            importlib.import_module(name)
    if not (line := sys.stdin.readline()):
        return
    order = json.loads(line)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:0] = order["path"]
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
