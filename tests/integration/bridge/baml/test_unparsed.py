"""Copies of functions that return text: they ask for the same, and BAML parses nothing of the answer."""

import asyncio
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from baml_py import BamlRuntime

import baml_client
from bridge.baml.client import Client
from bridge.baml.unparsed import copy_unparsed
from bridge.errors import SetupError
from bridge.functions import Functions
from tests.integration.bridge.baml.calls import fail, variables
from tests.support import wire
from tests.support.raw_provider import RawProvider, Sent

ENV = {**os.environ, **variables("http://localhost/v1"), "FIRST_BASE_URL": "http://localhost/v1", "OPENAI_API_KEY": "k"}
GIVEN: dict[str, Any] = {"message": "hi", "messages": [], "files": []}

# What can stand in a function, and what could be taken for one.
UNUSUAL = r"""
// function Comment(message: string) -> Kind {
enum Kind {
  A @alias("an \"a\"") @description("has \"# and #} and {{ this }} and \\ back")
  B
}

class Deep {
  a string? @description(#"it's "quoted" }} { and
    two lines: é 😀"#)
  kind Kind
  values (int | "literal {" | string[])[]
  more map<string, Deep>
}

client<llm> Model {
  provider openai-generic
  options {
    base_url env.LLM_BASE_URL
    api_key env.LLM_API_KEY
    model "m"
  }
}

template_string Quoted(text: string) #"[{{ text }}]"#

function Constrained(message: string) -> Deep @check(known, {{ this.a == "}" }}) {
  client Model
  prompt ##"
    {{ _.role("system") }} "# {{ ctx.output_format(prefix="Answer (", always_hoist_enums=true) }} then
      {{ Quoted(message) }} {{ ctx . output_format }} // no comment
    {{ _.role("user") }}{{ message }}
  "##
}

function Kinds(message: string) -> Kind[] { client Model
  prompt #"{{message}}{{ctx.output_format}}"#
}

function Without(message: string) -> map<string, "a" | "}"> {
  client "openai/gpt-4o"
  prompt #"{{ message }}"#
}
"""


def body(runtime: BamlRuntime, name: str, given: Mapping[str, Any]) -> str:
    context = runtime.create_context_manager()
    return runtime.build_request_sync(name, dict(given), context, None, None, ENV, True).body.text()


def assert_same_requests(sources: Mapping[str, str], functions: Mapping[str, Mapping[str, Any]]) -> None:
    unparsed = copy_unparsed(sources, list(functions), list(functions))
    runtime = BamlRuntime.from_files("baml_src", dict(sources), ENV)
    for name, given in functions.items():
        assert unparsed.names[name] != name
        assert body(unparsed.runtime, unparsed.names[name], given) == body(runtime, name, given)


def test_copies_send_the_same_requests(other_client: ModuleType, provider_client: ModuleType) -> None:
    assert_same_requests(Client(baml_client).sources, {"Code": GIVEN, "Compare": GIVEN})
    asked = {"message": "hi"}
    assert_same_requests(Client(other_client).sources, dict.fromkeys(("MakePlan", "List", "Tags", "Rate"), asked))
    names = ("NoteChat", "NoteResponses", "NoteAnthropic", "NoteGemini", "NoteChecked", "TextChecked")
    assert_same_requests(Client(provider_client).sources, dict.fromkeys(names, asked))


def test_unusual_functions_are_copied() -> None:
    asked = {"message": "hi"}
    assert_same_requests({"unusual.baml": UNUSUAL}, dict.fromkeys(("Constrained", "Kinds", "Without"), asked))


def test_output_format_with_a_variable_is_a_setup_error() -> None:
    source = UNUSUAL.replace('prefix="Answer ("', "prefix=message")
    with pytest.raises(SetupError) as caught:
        copy_unparsed({"unusual.baml": source}, ["Constrained"], ["Constrained"])
    assert caught.value.problem.startswith("The output format of Constrained cannot be rendered (")
    assert "\n" not in caught.value.problem
    assert "ctx.output_format" in caught.value.remedy


@pytest.mark.parametrize("text", ["[" * 1000, '{"reply":' * 100_000], ids=["brackets", "objects"])
async def test_answer_that_arrives_with_its_end_is_not_parsed_by_baml(
    provider_functions: Functions, provider: RawProvider, text: str
) -> None:
    # Its parser would end this process, at once or after it took all memory.
    events = [wire.encode(event) for event in wire.answered("chat", [text]).events]
    provider.answers = [Sent(events, at_once=True)]
    for _ in range(5):
        failure = await asyncio.wait_for(fail(provider_functions, "hello", "NoteChat"), 20)
        assert (failure.code, failure.retryable) == ("model_output", True)
        assert failure.detail == "it is nested more than 64 deep"
