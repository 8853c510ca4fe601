"""The BAML functions of the generated client: finding, checking and running them."""

import asyncio
import importlib
import logging
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import ModuleType
from typing import Any, NamedTuple, Self, get_type_hints

from baml_py.baml_py import BamlError, get_version, set_log_level
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from bridge.baml.arguments import Parameter, bind_arguments, read_parameters
from bridge.baml.client import Call, Client
from bridge.baml.provider import Report, judge_ending, translate_error
from bridge.errors import BadRequest, ModelUnavailable, SetupError
from bridge.model import Completion, FileWrite, Partial, Turn, Usage

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0  # how long `close` waits for aborted calls; they take about 0.001


class BamlFunction(NamedTuple):
    """One function of a generated client. `text` means that it returns a plain string."""

    client: Client
    parameters: tuple[Parameter, ...]
    text: bool


class BamlFunctions:
    """BAML functions that are ready to run. `close` them before the process ends."""

    def __init__(self, functions: Mapping[str, BamlFunction], env: Mapping[str, str]) -> None:
        self.names = tuple(functions)
        self._functions, self._env = functions, env
        self._calls: set[Call] = set()
        self._closed = False

    @classmethod
    def load(cls, client: Client, names: Sequence[str], env: Mapping[str, str]) -> Self:
        """Prepare functions of `client`; SetupError if a parameter cannot be filled or a variable is not set."""
        functions = {}
        for name in names:
            method = client.methods[name]
            functions[name] = BamlFunction(client, read_parameters(method), get_type_hints(method)["return"] is str)
        _check_variables(client, env)
        return cls(functions, env)

    async def run(self, turn: Turn) -> AsyncGenerator[Partial | Completion, None]:
        """Run the function that `turn` names; see `bridge.functions.Functions.run`."""
        function = self._functions.get(turn.function)
        if function is None:
            raise BadRequest("unknown_function", f"There is no function named `{turn.function[:80]}`.")
        arguments = bind_arguments(function.parameters, turn)
        if self._closed:
            raise ModelUnavailable("shutting_down", "The service is restarting.")
        try:
            call = Call(function.client, turn.function, arguments, text=function.text, env=self._env)
        except BamlError as error:
            raise translate_error(error, Report(), self._env) from None
        self._calls.add(call)
        call.done.add_done_callback(lambda _: self._calls.discard(call))
        try:
            partial = Partial("")
            async with aclosing(call.partials()) as values:
                async for value in values:
                    if value is not None:
                        partial = _to_partial(value)
                    yield partial
            try:
                result = await call.result()
            except BamlError as error:
                raise translate_error(error, call.report(), self._env) from None  # the cause contains the prompt
            report = call.report()
            if failure := judge_ending(report, text=isinstance(result, str)):
                raise failure
            completion = _to_completion(result, report.usage)
        finally:
            await call.close()
        yield completion

    async def close(self) -> None:
        """Abort every running call and wait for it to end. A call that outlives the process aborts the interpreter."""
        self._closed = True
        pending = [call.done for call in self._calls]
        for call in self._calls:
            call.abort()
        if pending:
            _, late = await asyncio.wait(pending, timeout=CLOSE_SECONDS)
            if late:
                log.error("%d calls to the model did not end within %g s", len(late), CLOSE_SECONDS)


def load_client(module: ModuleType | None = None) -> Client:
    """Load a generated client: `module`, or by default the package `baml_client`. SetupError if it cannot be used."""
    remedy = "Run `baml-cli generate` (or `make setup`) in the folder that contains baml_src, and start there."
    if module is None:
        try:
            module = importlib.import_module("baml_client")
        except ModuleNotFoundError:
            raise SetupError("There is no generated BAML client here.", remedy) from None
        except Exception as error:
            # An outdated client raises a screenful of text; the first line is the one that counts.
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise SetupError(f"The generated BAML client cannot be used ({reason}).", remedy) from error
        set_log_level("OFF")  # the variable BAML_LOG only counts if it was set before the first import
    generated, installed = getattr(module, "__version__", "unknown"), get_version()
    if generated != installed:
        raise SetupError(
            f"baml_client was generated for baml-py {generated}, but {installed} is installed.",
            f"Set version {installed} in baml_src/generators.baml and run `baml-cli generate`.",
        )
    return Client(module)


def _check_variables(client: Client, env: Mapping[str, str]) -> None:
    """Check that every LLM_* variable that `client` reads is set, so that the start fails and not a user's reply.

    Keys of other providers are not checked: not every client in `baml_src` is in use.
    """
    for file, text in sorted(client.sources.items()):
        for name in re.findall(r"\benv\.(LLM_\w+)", re.sub("//.*", "", text)):
            if not (env.get(name) or os.environ.get(name, "")).strip():
                problem = f"{name} is not set, and baml_src/{file} reads it."
                raise SetupError(problem, "Set it; .env.example has an example.")


def _to_partial(value: Any) -> Partial:
    """Convert a partial result: the text of `reply`, and all other fields except `files` as data."""
    if isinstance(value, str):
        return Partial(value)
    data = to_jsonable_python(value)
    if not isinstance(value, BaseModel) or not isinstance(data, dict):
        return Partial("", data)
    reply = data.pop("reply", None)
    data.pop("files", None)
    return Partial(reply if isinstance(reply, str) else "", data or None)


def _to_completion(value: Any, usage: Usage) -> Completion:
    if isinstance(value, str):
        return Completion(value, usage=usage)
    data = to_jsonable_python(value)
    fields = data if isinstance(data, dict) else {}
    reply = fields.get("reply")
    return Completion(reply if isinstance(reply, str) else "", data, _to_files(fields.get("files")), usage)


def _to_files(value: Any) -> tuple[FileWrite, ...]:
    """Convert a field `files`. If it holds anything but files, it is ordinary data and gives none."""
    files = []
    for item in value if isinstance(value, list) else ():
        match item:
            case {"path": str(path), "content": str(content)}:
                language = item.get("language")
                files.append(FileWrite(path, content, language if isinstance(language, str) else None))
            case _:
                return ()
    return tuple(files)
