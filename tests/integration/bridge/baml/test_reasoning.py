"""What models think, through BAML and over HTTP, in every format."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import ModuleType

import pytest

from bridge.baml.client import Client
from bridge.functions import Functions
from bridge.model import Completion, Partial, Turn
from tests.integration.bridge.baml.calls import turn, variables
from tests.support import wire
from tests.support.raw_provider import RawProvider, Refusal, Sent
from tests.support.wire import Format, Stream

NAMES = {"chat": "Chat", "responses": "Responses", "anthropic": "Anthropic", "gemini": "Gemini"}
every_format = pytest.mark.parametrize("format_", wire.FORMATS)


@pytest.fixture
async def showing(provider_client: ModuleType, provider: RawProvider) -> AsyncIterator[Functions]:
    """The functions of provider_functions.baml, with what their models think."""
    env = variables(provider.url) | {"FIRST_BASE_URL": provider.url, "BEDROCK_URL": provider.url}
    names = list(Client(provider_client).methods)
    loaded = Functions.load(names, client=provider_client, env=env, shows_reasoning=True)
    yield loaded
    await loaded.close()


async def run(functions: Functions, asked: Turn) -> tuple[str, Completion]:
    """The reasoning of all partials, and the completion."""
    pieces = [piece async for piece in functions.run(asked)]
    completion = pieces.pop()
    assert isinstance(completion, Completion)
    return "".join(piece.reasoning for piece in pieces if isinstance(piece, Partial)), completion


def thinking(format_: Format, text: str) -> Sent:
    stream = Stream(format_)
    stream.open()
    stream.think("Is it so? ")
    stream.sign()
    stream.think("It is.")
    stream.say(text)
    stream.end(wire.GOOD[format_][0])
    stream.close()
    return Sent([wire.encode(event) for event in stream.events])


@every_format
@pytest.mark.parametrize(("kind", "text"), [("Text", "Hello"), ("Note", '{"reply": "Hello", "tags": []}')])
async def test_reasoning_is_apart_from_the_reply(
    showing: Functions, provider_functions: Functions, provider: RawProvider, format_: Format, kind: str, text: str
) -> None:
    for functions, shown in ((showing, "Is it so? It is."), (provider_functions, "")):
        provider.answers = [thinking(format_, text)]
        reasoning, completion = await run(functions, turn("hi", f"{kind}{NAMES[format_]}"))
        assert (reasoning, completion.text, completion.thought) == (shown, "Hello", len("Is it so? It is."))


async def test_reasoning_in_tags_is_shown_apart(showing: Functions, provider: RawProvider) -> None:
    stream = wire.answered("chat", ["<think>\nIs it", " so?\n</th", "ink>\n\nHel", "lo"])
    provider.answers = [Sent([wire.encode(event) for event in stream.events])]
    reasoning, completion = await run(showing, turn("hi", "TextChat"))
    assert (reasoning, completion.text) == ("Is it so?", "Hello")


async def test_reasoning_of_a_client_that_does_not_stream_is_shown(showing: Functions, provider: RawProvider) -> None:
    message = {"role": "assistant", "content": "Hello", "reasoning_content": "Is it so?"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt", "usage": None, "choices": choices}
    provider.answers = [Refusal(200, json.dumps(body))]
    reasoning, completion = await run(showing, turn("hi", "TextWhole"))
    assert (reasoning, completion.text) == ("Is it so?", "Hello")
