"""BAML functions and handlers by name: a turn goes in, partials and an answer come out.

How an answer may end (`bridge.provider` judges it):

    finish_reason stop, tool_calls …         an answer
    finish_reason length, a string result    an answer: a text that breaks off is worth more than none
    finish_reason length, any other result   BadOutput `model_length`, given up: half a file must not replace a file
    finish_reason content_filter, refusal …  ModelRefused `model_filtered`
    no finish_reason and no `[DONE]`         ModelUnavailable `model_cut`, although BAML calls it a success
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import re
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self, get_type_hints

from baml_py.baml_py import BamlError, get_version, set_log_level
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from bridge.arguments import Parameter, bind, parameters
from bridge.baml import Call, Client
from bridge.errors import BadRequest, ModelUnavailable, SetupError
from bridge.handlers import Handler, registered, run_handler
from bridge.model import Completion, FileWrite, Partial, Turn, Usage
from bridge.provider import Report, failure, stopped

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0  # how long `close` waits for aborted calls; they take about 0.001


@dataclass(frozen=True, slots=True)
class Function:
    """A BAML function: its parameters, and whether it gives plain text."""

    name: str
    parameters: tuple[Parameter, ...]
    text: bool


_VARIABLE = re.compile(r"\benv\.(LLM_\w+)")


class Functions:
    """The functions a worker answers with. Made by `load`; `close` it before the process ends."""

    def __init__(
        self,
        client: Client | None,
        functions: Mapping[str, Function],
        handlers: Mapping[str, Handler],
        env: Mapping[str, str],
    ) -> None:
        self.names: tuple[str, ...] = (*functions, *handlers)
        self._client, self._functions, self._handlers, self._env = client, functions, handlers, env
        self._calls: set[Call] = set()
        self._closed = False

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        *,
        handlers: str | None = None,
        client: ModuleType | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Find every function in `names`: a handler of that name first, else a BAML function.

        `handlers` is the module to import for its handlers, `client` the generated client (`baml_client` by default),
        `env` what the clients in `baml_src` read before the process's own environment.

        Raises:
            SetupError: one line with the remedy, if anything is missing or does not fit together.
        """
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m` has it; the command `bridge` does not
        if handlers:
            _import_handlers(handlers)
        found_handlers = {name: h for name, h in registered().items() if name in names}
        if handlers and (unreached := sorted(set(registered()) - set(names))):
            log.warning(
                "BRIDGE_FUNCTIONS does not name these handlers, so nobody reaches them: %s", ", ".join(unreached)
            )
        wanted = [name for name in names if name not in found_handlers]
        if not wanted:
            return cls(None, {}, found_handlers, env or {})
        module = client or _import_client()
        _check_version(module)
        parts = Client.of(module)
        methods = {
            name: method
            for name, method in inspect.getmembers(type(parts.functions), inspect.iscoroutinefunction)
            if not name.startswith("_")
        }
        functions = {}
        for name in wanted:
            if name not in methods:
                known = ", ".join(sorted({*methods, *registered()})) or "none"
                raise SetupError(
                    f"BRIDGE_FUNCTIONS names {name}, but there is no BAML function and no handler of that name "
                    f"(there are: {known}). Add it to baml_src and run `baml-cli generate`, or leave it out."
                )
            gives_text = get_type_hints(methods[name]).get("return") is str
            functions[name] = Function(name, parameters(methods[name]), gives_text)
        _check_variables(module, env or {})
        return cls(parts, functions, found_handlers, env or {})

    async def run(self, turn: Turn) -> AsyncGenerator[Partial | Completion, None]:
        """Answer a turn: partials as they come, the newest whenever one is asked for, and the Completion last.

        A partial may equal the one before: then the model writes what does not show, such as a file.
        Closing the generator, or cancelling the task that waits for it, closes the provider's connection at once.
        Raises TurnFailure and nothing else.
        """
        if handler := self._handlers.get(turn.function):
            async with aclosing(run_handler(handler, turn)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        function = self._functions.get(turn.function)
        if function is None or self._client is None:
            raise BadRequest("unknown_function", f"There is no function `{turn.function[:80]}` here.")
        call = self._begin(self._client, function, bind(function.parameters, turn))
        try:
            partial = Partial("")
            async with aclosing(call.partials()) as values:
                async for value in values:
                    if value is not None:
                        partial = _partial(value)
                    yield partial
            try:
                result = await call.result()
            except BamlError as error:
                raise failure(error, call.report(), self._env) from None  # the cause has the prompt in it
            report = call.report()
            if failed := stopped(report, text=isinstance(result, str)):
                raise failed
            answer = _answer(result, report)
        finally:
            await call.close()
        yield answer

    async def close(self) -> None:
        """Abort every call in flight and wait for it: one left over at the process's end aborts the interpreter."""
        self._closed = True
        pending = [call.done for call in self._calls if not call.done.done()]
        for call in tuple(self._calls):
            call.abort()
        if pending:
            _, late = await asyncio.wait(pending, timeout=CLOSE_SECONDS)
            if late:
                log.error("%d calls to the model did not end within %g s", len(late), CLOSE_SECONDS)

    def _begin(self, client: Client, function: Function, arguments: dict[str, Any]) -> Call:
        if self._closed:
            raise ModelUnavailable("shutting_down", "The service is restarting.")
        try:
            call = Call(client, function.name, arguments, text=function.text, env=self._env)
        except BamlError as error:
            raise failure(error, Report(), self._env) from None
        self._calls.add(call)
        call.done.add_done_callback(lambda _: self._calls.discard(call))
        return call


def _import_handlers(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise SetupError(
                f"BRIDGE_HANDLERS names the module {name}, which cannot be found from {os.getcwd()}."
            ) from None
        raise SetupError(f"The module {name} of BRIDGE_HANDLERS needs {error.name}: install it.") from error
    except SetupError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SetupError(f"The module {name} of BRIDGE_HANDLERS cannot be imported: {said}") from error


def _import_client() -> ModuleType:
    remedy = "Run `baml-cli generate` (or `make setup`) in the folder that holds baml_src, and start there."
    try:
        module = importlib.import_module("baml_client")
    except ModuleNotFoundError:
        raise SetupError(f"There is no generated BAML client here. {remedy}") from None
    except Exception as error:
        # What an outdated client says fills a screen; its first line is the one that counts.
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SetupError(f"The generated BAML client cannot be used ({said}). {remedy}") from error
    set_log_level("OFF")  # the variable BAML_LOG counts only if it was set before the first import
    return module


def _check_version(module: ModuleType) -> None:
    made, installed = getattr(module, "__version__", "unknown"), get_version()
    if made != installed:
        raise SetupError(
            f"baml_client was generated for baml-py {made}, but {installed} is installed. Put {installed} into "
            "baml_src/generators.baml and run `baml-cli generate`."
        )


def _check_variables(module: ModuleType, env: Mapping[str, str]) -> None:
    """See that the LLM_* that the clients read are set, so that it is told at the start, not in a user's reply.

    Other providers' keys are not looked for: not every client is used.
    """
    try:
        files: Mapping[str, str] = importlib.import_module(f"{module.__name__}.inlinedbaml").get_baml_files()
    except (ImportError, AttributeError):
        return  # not as baml-cli 0.226.3 writes it: the calls will tell
    for file, text in sorted(files.items()):
        for line in text.splitlines():
            for name in _VARIABLE.findall(line.partition("//")[0]):
                if not (env.get(name) or os.environ.get(name, "")).strip():
                    raise SetupError(f"{name} is not set, and baml_src/{file} reads it. Set it (see .env.example).")


def _partial(value: Any) -> Partial:
    """What there is of a result so far: the text of `reply`, and the other fields but `files`."""
    if isinstance(value, str):
        return Partial(value)
    data = to_jsonable_python(value)
    if not isinstance(value, BaseModel) or not isinstance(data, dict):
        return Partial("", data)
    reply = data.pop("reply", None)
    data.pop("files", None)
    return Partial(reply if isinstance(reply, str) else "", data or None)


def _answer(value: Any, report: Report) -> Completion:
    usage = Usage(report.model, report.input_tokens, report.output_tokens, report.cached_tokens)
    if isinstance(value, str):
        return Completion(value, usage=usage)
    data = to_jsonable_python(value)
    reply = data.get("reply") if isinstance(data, dict) else None
    files = data.get("files") if isinstance(data, dict) else None
    return Completion(reply if isinstance(reply, str) else "", data, _files(files), usage)


def _files(value: Any) -> tuple[FileWrite, ...]:
    """The files of a result. A field `files` that holds anything else is data like any other."""
    if not isinstance(value, list):
        return ()
    files = []
    for item in value:
        path, content = (item.get("path"), item.get("content")) if isinstance(item, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(content, str):
            return ()
        language = item.get("language")
        files.append(FileWrite(path, content, language if isinstance(language, str) else None))
    return tuple(files)
