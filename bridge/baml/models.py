"""The clients of `baml_src`, as its sources define them: the models that users may choose.

BAML takes any other name for a provider and a model, as in `openai/gpt-5`, and would call it with the worker's keys. So
a name counts only if it is that of a client here.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from bridge.baml.unparsed import CLOSES, OPENS, functions_in, words_in


class ModelClient(NamedTuple):
    """A client: the `file` that defines it, the `variables` it reads, and the `models` that it names in quotes.

    `members` are the clients that it asks in turn, if it is a fallback or a round-robin.
    """

    file: str
    variables: frozenset[str]
    models: tuple[str, ...]
    members: tuple[str, ...]


class ModelClients:
    """All clients of some sources."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._clients = {name: client for file, text in sources.items() for name, client in _clients_in(file, text)}
        self._used = {name for text in sources.values() for name in _used_in(text)}

    @property
    def names(self) -> Collection[str]:
        """The name of each client."""
        return self._clients.keys()

    @property
    def models(self) -> Collection[str]:
        """The models that clients name in quotes."""
        return {model for client in self._clients.values() for model in client.models}

    def missing(self, name: str, env: Mapping[str, str]) -> dict[str, str]:
        """The variables that a client reads and that are not set, each with the file that reads it."""
        return {
            variable: member.file
            for member in self._with_members(name)
            for variable in sorted(member.variables)
            if not (env.get(variable) or os.environ.get(variable, "")).strip()
        }

    def missing_of_functions(self, env: Mapping[str, str]) -> dict[str, str]:
        """As `missing`, of all clients that functions use by themselves."""
        return {variable: file for name in sorted(self._used) for variable, file in self.missing(name, env).items()}

    def _with_members(self, name: str) -> Sequence[ModelClient]:
        found: dict[str, ModelClient] = {}
        names = [name]
        while names:
            if (next_name := names.pop()) in self._clients and next_name not in found:
                found[next_name] = self._clients[next_name]
                names.extend(found[next_name].members)
        return list(found.values())


def _clients_in(file: str, text: str) -> Sequence[tuple[str, ModelClient]]:
    words = words_in(text)
    found: list[tuple[str, ModelClient]] = []
    at = 0
    while at < len(words):
        if words[at : at + 4] == ["client", "<", "llm", ">"] and at + 4 < len(words):
            end = _closing(words, at + 5)
            found.append((words[at + 4], _read(file, words[at + 5 : end])))
            at = end
        else:
            at = _closing(words, at)
    return found


def _read(file: str, body: Sequence[str]) -> ModelClient:
    variables = {body[at + 2] for at in range(len(body) - 2) if body[at] == "env" and body[at + 1] == "."}
    models = [
        value[1:-1] for name, value in pairwise(body) if name == "model" and value.startswith('"') and len(value) > 2
    ]
    at = body.index("strategy") + 1 if "strategy" in body else len(body)
    return ModelClient(file, frozenset(variables), tuple(models), tuple(body[at : _closing(body, at)]))


def _used_in(text: str) -> Sequence[str]:
    """The clients that functions name."""
    bodies = [words_in(function.body) for _, function in functions_in(text)]
    return [body[body.index("client") + 1] for body in bodies if "client" in body[:-1]]


def _closing(words: Sequence[str], at: int) -> int:
    """The place after the word at `at`, or after what it opens."""
    depth = 0
    while at < len(words):
        depth += (words[at] in OPENS) - (words[at] in CLOSES)
        at += 1
        if depth <= 0:
            break
    return at
