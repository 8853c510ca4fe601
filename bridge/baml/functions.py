"""The BAML functions of the generated client: finding, checking and running them."""

import asyncio
import importlib
import importlib.util
import inspect
import json
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, Self

from baml_py.baml_py import BamlError, get_version, set_log_level
from pydantic_core import to_jsonable_python

from bridge.attachments import check_kind, choose
from bridge.baml.answer import without_reasoning
from bridge.baml.arguments import (
    Parameter,
    attachments_in,
    bind_arguments,
    bind_given,
    complete_types,
    read_hints,
    read_parameters,
    read_types,
)
from bridge.baml.client import Call, Client, Ended
from bridge.baml.context import shorten
from bridge.baml.doc_comments import DocComment, read_doc_comments
from bridge.baml.failures import Response, bad_output, complete, known_model, name_error, translate_error
from bridge.baml.media import kind_of
from bridge.baml.models import ModelClients
from bridge.baml.opening import opening
from bridge.baml.parsing import Parser
from bridge.baml.running import Running
from bridge.baml.schemas import describe_parameters, describe_result
from bridge.baml.unparsed import Unparsed, copy_unparsed
from bridge.errors import (
    BadOutput,
    BadRequest,
    ContextTooLong,
    HandlerBroken,
    ModelEmpty,
    ModelUnavailable,
    SetupError,
    TurnFailure,
    UnknownModel,
)
from bridge.media_types import TEXTS
from bridge.model import Attachment, Completion, Description, FileWrite, Opened, Partial, Turn, Usage
from bridge.step_values import broken

log = logging.getLogger(__name__)

SIGN_SECONDS = 0.05  # how often a reply that waits to be parsed shows a sign of life
MEDIA_CHARACTERS = 4000  # about what a model is charged for one image or document, if its provider does not say
CLOSE_SECONDS = 5.0  # how long `close` waits for aborted calls; they take about 0.001


class BamlFunction(NamedTuple):
    """One function of a generated client. `is_text` means that it returns a plain string.

    `description` is what users see of it.
    """

    client: Client
    unparsed: Unparsed
    parameters: tuple[Parameter, ...]
    is_text: bool
    description: Description


class BamlFunctions:
    """BAML functions that are ready to run. `close` them before the process ends."""

    def __init__(
        self,
        functions: Mapping[str, BamlFunction],
        env: Mapping[str, str],
        called: "Called | None" = None,
        *,
        clients: ModelClients | None = None,
        shows_reasoning: bool = False,
    ) -> None:
        self.names = tuple(functions)
        self.clients = clients or ModelClients({})
        self._functions, self._env, self._called = functions, env, called
        self._shows_reasoning = shows_reasoning
        self._running = Running()
        self._calls: set[Call] = set()
        self._closed = False

    @classmethod
    def load(
        cls,
        client: Client,
        names: Sequence[str],
        env: Mapping[str, str],
        *,
        is_called: bool = False,
        shows_reasoning: bool = False,
    ) -> Self:
        """Prepare functions of `client`; SetupError if a parameter cannot be filled or a variable is not set.

        With `is_called`, handlers may call every function of the client. With `shows_reasoning`, partials have what the
        model thinks.
        """
        complete_types(client.types)
        methods = {name: client.methods[name] for name in names}
        returned = {name: read_hints(method)["return"] for name, method in methods.items()}
        parameters = {name: read_parameters(method, _place(client, name)) for name, method in methods.items()}
        clients = ModelClients(client.sources)
        if names:
            _check_variables(clients, env)
        unparsed = copy_unparsed(client.sources, names, [name for name, hint in returned.items() if hint is not str])
        comments = read_doc_comments(client.sources)
        functions = {
            name: BamlFunction(
                *(client, unparsed, parameters[name], hint is str),
                _describe(name, comments.get(name, DocComment()), parameters[name], hint),
            )
            for name, hint in returned.items()
        }
        called = Called(client) if is_called else None
        return cls(functions, env, called, clients=clients, shows_reasoning=shows_reasoning)

    @property
    def descriptions(self) -> Mapping[str, Description]:
        """What users see of each function."""
        return {name: function.description for name, function in self._functions.items()}

    async def run(self, turn: Turn) -> AsyncGenerator[Partial | Completion, None]:
        """Run the function that `turn` names; see `bridge.functions.Functions.run`."""
        function = self._functions.get(turn.function)
        if function is None:
            remedy = "no worker answers it: add it to baml_src or to a module of handlers, and to BRIDGE_FUNCTIONS"
            raise BadRequest("unknown_function", f"There is no function named `{turn.function[:80]}`.", detail=remedy)
        if turn.model is not None and turn.model not in self.clients.names:
            remedy = "this worker's baml_src has no client of that name: add it, or delete its row of public.models"
            raise UnknownModel("unknown_model", f"There is no model named `{turn.model[:80]}`.", detail=remedy)
        while True:
            try:
                async with aclosing(self._ask_about(function, turn)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Completion):
                            piece = replace(piece, usage=self._named(piece.usage, turn))
                        yield piece
                return
            except TurnFailure as failure:
                complete(failure, turn, self._env)
                failure.usage = failure.usage and self._named(failure.usage, turn)
                if not isinstance(failure, ContextTooLong):
                    raise
                shorter = shorten(turn, [parameter.name for parameter in function.parameters])
                if shorter is None or (shorter.messages, shorter.files) == (turn.messages, turn.files):
                    raise
                counts = (len(turn.messages), len(turn.files), len(shorter.messages), len(shorter.files))
                log.info("too long for the model: %d messages and %d files, now %d and %d", *counts)
                turn = shorter

    def result_of(self, function: Callable[..., Any]) -> Any:
        """The type that a function returns, which a handler calls. Raises HandlerBroken if it is no BAML function."""
        return self._of_call(function).result

    async def call(
        self, turn: Turn, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> AsyncGenerator[Partial | Completion, None]:
        """Call a function with arguments of a handler, which answers `turn`: as `run`. Raises TurnFailure."""
        called = self._of_call(function)
        given = called.given(args, named)
        turn = replace(turn, function=called.name)
        try:
            with opening(turn, called.attachments_in(given)) as opened:
                async for sign in opened.signs():
                    yield sign
                with self._running.copying(opened.copied) as sent:
                    arguments = called.bind(given, opened.result)
                    turn = replace(turn, data=to_jsonable_python(arguments, fallback=_name_of))
                    async with aclosing(self._ask(called.function, turn, arguments)) as pieces:
                        async for piece in pieces:
                            sent()
                            if isinstance(piece, Completion):
                                piece = replace(piece, usage=self._named(piece.usage, turn))
                            yield piece
        except TurnFailure as failure:
            complete(failure, turn, self._env)
            failure.usage = failure.usage and self._named(failure.usage, turn)
            raise

    def _of_call(self, function: Callable[..., Any]) -> "CalledFunction":
        if self._called is None:
            raise broken("it calls a BAML function, and there is no generated BAML client")
        return self._called.find(function)

    def _named(self, usage: Usage, turn: Turn) -> Usage:
        return replace(usage, model=known_model(usage.model, turn, self._env, self.clients.models))

    def characters_of(self, turn: Turn) -> int:
        """About how many characters of a turn its function sends to the model."""
        function = self._functions.get(turn.function)
        if function is None:
            return 0
        names = {parameter.name for parameter in function.parameters}
        messages = turn.messages if "messages" in names else ()
        files = turn.files if "files" in names else ()
        reads = [*turn.attachments] * bool(function.description.accepts)
        return (
            len(turn.message)
            + sum(attachment.size if attachment.type in TEXTS else MEDIA_CHARACTERS for attachment in reads)
            + sum(len(message.content) + _length(message.data) for message in messages)
            + sum(len(file.path) + len(file.content) for file in files)
            + _length(turn.data)
        )

    async def _ask_about(self, function: BamlFunction, turn: Turn) -> AsyncGenerator[Partial | Completion, None]:
        """Call the model once, with the arguments and the attachments of the turn."""
        kinds = function.description.accepts
        with_history = any(parameter.name == "messages" for parameter in function.parameters)
        chosen = choose(turn, kinds, with_history=with_history)
        with opening(turn, chosen, set(chosen) - set(turn.attachments)) as opened:
            async for sign in opened.signs():
                yield sign
            with self._running.copying(opened.copied) as sent:
                arguments = bind_arguments(function.parameters, turn, opened.result)
                async with aclosing(self._ask(function, turn, arguments, turn.model)) as pieces:
                    async for piece in pieces:
                        sent()
                        yield piece

    async def _ask(
        self, function: BamlFunction, turn: Turn, arguments: dict[str, Any], model: str | None = None
    ) -> AsyncGenerator[Partial | Completion, None]:
        """Call the model once: the function's own, or this one."""
        if self._closed:
            raise ModelUnavailable("shutting_down", "The service is restarting.")
        try:
            call = Call(
                *(function.client, function.unparsed, self._running, turn.function, arguments),
                is_text=function.is_text,
                env=self._env,
                model=model,
                shows_reasoning=self._shows_reasoning,
            )
        except BamlError as error:
            raise translate_error(error, Response()) from None
        self._calls.add(call)
        call.done.add_done_callback(partial(self._forget, call))
        parser = call.parser
        try:
            shown: str | None = None
            reported = unnamed = Usage()  # so far; its model may repeat the conversation
            async with aclosing(call.partials()) as values:
                async for value in values:
                    if call.usage is not reported:
                        reported = call.usage
                        unnamed = replace(reported, model=None)
                    signs: dict[str, Any] = {"has_begun": call.has_begun, "usage": unnamed}
                    signs |= {"reasoning": call.take_reasoning(), "thought": call.thought}
                    if value is None:
                        yield Partial("", is_added=True, **signs)
                    elif function.is_text and isinstance(value, str):
                        yield _grown(value, shown, signs)
                        shown = value
                    else:
                        yield _to_partial(value, signs)
            ended = await call.end()
        finally:
            await call.close()
        reasoning, thought = call.take_reasoning(), call.thought
        del call  # and what it keeps of the reply: a structure may wait to be parsed
        sign = Partial("", usage=replace(ended.usage, model=None), is_added=True, thought=thought)
        if reasoning:
            yield replace(sign, reasoning=reasoning)
        completing, usage = self._complete(function, parser, ended), ended.usage
        del ended
        waiting: asyncio.Task[Completion] | None = None
        try:
            if function.is_text:  # nothing is parsed, and so nothing is waited for
                completion = await completing
            else:
                waiting = asyncio.create_task(completing)
                while not (await asyncio.wait({waiting}, timeout=SIGN_SECONDS))[0]:
                    yield sign  # other structures are parsed first: it is not the model that stalls
                completion = waiting.result()
        except TurnFailure as failure:
            failure.usage = usage
            raise
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        yield replace(completion, thought=thought)

    def _forget(self, call: Call, _: object) -> None:
        self._calls.discard(call)

    async def _complete(self, function: BamlFunction, parser: Parser, ended: Ended) -> Completion:
        """Return the complete reply, or raise the TurnFailure that stands in its way."""
        answer, error = ended.answer, ended.error
        broken = None if error is None else translate_error(error, ended.response)
        if answer is None:
            if broken is not None:
                raise broken from None
            text = without_reasoning(str(ended.result))
            if not text.strip():
                raise ModelEmpty("model_empty", "The model gave no answer.")
            return await self._read_text(function, parser, text, ended.usage)
        if broken is not None and (isinstance(broken, BadOutput) or "Failed to parse" in broken.said):
            broken = None  # the stream was closed properly, and only BAML could not read it: it is judged below
        if failure := answer.judge(broken, is_text=function.is_text):
            raise failure
        if function.is_text:
            return Completion(answer.text, usage=ended.usage, is_truncated=answer.is_truncated)
        text, usage = answer.text, ended.usage
        del answer, ended  # only the text is kept while a structure waits to be parsed
        return await self._read_text(function, parser, text, usage)

    async def _read_text(self, function: BamlFunction, parser: Parser, text: str, usage: Usage) -> Completion:
        if function.is_text:
            return Completion(text, usage=usage)
        try:
            return _to_completion(await parser.whole(text), usage)
        except BadOutput:
            raise
        except Exception as complaint:
            failure = bad_output(type(complaint).__name__)
            failure.said = name_error(complaint)  # it may repeat the answer
            raise failure from None

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


class CalledFunction(NamedTuple):
    """A function that a handler calls. `result` is the type that it returns."""

    name: str
    function: BamlFunction
    signature: inspect.Signature
    result: Any

    def given(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments by name. Raises HandlerBroken."""
        try:
            return self.signature.bind(*args, **named).arguments
        except TypeError as error:
            raise self._misfit(error) from None

    def attachments_in(self, given: Mapping[str, Any]) -> tuple[Attachment, ...]:
        """The attachments among the arguments. Raises BadAttachment if one is not what its parameter takes."""
        found: list[Attachment] = []
        for parameter in self.function.parameters:
            attached = attachments_in(given.get(parameter.name))
            if (kind := kind_of(parameter.hint)) is not None:
                for attachment in attached:
                    check_kind(attachment, kind.types)
            found += attached
        return tuple(found)

    def bind(self, given: Mapping[str, Any], opened: Sequence[Opened]) -> dict[str, Any]:
        """Return the arguments, checked and without BAML's delimiters. Raises HandlerBroken."""
        try:
            return bind_given(self.function.parameters, given, {one.attachment: one for one in opened})
        except (ValueError, BadRequest) as error:
            raise self._misfit(error) from None

    def _misfit(self, error: Exception) -> HandlerBroken:
        return broken(f"the arguments of {self.name} do not fit: {str(error).partition(chr(10))[0]}")


class Called:
    """The functions of a client that handlers call, prepared when each is called first."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._found: dict[str, CalledFunction] = {}

    def find(self, function: Callable[..., Any]) -> CalledFunction:
        """Prepare a method of the client. Raises HandlerBroken if it is none, or cannot be called."""
        name = getattr(function, "__name__", "")
        method = self._client.methods.get(name)
        if (found := self._found.get(name)) is not None:
            return found
        if method is None or getattr(function, "__module__", None) != method.__module__:
            raise broken(f"{function!r:.100} is not a function of the generated client: pass `b.Name` itself")
        hint = read_hints(method)["return"]
        try:
            unparsed = copy_unparsed(self._client.sources, [name], [] if hint is str else [name])
            parameters = read_types(method)
        except SetupError as error:
            raise broken(str(error)) from error
        signature = inspect.signature(function)
        without_options = [p for p in signature.parameters.values() if p.name != "baml_options"]
        signature = signature.replace(parameters=without_options)
        prepared = BamlFunction(self._client, unparsed, parameters, hint is str, Description(name))
        found = self._found[name] = CalledFunction(name, prepared, signature, hint)
        return found


def has_client() -> bool:
    """Whether there is a package `baml_client` here."""
    return importlib.util.find_spec("baml_client") is not None


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


def answerable(client: Client) -> tuple[str, ...]:
    """The names of all functions whose parameters can be filled. The others are logged."""
    complete_types(client.types)
    names = []
    for name, method in client.methods.items():
        try:
            read_parameters(method, _place(client, name))
        except SetupError as error:
            log.warning("%s cannot be asked: %s", name, error)
        else:
            names.append(name)
    return tuple(names)


def _describe(name: str, comment: DocComment, parameters: Sequence[Parameter], returned: Any) -> Description:
    return Description(
        name,
        comment.title,
        comment.description,
        describe_parameters(parameters),
        describe_result(returned),
        comment.suggestions,
        reads_files=any(parameter.name == "files" for parameter in parameters),
        is_internal=comment.is_internal,
        accepts=tuple(kind for parameter in parameters for kind in parameter.accepts),
    )


def _place(client: Client, name: str) -> str:
    """Where a function is defined, as `file:line`; "" if that cannot be found."""
    for file, text in client.sources.items():
        if found := re.search(rf"^\s*function\s+{name}\b", text, re.MULTILINE):
            return f"baml_src/{file}:{text.count(chr(10), 0, found.end()) + 1}"
    return ""


def _check_variables(clients: ModelClients, env: Mapping[str, str]) -> None:
    """Check that the LLM_* variables of functions' clients are set, so that the start fails and not a user's reply.

    Keys of other providers are not checked: not every function is in use. Nor are those of models that users choose.
    """
    for name, file in clients.missing_of_functions(env).items():
        if name.startswith("LLM_"):
            problem = f"{name} is not set, and baml_src/{file} reads it."
            raise SetupError(problem, "Set it; .env.example has an example.")


def _length(data: Any) -> int:
    return len(json.dumps(data, default=str)) if data else 0


def _name_of(value: object) -> str:
    """What stands for media, which may have megabytes."""
    return type(value).__name__


def _grown(text: str, shown: str | None, signs: Mapping[str, Any]) -> Partial:
    """What a text has more than was shown of it (None: nothing was)."""
    if shown is None or not text.startswith(shown):
        return Partial(text, **signs)
    return Partial(text[len(shown) :], is_added=True, **signs)


def _to_partial(value: Any, signs: Mapping[str, Any]) -> Partial:
    """Convert a partial result: the text of `reply`, and all other fields except `files` as data."""
    data = _unwrapped(to_jsonable_python(value))
    if isinstance(data, str):
        return Partial(data, **signs)
    if not isinstance(data, dict):
        return Partial("", data, **signs)
    reply = _unwrapped(data.pop("reply", None))
    data.pop("files", None)
    return Partial(reply if isinstance(reply, str) else "", data or None, **signs)


def _to_completion(value: Any, usage: Usage) -> Completion:
    data = _unwrapped(to_jsonable_python(value))
    if isinstance(data, str):
        return Completion(data, usage=usage)
    fields = data if isinstance(data, dict) else {}
    reply = _unwrapped(fields.get("reply"))
    return Completion(reply if isinstance(reply, str) else "", data, _to_files(fields.get("files")), usage)


def _unwrapped(value: Any) -> Any:
    """Return the value inside of what BAML wraps it in, for `@check` and `@stream.with_state`; both can be nested."""
    while isinstance(value, dict) and value.keys() in ({"value", "checks"}, {"value", "state"}):
        value = value["value"]
    return value


def _to_files(value: Any) -> tuple[FileWrite, ...]:
    """Convert a field `files`. If it holds anything but files, it is ordinary data and gives none."""
    files = []
    value = _unwrapped(value)
    for item in map(_unwrapped, value) if isinstance(value, list) else ():
        match {name: _unwrapped(field) for name, field in item.items()} if isinstance(item, dict) else item:
            case {"path": str(path), "content": str(content), **others}:
                language = others.get("language")
                files.append(FileWrite(path, content, language if isinstance(language, str) else None))
            case _:
                return ()
    return tuple(files)
