"""The functions of a worker by name: each is a handler or a BAML function. A turn goes in, a reply comes out."""

import importlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import ModuleType
from typing import Self

from bridge.baml.functions import BamlFunctions, answerable, has_client, load_client
from bridge.errors import SetupError
from bridge.handlers import Handler, describe, description_of, place_of, registered, run_handler
from bridge.model import Completion, Description, Partial, Turn
from bridge.settings import ALL_FUNCTIONS
from bridge.steps import Steps

log = logging.getLogger(__name__)


class Functions:
    """The functions that a worker answers with. Create it with `load`, and `close` it before the process ends."""

    def __init__(self, handlers: Mapping[str, Handler], baml: BamlFunctions) -> None:
        self.names: tuple[str, ...] = (*baml.names, *handlers)
        self._handlers, self._baml = handlers, baml

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        *,
        handlers: str | None = None,
        client: ModuleType | None = None,
        env: Mapping[str, str] | None = None,
        shows_reasoning: bool = False,
    ) -> Self:
        """Find the function of each name: a handler if there is one, otherwise a BAML function. Raises SetupError.

        The name `*` stands for every handler, and for every BAML function that can be asked.
        `handlers` is the module to import for its handlers, `client` the generated client (`baml_client` by default).
        `env` holds variables for the clients in `baml_src`, which take precedence over the process's environment.
        With `shows_reasoning`, partials have what the model thinks.
        """
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m` does; the command `bridge` does not
        if handlers:
            _import_handlers(handlers)
        available = registered()
        if ALL_FUNCTIONS in names:
            names = list(dict.fromkeys((*answerable(load_client(client)), *available)))
            if not names:
                raise SetupError("There is no function.", "Add one to baml_src and run `baml-cli generate`.")
        if handlers and (unused := ", ".join(sorted(set(available) - set(names)))):
            log.warning("these handlers cannot be reached, because BRIDGE_FUNCTIONS does not name them: %s", unused)
        chosen = {name: handler for name, handler in available.items() if name in names}
        others = [name for name in names if name not in chosen]
        if not others and client is None and not has_client():
            return cls(chosen, BamlFunctions({}, {}))
        found = load_client(client)
        if unknown := [name for name in others if name not in found.methods]:
            known = ", ".join(sorted({*found.methods, *available})) or "none"
            raise SetupError(
                f"BRIDGE_FUNCTIONS names {unknown[0]}, but no BAML function or handler has that name "
                f"(there are: {known}).",
                "Add it to baml_src and run `baml-cli generate`, set BRIDGE_HANDLERS to the module of its handler, "
                "or remove it from BRIDGE_FUNCTIONS.",
            )
        options = {"is_called": bool(chosen), "shows_reasoning": shows_reasoning}
        return cls(chosen, BamlFunctions.load(found, others, env or {}, **options))

    @property
    def descriptions(self) -> Mapping[str, Description]:
        """What users see of each function."""
        return {**self._baml.descriptions, **{name: description_of(name) for name in self._handlers}}

    def run(self, turn: Turn, steps: Steps | None = None) -> AsyncGenerator[Partial | Completion, None]:
        """Answer a turn: yield the newest partial each time the reader asks, and the completion last.

        A partial may equal the one before it: then the model is writing something that does not show, such as a file.
        Closing the generator, or cancelling the task that reads it, closes the provider's connection at once.
        The generator raises TurnFailure and, of a handler that waits for somebody else, Waiting; nothing else. `steps`
        is for a handler.
        """
        if handler := self._handlers.get(turn.function):
            return run_handler(handler, turn, steps)
        return self._baml.run(turn)

    def has_handler(self, name: str) -> bool:
        """Whether a handler answers for this name."""
        return name in self._handlers

    @property
    def calls(self) -> BamlFunctions:
        """The BAML functions that a handler can call."""
        return self._baml

    def characters_of(self, turn: Turn) -> int:
        """About how many characters of a turn a model reads; of a handler, which reports its own cost, none."""
        return 0 if turn.function in self._handlers else self._baml.characters_of(turn)

    async def close(self) -> None:
        """Abort every running BAML call and wait for it to end. After that, none can begin."""
        await self._baml.close()


def _import_handlers(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise SetupError(
                f"BRIDGE_HANDLERS names the module {name}, which cannot be found from {os.getcwd()}.",
                "Correct the name, or start the worker in the folder that contains the module.",
            ) from None
        raise SetupError(
            f"The module {name} of BRIDGE_HANDLERS needs {error.name}, which is not installed.",
            f"Install {error.name}, or correct the import at {place_of(error)[0]}.",
        ) from error
    except SetupError:
        raise
    except (Exception, SystemExit) as error:  # it may call sys.exit()
        raise SetupError(
            f"The module {name} of BRIDGE_HANDLERS cannot be imported ({describe(error)}).",
            f"Fix {place_of(error)[0]} and start again.",
        ) from error
