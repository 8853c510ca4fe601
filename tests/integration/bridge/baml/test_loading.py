"""Loading functions: handlers before BAML functions, and setup errors that name the problem and the remedy."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import baml_client
from bridge import handlers
from bridge.baml.arguments import read_hints
from bridge.baml.client import Client
from bridge.baml.delimiters import DELIMITERS
from bridge.errors import SetupError
from bridge.functions import Functions
from bridge.model import Completion, FileWrite
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import collect, fail, turn, variables
from tests.support import ROOT


@pytest.fixture(autouse=True)
def no_other_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_handlers", {})


def refused(names: list[str], handlers: str | None = None, client: ModuleType | None = None) -> SetupError:
    """The error of loading `names`: a problem and a remedy, each a sentence on one line."""
    with pytest.raises(SetupError) as caught:
        Functions.load(names, handlers=handlers, client=client)
    for sentence in (caught.value.problem, caught.value.remedy):
        assert sentence.endswith(".")
        assert "\n" not in sentence
    return caught.value


def test_unknown_function_lists_the_known_ones() -> None:
    error = refused(["Chat", "Nope"])
    assert error.problem.startswith("BRIDGE_FUNCTIONS names Nope, ")
    assert "Chat, Code, Compare, " in error.problem
    assert "baml-cli generate" in error.remedy


def test_missing_client_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "bridge").symlink_to(ROOT / "bridge")  # the path has no baml_client beside it
    ran = subprocess.run(
        [sys.executable, "-c", "from bridge.functions import Functions\nFunctions.load(['Chat'])"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "path")},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.stderr.splitlines()[-1].startswith("bridge.errors.SetupError: There is no generated BAML client here.")


def test_client_of_another_version_is_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baml_client, "__version__", "0.1.0")
    assert "generated for baml-py 0.1.0" in refused(["Chat"]).problem


def test_parameter_that_cannot_be_filled_is_a_setup_error(other_client: ModuleType) -> None:
    assert "parameter `messages` of the BAML function Wrong" in refused(["Wrong"], client=other_client).problem


def test_classes_of_one_name_in_two_clients_stay_apart(provider_client: ModuleType, other_client: ModuleType) -> None:
    for client, function in ((provider_client, "Remembering"), (other_client, "Recall")):
        hints = read_hints(Client(client).methods[function])
        assert get_args(hints["messages"]) == (client.types.Said,)


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("no_such_module", None, "cannot be found"),
        (
            "raises_when_imported",
            "raise ValueError('first\\nsecond')",
            "cannot be imported (ValueError: first second).",
        ),
        ("needs_something", "import not_installed_anywhere", "needs not_installed_anywhere"),
    ],
)
def test_broken_handler_module_is_a_setup_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str | None, problem: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if source is not None:
        (tmp_path / f"{module}.py").write_text(source)
    assert problem in refused([], handlers=module).problem


async def test_handlers_answer_beside_baml_functions(
    other_client: ModuleType, model: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_handlers.py").write_text(
        "from bridge import FileWrite, Turn, handler\n"
        "@handler('Shout')\n"
        "async def shout(turn: Turn):\n"
        "    yield turn.message.upper()\n"
        "    yield FileWrite('a.txt', turn.message)\n"
        "@handler('Unused')\n"
        "async def unused(turn: Turn):\n"
        "    yield ''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    functions = Functions.load(["Shout", "Rate"], handlers="my_handlers", client=other_client, env=variables(model.url))
    assert set(functions.names) == {"Shout", "Rate"}
    text = f"hi {DELIMITERS[0]}"
    _, completion = await collect(functions, turn(text, "Shout"))
    assert completion == Completion(text.upper(), None, (FileWrite("a.txt", text),), completion.usage)
    assert (await fail(functions, "hi", "Unused")).code == "unknown_function"
