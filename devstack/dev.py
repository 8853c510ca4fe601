"""`make dev` (`python -m devstack.dev`): run the whole project in one terminal until Ctrl-C.

Starts the embedded Supabase, the demo model, the worker and the web app. If `SUPABASE_URL` is set
(in the environment or `.env`), that project replaces the embedded Supabase; if `LLM_BASE_URL` is
set, that model replaces the demo model. `--model local` (`make dev MODEL=local`) runs a very small
language model on this machine instead of either.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from dotenv import dotenv_values

from devstack import DevstackError, PortInUse, local_model
from devstack.__main__ import plan_limits, port_number, postgres_version
from devstack.migrations import PROJECT
from devstack.node import node
from devstack.part import Console, Part
from devstack.process import free_port
from devstack.stack import Stack

WEB_PORT = 5173
# All functions in baml_src, so that they can be tried without any configuration.
FUNCTIONS = "Chat,Code,Compare,Title"
_READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model that this command runs itself."""

    module: str  # of `python -m`
    name: str  # LLM_MODEL
    ready: str  # the path that responds with 200 once the model is ready
    lines: tuple[str, ...]  # what the terminal says about it
    worker: Mapping[str, str] = field(default_factory=dict)  # defaults for the worker's settings


OWN_MODELS = {
    "demo": OwnModel("devstack.model", "demo", "/v1/models", ("demo model (canned replies)",)),
    "local": OwnModel(
        "devstack.local_model",
        local_model.NAME,
        "/health",
        (
            f"{local_model.NAME} on this machine",
            "It is very small, and its answers are often wrong or silly:",
            "use it to see real streaming, not to judge quality.",
            "Code and Compare mostly fail with it.",
        ),
        # it writes few replies at a time, reads long conversations slowly, and another attempt rarely helps
        {
            "BRIDGE_CONCURRENCY": str(local_model.SLOTS),
            "BRIDGE_FIRST_TOKEN_SECONDS": "110",
            "BRIDGE_MAX_FAILURES": "2",
        },
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 stopped, 1 failed, 2 bad setting or port in use."""
    parser = argparse.ArgumentParser(
        prog="python -m devstack.dev",
        description="Run the embedded Supabase, the demo model, the worker and the web app until Ctrl-C. "
        "To use another Supabase project, set SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY and SUPABASE_SECRET_KEY in the "
        "environment or .env; to use another model, set LLM_BASE_URL, LLM_API_KEY and LLM_MODEL.",
    )
    parser.add_argument(
        "--model",
        choices=OWN_MODELS,
        help="demo (canned replies) or local (a very small language model on this machine), even if LLM_* are set "
        "(default: the model in LLM_*, otherwise demo)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=PROJECT / ".devstack",
        metavar="DIR",
        help="data folder of the embedded Supabase (default: .devstack)",
    )
    parser.add_argument(
        "--port",
        type=port_number,
        default=54321,
        metavar="N",
        help="port of the embedded Supabase (default: 54321; 0 picks a free one)",
    )
    parser.add_argument(
        "--web-port",
        type=port_number,
        default=WEB_PORT,
        metavar="N",
        help=f"port of the web app (default: {WEB_PORT}; the next free one if it is in use)",
    )
    parser.add_argument(
        "--env-file",
        type=Path,
        default=PROJECT / ".env",
        metavar="FILE",
        help="file with more variables; the environment takes precedence (default: .env)",
    )
    options = parser.parse_args(arguments)
    try:
        env = settings(options.env_file)
        if options.model == "local":
            local_model.model_file()  # before anything is started
        return asyncio.run(_run(env, options.model, options.data, options.port, options.web_port))
    except (SettingError, PortInUse) as error:
        print(f"dev: {error}", file=sys.stderr)
        return 2
    except DevstackError as error:
        print(f"dev: {error}", file=sys.stderr)
        return 1


class SettingError(DevstackError):
    """A variable is missing. The message names it and says how to fix it."""


def settings(file: Path) -> dict[str, str]:
    """Return the variables of a file, overridden by the environment; empty ones count as unset."""
    filed = {name: value for name, value in dotenv_values(file).items() if value}
    return filed | {name: value for name, value in os.environ.items() if value}


def hosted(env: Mapping[str, str]) -> dict[str, str] | None:
    """Return the URL and keys of the configured Supabase project, or None if there is none.

    Raises `SettingError` if a key is missing.
    """
    if "SUPABASE_URL" not in env:
        return None
    found = {"SUPABASE_URL": env["SUPABASE_URL"]}
    for name, legacy in (
        ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"),
        ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
    ):
        key = env.get(name) or env.get(legacy)
        if key is None:
            raise SettingError(
                f"SUPABASE_URL is set but {name} is not: set it to the key of that project, "
                "or unset SUPABASE_URL to use the embedded Supabase"
            )
        found[name] = key
    return found


def model(env: Mapping[str, str]) -> dict[str, str] | None:
    """Return the variables of the configured model, or None if none are set.

    Raises `SettingError` if only some are set.
    """
    names = ("LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL")
    if not any(name in env for name in names):
        return None
    for name in names:
        if name not in env:
            raise SettingError(f"{name} is not set: set all of {', '.join(names)}, or none to use the demo model")
    return {name: env[name] for name in names}


async def _run(env: Mapping[str, str], kind: str | None, data: Path, port: int, web_port: int) -> int:
    project, llm = hosted(env), None if kind else model(env)
    console = Console()
    parts: list[Part] = []
    stopping = asyncio.Event()
    _on_signals(stopping, parts)

    async with contextlib.AsyncExitStack() as opened:
        work = asyncio.create_task(_start_all(opened, parts, console, env, project, kind, llm, data, port, web_port))
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                console.say("stopping …")
                return 0
            raise DevstackError(work.result())
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.wait((work, stop))


async def _start_all(
    opened: contextlib.AsyncExitStack,
    parts: list[Part],
    console: Console,
    env: Mapping[str, str],
    project: Mapping[str, str] | None,
    kind: str | None,
    llm: Mapping[str, str] | None,
    data: Path,
    port: int,
    web_port: int,
) -> str:
    """Start everything in order, then wait for the first part to fail; return the reason."""
    stack: Stack | None = None
    where = "from SUPABASE_URL"
    if project is None:
        where = f"embedded, data in {_short(data)}"
        console.say(f"starting the embedded Supabase, data in {_short(data)}")
        stack = Stack(
            data,
            port,
            postgres_version=postgres_version(),
            limits=plan_limits(),
            progress=lambda line: console.line("supabase", line),
        )
        await opened.enter_async_context(stack)
        project = stack.environment

    async def run(part: Part) -> Part:
        parts.append(part)
        opened.push_async_callback(part.stop)
        await part.start()
        return part

    python = [sys.executable, "-u", "-m"]
    base = {**env, **project}
    if llm is not None:
        about: tuple[str, ...] = (f"{llm['LLM_MODEL']} at {llm['LLM_BASE_URL']}",)
    else:
        own = OWN_MODELS[kind or "demo"]
        about = own.lines
        base = {**own.worker, **base}
        model_port = free_port()
        llm = {"LLM_BASE_URL": f"http://127.0.0.1:{model_port}/v1", "LLM_API_KEY": "none", "LLM_MODEL": own.name}
        part = await run(Part("model", [*python, own.module, "--port", str(model_port)], env, console))
        await _until_ready(part, f"http://127.0.0.1:{model_port}{own.ready}")

    health = free_port()
    worker_env = {
        "BRIDGE_LOG_FORMAT": "console",
        "BRIDGE_FUNCTIONS": FUNCTIONS,
        "BRIDGE_DRAIN_SECONDS": "2",  # an unfinished reply is retried at the next start
        **base,
        **llm,
        "BRIDGE_HEALTH_HOST": "127.0.0.1",
        "BRIDGE_HEALTH_PORT": str(health),
    }
    worker = await run(Part("worker", [*python, "bridge.cli", "run"], worker_env, console))

    free = _next_free(web_port)
    if free != web_port:
        console.say(f"port {web_port} is in use, so the web app uses {free}")
    web_env = {
        **env,
        "VITE_SUPABASE_URL": project["SUPABASE_URL"],
        "VITE_SUPABASE_PUBLISHABLE_KEY": project["SUPABASE_PUBLISHABLE_KEY"],
        "VITE_FUNCTIONS": worker_env["BRIDGE_FUNCTIONS"],
    }
    vite = PROJECT / "node_modules" / "vite" / "bin" / "vite.js"
    if not vite.is_file():
        raise DevstackError("the Node packages are not installed: run `make setup`")
    options = ["--host", "127.0.0.1", "--port", str(free), "--strictPort", "--clearScreen", "false"]
    command = [await asyncio.to_thread(node), str(vite), *options]
    web = await run(Part("web", command, web_env, console, folder=PROJECT / "web"))
    await _until_ready(worker, f"http://127.0.0.1:{health}/readyz")
    await _until_ready(web, f"http://127.0.0.1:{free}/")

    console.block(
        ("Chat", f"http://127.0.0.1:{free}"),
        ("Supabase", f"{project['SUPABASE_URL']}  ({where})"),
        ("Model", about[0]),
        *(("", line) for line in about[1:]),
        ("", "Press Ctrl-C to stop."),
    )
    failed = [asyncio.create_task(part.ended()) for part in parts]
    if stack is not None:
        failed.append(asyncio.create_task(stack.failed()))
    try:
        done, _ = await asyncio.wait(failed, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    finally:
        for task in failed:
            task.cancel()
        await asyncio.wait(failed)


async def _until_ready(part: Part, url: str) -> None:
    """Wait until a program responds with 200 at a URL. Raises `DevstackError` if it exits or takes too long."""
    ended = asyncio.create_task(part.ended())
    try:
        async with asyncio.timeout(_READY_SECONDS), aiohttp.ClientSession() as session:
            while not ended.done():
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                await asyncio.wait((ended,), timeout=0.1)
        raise DevstackError(ended.result())
    except TimeoutError:
        raise DevstackError(f"{part.name} is not ready after {_READY_SECONDS:.0f} s: {part.last()}") from None
    finally:
        ended.cancel()
        await asyncio.wait((ended,))


def _on_signals(stopping: asyncio.Event, parts: Sequence[Part]) -> None:
    """Stop everything in order on the first Ctrl-C (SIGTERM, SIGHUP), and kill everything on the second."""

    def received() -> None:
        if not stopping.is_set():
            stopping.set()
            return
        for part in parts:
            part.kill()
        os._exit(130)  # Postgres, REST and Auth end with this process

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, received)


def _next_free(port: int) -> int:
    for candidate in range(port, min(port + 50, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                return candidate
    raise PortInUse(f"ports {port} to {min(port + 49, 65535)} are all in use: choose another with --web-port")


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
