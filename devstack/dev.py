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
from dataclasses import dataclass
from pathlib import Path

from devstack import DevstackError, PortInUse, catalogue, clients, local_model, state, unanswered
from devstack.__main__ import plan_limits, port_number, postgres_version
from devstack.env_dev import ENV_DEV, EnvDev
from devstack.generate import Problem
from devstack.migrations import PROJECT
from devstack.node import node
from devstack.own_model import OWN_MODELS, ModelProcess, until_ready
from devstack.part import Console, Part
from devstack.problems import Board
from devstack.reload import Reload, Version, cancelled
from devstack.settings import HOSTED_NAMES, SettingError, hosted, model, settings, shared
from devstack.source import Source, read
from devstack.stack import Stack

WEB_PORT = 5173


@dataclass(frozen=True, slots=True)
class Options:
    """The command line: `folder` has `baml_src`, handlers and `.env`; `model` is one of `OWN_MODELS` or None."""

    folder: Path
    env_file: Path
    data: Path
    port: int
    web_port: int
    model: str | None


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
        "--folder",
        type=Path,
        default=PROJECT,
        metavar="DIR",
        help="the folder with baml_src, the handlers and .env, which is watched (default: this project)",
    )
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="file with more variables; the environment takes precedence (default: .env in the folder)",
    )
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    env_file = given.env_file or folder / ".env"
    try:
        env = settings(env_file)
        if given.model == "local":
            local_model.model_file()  # before anything is started
        options = Options(folder, env_file.resolve(), given.data.resolve(), given.port, given.web_port, given.model)
        return asyncio.run(_run(options, env))
    except (SettingError, PortInUse) as error:
        print(f"dev: {error}", file=sys.stderr)
        return 2
    except (DevstackError, OSError) as error:
        print(f"dev: {error}", file=sys.stderr)
        return 1


async def _run(options: Options, env: Mapping[str, str]) -> int:
    console = Console()
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as opened:
        run = Run(options, console, opened, hosted(env), dict(env))
        _on_signals(stopping, run)
        work, stop = asyncio.create_task(run.start()), asyncio.create_task(stopping.wait())
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


class Run:
    """One run of everything. `opened` stops what was started, in reverse order."""

    def __init__(
        self,
        options: Options,
        console: Console,
        opened: contextlib.AsyncExitStack,
        project: Mapping[str, str] | None,
        env: dict[str, str],
    ) -> None:
        self._options, self._console, self._opened = options, console, opened
        self._hosted, self._project, self._env = project, dict(project or {}), env
        self._stack: Stack | None = None
        self._model = ModelProcess(OWN_MODELS[options.model or "demo"], env, console)
        self._reload = Reload(
            *(options.folder, options.env_file, options.data / "versions"),
            *(self._worker_environment, self._report, self._use),
        )
        self._web: Part | None = None
        self._board = Board(console, options.data / "dev.json")
        self._env_dev = EnvDev(options.folder / ENV_DEV)
        self._page = ""
        self._is_greeted = False

    async def start(self) -> str:
        """Start everything in order, then wait for the first part to fail; return the reason."""
        options, console = self._options, self._console
        source = await asyncio.to_thread(read, options.folder, options.env_file)
        self._chosen_model(self._env, source)  # a setting that is missing ends the command before anything is started
        options.data.mkdir(parents=True, exist_ok=True)
        if self._hosted is None:
            console.say(f"starting the embedded Supabase, data in {_short(options.data)}")
            self._stack = Stack(
                options.data,
                options.port,
                postgres_version=postgres_version(),
                limits=plan_limits(),
                progress=lambda line: console.line("supabase", line),
            )
            await self._opened.enter_async_context(self._stack)
            self._project = self._stack.environment
        self._opened.enter_context(self._env_dev)

        # what is stopped last comes first: replies in flight need the model
        await self._opened.enter_async_context(self._model)
        self._opened.push_async_callback(self._reload.stop)
        working = asyncio.create_task(self._reload.run())
        try:
            return await self._watch(working, source)
        finally:
            await cancelled(working)

    async def _watch(self, working: asyncio.Task[str], source: Source) -> str:
        self._board.show("build", ())
        web = await self._start_page()
        began = asyncio.create_task(self._reload.began.wait())
        try:
            await asyncio.wait((working, began), return_when=asyncio.FIRST_COMPLETED)
        finally:
            began.cancel()
        if working.done():
            return working.result()
        await until_ready(web, f"{self._page}/")
        self._greet(source)

        every = 1.0 if self._stack is not None else 15.0  # of the 30 s after which it is given up
        asking = unanswered.watch(self._project, every, lambda: self._reload.current, self._board)
        ends = [asyncio.create_task(end) for end in (web.ended(), self._model.ended(), asking)]
        if self._stack is not None:
            ends.append(asyncio.create_task(self._stack.failed()))
        try:
            done, _ = await asyncio.wait((*ends, working), return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)

    def kill(self) -> None:
        """Kill everything immediately; Postgres, REST and Auth end with this process."""
        if self._web is not None:
            self._web.kill()
        self._model.kill()
        self._reload.kill()
        self._env_dev.remove()

    async def _start_page(self) -> Part:
        free = _next_free(self._options.web_port)
        if free != self._options.web_port:
            self._console.say(f"port {self._options.web_port} is in use, so the web app uses {free}")
        env = {
            **self._env,
            "VITE_SUPABASE_URL": self._project["SUPABASE_URL"],
            "VITE_SUPABASE_PUBLISHABLE_KEY": self._project["SUPABASE_PUBLISHABLE_KEY"],
            "DEV_STATUS": str(self._board.file),
        }
        vite = PROJECT / "node_modules" / "vite" / "bin" / "vite.js"
        if not vite.is_file():
            raise DevstackError("the Node packages are not installed: run `make setup`")
        options = ["--host", "127.0.0.1", "--port", str(free), "--strictPort", "--clearScreen", "false"]
        command = [await asyncio.to_thread(node), str(vite), *options]
        self._page = f"http://127.0.0.1:{free}"
        self._web = Part("web", command, env, self._console, folder=PROJECT / "web")
        self._opened.push_async_callback(self._web.stop)
        await self._web.start()
        return self._web

    def _chosen_model(self, env: Mapping[str, str], source: Source) -> dict[str, str] | None:
        """Return the variables of the model in LLM_*, as far as `baml_src` reads them. Raises `SettingError`."""
        return None if self._options.model else model(env, clients.variables(source.baml) or clients.NAMES)

    async def _worker_environment(self, source: Source) -> dict[str, str]:
        """Return the variables of a worker for a source. Raises `DevstackError`."""
        env = settings(self._options.env_file)
        changed = [name for name in HOSTED_NAMES if env.get(name) != self._env.get(name)]
        self._board.show("restart", [Problem(f"{name} has changed: restart make dev to use it") for name in changed])
        llm, own = self._chosen_model(env, source), {}
        if llm is None:
            llm, own = await self._model.environment(), dict(self._model.model.worker)
        handlers = {"BRIDGE_HANDLERS": source.handlers} if source.handlers else {}
        kept = {name: value for name, value in env.items() if name not in HOSTED_NAMES}
        return {
            "BRIDGE_LOG_FORMAT": "console",
            "BRIDGE_FUNCTIONS": "*",  # a new one needs no setting
            "BRIDGE_DRAIN_SECONDS": "2",  # an unfinished reply is retried at the next start
            **handlers,
            **own,
            **kept,
            **self._project,
            **llm,
        }

    def _report(self, problems: Sequence[Problem]) -> None:
        had_errors = self._board.has_errors
        self._board.show("build", problems)
        if self._board.has_errors:
            is_answering = self._reload.current is not None
            rest = "the version before it answers until then" if is_answering else "no question is answered until then"
            self._console.say(f"fix this and save: {rest}")
        elif had_errors:
            self._console.say("fixed")

    async def _use(self, version: Version) -> None:
        """A version is in use: say so, and let the commands beside it know."""
        shown = shared(version.environment, version.source.baml)
        await asyncio.to_thread(self._env_dev.write, shown)
        if self._stack is not None:
            llm = {name: value for name, value in shown.items() if name.startswith("LLM_")}
            await asyncio.to_thread(state.add, self._options.data, llm)
            await catalogue.keep(self._project["SUPABASE_DB_URL"], version.functions)
        if self._is_greeted:
            self._console.say(f"using what was saved: {', '.join(version.functions)} answer")

    def _greet(self, source: Source) -> None:
        version = self._reload.current
        where = "from SUPABASE_URL" if self._stack is None else f"embedded, data in {_short(self._options.data)}"
        rows = [("Chat", self._page), ("Supabase", f"{self._project['SUPABASE_URL']}  ({where})")]
        rows += [("" if number else "Model", line) for number, line in enumerate(self._model_lines(source, version))]
        names = ", ".join(version.functions) if version else "none until the mistake above is fixed"
        ask = next((name for name in (version.functions if version else ()) if name != "Title"), "Chat")
        rows += [
            ("Functions", names),
            ("Ask", f'.venv/bin/bridge ask {ask} "Hello"'),
            ("", "Edit baml_src, handlers.py or .env: the next message uses it."),
            ("", "Press Ctrl-C to stop."),
        ]
        self._console.block(*rows)
        self._is_greeted = True

    def _model_lines(self, source: Source, version: Version | None) -> tuple[str, ...]:
        """What answers: the model in LLM_*, the one that runs here, or a client of its own in baml_src."""
        own, reads = clients.own(version.source.baml if version else source.baml)
        env = version.environment if version else self._env
        if self._model.is_used or not set(clients.NAMES) & env.keys():
            lines = self._model.model.lines
        else:
            lines = (" at ".join(env[name] for name in ("LLM_MODEL", "LLM_BASE_URL") if name in env),)
        if reads or not own:
            return (*lines, *(f"also {line}" for line in own))
        ignored = self._options.model
        return own if ignored is None else (*own, f"MODEL={ignored} is not used: no client reads LLM_*")


def _on_signals(stopping: asyncio.Event, run: Run) -> None:
    """Stop everything in order on the first Ctrl-C (SIGTERM, SIGHUP), and kill everything on the second."""

    def received() -> None:
        if not stopping.is_set():
            stopping.set()
            return
        run.kill()
        os._exit(130)

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
