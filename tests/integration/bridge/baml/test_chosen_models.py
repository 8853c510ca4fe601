"""The model that a user has chosen answers in place of the function's own, if it is a client in baml_src."""

from __future__ import annotations

import json
from dataclasses import replace
from types import ModuleType

import pytest

from bridge.baml.client import Client
from bridge.errors import ModelNotSetUp, TurnFailure, UnknownModel
from bridge.functions import Functions
from tests.integration.bridge.baml.calls import collect, turn, variables
from tests.support import wire
from tests.support.raw_provider import RawProvider, Sent
from tests.support.wire import answered

HELLO = Sent([wire.encode(event) for event in answered("chat").events])
NOTE = Sent([wire.encode(event) for event in answered("chat", ['{"reply": "Hello", "tags": []}']).events])


@pytest.mark.parametrize(("function", "sent"), [("TextChat", HELLO), ("NoteChat", NOTE), ("TextFallback", HELLO)])
async def test_chosen_model_is_asked(
    provider_functions: Functions, provider: RawProvider, first_provider: RawProvider, function: str, sent: Sent
) -> None:
    first_provider.answers = [sent]
    _, completion = await collect(provider_functions, replace(turn("hi", function), model="First_"))
    assert (completion.text, completion.usage.model) == ("Hello", "gpt")
    assert json.loads(first_provider.requests[-1])["model"] == "first"
    assert not provider.requests


async def test_chosen_model_of_another_format_is_asked(provider_functions: Functions, provider: RawProvider) -> None:
    provider.answers = [Sent([wire.encode(event) for event in answered("anthropic").events])]
    _, completion = await collect(provider_functions, replace(turn("hi", "TextChat"), model="Anthropic_"))
    assert (completion.text, completion.usage.model) == ("Hello", "claude")


@pytest.mark.parametrize("name", ["openai/gpt-5", "Nonesuch", "", "chat_", "TextChat"])
async def test_model_that_is_no_client_is_refused_before_anything_is_sent(
    provider_functions: Functions,
    provider: RawProvider,
    first_provider: RawProvider,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    provider.answers = [HELLO]
    with pytest.raises(UnknownModel) as caught:
        await collect(provider_functions, replace(turn("hi", "TextChat"), model=name))
    assert caught.value.code == "unknown_model"
    assert not [*provider.requests, *first_provider.requests]


async def test_missing_variable_fails_only_questions_for_its_model(
    provider_client: ModuleType, provider: RawProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIRST_BASE_URL", raising=False)
    names = [name for name in Client(provider_client).methods if name != "TextFallback"]
    functions = Functions.load(names, client=provider_client, env=variables(provider.url))
    provider.answers = [HELLO]
    try:
        with pytest.raises(TurnFailure) as caught:
            await collect(functions, replace(turn("hi", "TextChat"), model="First_"))
        assert (type(caught.value), caught.value.code) == (ModelNotSetUp, "model_setup")
        assert "FIRST_BASE_URL" in caught.value.detail
        _, completion = await collect(functions, turn("hi", "TextChat"))
        assert completion.text == "Hello"
    finally:
        await functions.close()
