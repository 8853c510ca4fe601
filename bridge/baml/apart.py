"""Parses a structured answer in a process of its own, with limits on its time and memory.

What can be parsed in a few milliseconds is parsed in the worker (`bridge.baml.parsing`). For the rest, baml-py's parser
may take minutes, gigabytes or more stack than there is, and nothing in the worker could stop it (baml-py 0.226.3).
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic_core import from_json

from bridge.baml.escapes import decode_escapes, read_json, restore, to_values
from bridge.baml.failures import bad_output, name_error

CPU_SECONDS = 5  # to start takes about 0.5
SECONDS = 30.0  # how long it may take in all, on a machine that has little time for it
MEMORY_BYTES = 80 << 20  # beyond what it has when it is loaded; a million emoji take 58 MB

_FOUND, _REFUSED = "value", "error"


async def parse_apart(module: ModuleType, function: str, text: str) -> Any:
    """Parse the text of a whole answer of `function` of the generated client, as JSON values. Raises BadOutput.

    The process gets none of the worker's environment, and ends with this call.
    """
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge.baml.apart", module.__name__, str(module.__file__), function),
        # one arena: the addresses that glibc reserves for each thread would count for the limit
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the worker's business
    )
    try:
        with contextlib.suppress(OSError):  # the worker's other replies come first
            os.setpriority(os.PRIO_PROCESS, process.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))
        async with asyncio.timeout(SECONDS):
            written, _ = await process.communicate(text.encode("utf-8", "replace"))
    except TimeoutError:
        raise bad_output(f"its structure could not be parsed within {SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise bad_output(f"the process that parsed its structure ended with {process.returncode}")
    match from_json(written):
        case {"value": value}:
            return value
        case other:
            failure = bad_output("its structure does not fit the function's type")
            failure.said = str(other.get(_REFUSED))  # it repeats the answer
            raise failure


def main(name: str, file: str, function: str) -> None:
    """Parse what comes from stdin, and write the result to stdout."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parse = getattr(module.b.parse, function)
    text = sys.stdin.buffer.read().decode()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    with contextlib.suppress(ValueError, OSError):  # only Linux tells, and limits, addresses
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        is_strict = read_json(text) is not None
        value = to_values(parse(text)) if is_strict else restore(parse(decode_escapes(text)))
        result = {_FOUND: value}
    except Exception as error:
        result = {_REFUSED: name_error(error)[:2000]}
    sys.stdout.buffer.write(json.dumps(result, ensure_ascii=False).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
