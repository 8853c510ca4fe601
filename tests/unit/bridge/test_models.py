"""The clients of baml_src are found in its sources, and what they read."""

from __future__ import annotations

import pytest

from bridge.baml.failures import known_model
from bridge.baml.models import ModelClients
from bridge.model import Session, Turn
from tests.support import ROOT

SOURCES = {
    "clients.baml": """
// client<llm> Commented { provider openai }
client<llm> Model {
  provider openai-generic
  options {
    base_url env.LLM_BASE_URL // env.NOT_READ
    model env.LLM_MODEL
    headers { "x" "client<llm> Quoted { env.QUOTED }" }
  }
}
client<llm> Large { provider anthropic options { api_key env.LARGE_KEY model "large-1" } }
client<llm> Both { provider fallback options { strategy [Model, Large, "openai/gpt-5"] } }
retry_policy Often { strategy { type constant_delay } }
""",
    "more/chat.baml": """
function Chat(message: string) -> string {
  client Model
  prompt #"client<llm> InPrompt { {{ message }} env.IN_PROMPT }"#
}
function Short(message: string) -> string { client "openai/gpt-5" prompt #"{{ message }}"# }
client<llm>Last{provider openai options{model "last"}}
""",
}
ASKED = Turn("Chat", "Is large-1 good?", (), (), Session("s", "u", None, "Chat", {}), "u", model="big-2")


def test_clients_are_those_of_the_sources() -> None:
    clients = ModelClients(SOURCES)
    assert set(clients.names) == {"Model", "Large", "Both", "Last"}
    assert set(clients.models) == {"large-1", "last"}


@pytest.mark.parametrize(
    ("name", "env", "missing"),
    [
        ("Model", {}, {"LLM_BASE_URL", "LLM_MODEL"}),
        ("Model", {"LLM_BASE_URL": " ", "LLM_MODEL": "m"}, {"LLM_BASE_URL"}),
        ("Large", {"LARGE_KEY": "k"}, set()),
        ("Both", {"LLM_MODEL": "m"}, {"LLM_BASE_URL", "LARGE_KEY"}),
        ("Last", {}, set()),
        ("openai/gpt-5", {}, set()),
    ],
)
def test_variables_of_a_client_are_those_that_it_and_its_members_read(
    monkeypatch: pytest.MonkeyPatch, name: str, env: dict[str, str], missing: set[str]
) -> None:
    for variable in ("LLM_BASE_URL", "LLM_MODEL", "LARGE_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert set(ModelClients(SOURCES).missing(name, env)) == missing


def test_variables_of_functions_are_those_of_their_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_BASE_URL", raising=False)
    assert ModelClients(SOURCES).missing_of_functions({"LLM_MODEL": "m"}) == {"LLM_BASE_URL": "clients.baml"}


def test_shipped_client_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("LLM_API_KEY", "LLM_BASE_URL", "LLM_MODEL")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    shipped = ModelClients({file: (ROOT / "baml_src" / file).read_text() for file in ("clients.baml", "chat.baml")})
    assert list(shipped.names) == ["Model"]
    assert set(shipped.missing_of_functions({})) == set(names)


@pytest.mark.parametrize("text", ["client<llm>", "client<llm> X", "client<llm> X {", "}{", "function F(", ""])
def test_broken_source_has_no_client_that_works(text: str) -> None:
    assert ModelClients({"a.baml": text}).missing("X", {}) == {}


def test_model_that_was_chosen_or_is_in_the_sources_is_named_though_the_question_names_it() -> None:
    assert known_model("big-2", ASKED, {}) == "big-2"
    assert known_model("large-1", ASKED, {}) is None
    assert known_model("large-1", ASKED, {}, ["large-1"]) == "large-1"
    assert known_model("large-1-20261201", ASKED, {}, ["large", "large-1"]) == "large-1"
