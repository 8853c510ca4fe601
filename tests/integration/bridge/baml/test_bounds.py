"""Replies without an end, or larger than is good: the call ends, and so does the provider's connection."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from bridge.baml import client as client_room
from bridge.baml import functions as functions_room
from bridge.baml import running as running_room
from bridge.baml.client import Call
from bridge.errors import AnswerTooLong, BadOutput
from bridge.functions import Functions
from bridge.model import Completion, Partial
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import collect, fail, turn
from tests.support import wire
from tests.support.raw_provider import RawProvider, Refusal, Sent
from tests.support.waiting import turns_of_the_loop, until

MIB = 1 << 20


def endless(delta: dict[str, Any], *before: dict[str, Any]) -> Sent:
    """A stream of the same delta, again and again."""
    first = [json.dumps(wire.chunk(one)) for one in before]
    return Sent(itertools.chain(first, itertools.repeat(json.dumps(wire.chunk(delta)))))


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_room, "HELD_BYTES", 2 * MIB)


async def finish(functions: Functions, message: str, function: str) -> Completion:
    _, completion = await asyncio.wait_for(collect(functions, turn(message, function)), 60)
    return completion


async def disconnected(provider: RawProvider) -> None:
    await until(lambda: provider.open == 0, 10, 0.01)


async def test_endless_text_is_kept_and_marked_as_truncated(
    provider_functions: Functions, provider: RawProvider
) -> None:
    provider.answers = [endless({"content": "word " * 2000})]
    completion = await finish(provider_functions, "hello", "TextChat")
    assert completion.is_truncated
    assert len(completion.text) > 1_000_000
    assert set(completion.text.split(" ")) == {"word", ""}
    await disconnected(provider)


@pytest.mark.parametrize(
    "delta", [{"content": ""}, {}, {"reasoning_content": "hm" * 50}], ids=["empty", "none", "thoughts"]
)
async def test_endless_stream_without_text_ends(
    provider_functions: Functions, provider: RawProvider, small_bounds: None, delta: dict[str, Any]
) -> None:
    provider.answers = [endless(delta)]
    failure = await asyncio.wait_for(fail(provider_functions, "hello", "TextChat"), 30)
    assert isinstance(failure, AnswerTooLong)
    assert failure.code == "model_length"
    failure = await asyncio.wait_for(fail(provider_functions, "hello", "NoteChat"), 30)
    assert isinstance(failure, BadOutput)
    assert failure.code == "model_output"
    await disconnected(provider)


async def test_text_before_endless_thoughts_is_kept(
    provider_functions: Functions, provider: RawProvider, small_bounds: None
) -> None:
    provider.answers = [endless({"reasoning_content": "hm"}, {"content": "Hello"})]
    completion = await finish(provider_functions, "hello", "TextChat")
    assert (completion.text, completion.is_truncated) == ("Hello", True)
    await disconnected(provider)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1,", "it is nested more than 64 deep"),
        ("[]," * 3, "it has more than 5,000 objects"),
        ("a" * 500, "it is longer than 1,000,000 characters"),
    ],
    ids=["deep", "wide", "long"],
)
async def test_endless_structure_ends_as_soon_as_it_is_hopeless(
    provider_functions: Functions, provider: RawProvider, content: str, problem: str
) -> None:
    provider.answers = [endless({"content": content})]
    failure = await asyncio.wait_for(fail(provider_functions, "hello", "NoteChat"), 30)
    assert (failure.code, failure.retryable) == ("model_output", True)
    assert failure.detail == problem
    await disconnected(provider)


async def test_largest_of_all_replies_ends_first(
    provider_functions: Functions, provider: RawProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_room, "HELD_BY_ALL", 2 * MIB)
    monkeypatch.setattr(client_room, "HELD_BYTES", 1 << 60)
    ended = asyncio.Event()

    async def waiting() -> AsyncIterator[str]:
        first, *rest = wire.answered("chat").events
        yield wire.encode(first)
        await ended.wait()
        for event in rest:
            yield wire.encode(event)

    provider.answers_to = {
        "large": [endless({"reasoning_content": "hm" * 500}, {"content": "Hello"})],
        "small": [Sent(waiting())],
    }
    small = asyncio.create_task(finish(provider_functions, "small", "TextChat"))
    large = await finish(provider_functions, "large", "TextChat")
    assert (large.text, large.is_truncated) == ("Hello", True)
    ended.set()
    completion = await small
    assert (completion.text, completion.is_truncated) == ("Hello", False)


async def test_event_that_is_too_long_is_not_read(
    provider_functions: Functions, provider: RawProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_room, "LONGEST_EVENT", 2000)
    provider.answers = [Sent([wire.encode(event) for event in wire.answered("chat", ["a" * 3000]).events])]
    failure = await fail(provider_functions, "hello", "TextChat")
    assert (failure.code, failure.retryable) == ("model_cut", True)
    assert failure.detail == "an event is longer than 2,000 characters"


async def test_body_that_is_too_long_is_not_read(
    provider_functions: Functions, provider: RawProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_room, "BODY_BYTES", 2000)
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    message = {"role": "assistant", "content": "a" * 3000}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    provider.answers = [Refusal(200, json.dumps({**whole, "choices": choices}))]
    failure = await fail(provider_functions, "hello", "TextWhole")
    assert (failure.code, failure.retryable) == ("model_length", False)


async def test_many_events_are_read_in_slices(
    provider_functions: Functions, provider: RawProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No look takes longer than one event; all are read in the end."""
    monkeypatch.setattr(client_room, "READ_SLICE", 0.0)
    events = [wire.encode(event) for event in wire.answered("chat", ["word "] * 30).events]
    provider.answers = [Sent(events, at_once=True)]
    read: list[int] = []
    reading = Call._read

    def counted(call: Call) -> bool:
        before = sum(answer.events for answer in call._answers.values())
        found = reading(call)
        read.append(sum(answer.events for answer in call._answers.values()) - before)
        return found

    monkeypatch.setattr(Call, "_read", counted)
    completion = await finish(provider_functions, "hello", "TextChat")
    assert completion.text == "word " * 30
    assert max(read) == 1


async def test_structure_that_waits_to_be_parsed_shows_signs_of_life(
    provider_functions: Functions, provider: RawProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions_room, "SIGN_SECONDS", 0.01)
    answer = json.dumps({"reply": "Hello", "tags": ["a"] * 1000})
    provider.answers = [Sent([wire.encode(event) for event in wire.answered("chat", [answer]).events])]
    turns = provider_functions._baml._running.parsing
    async with asyncio.timeout(30), aclosing(provider_functions.run(turn("hello", "NoteChat"))) as pieces:
        async with turns.turn(0):
            signs: list[Partial] = []
            async for piece in pieces:
                assert isinstance(piece, Partial)
                signs += [piece] if turns._waiting else []
                if len(signs) == 3:
                    break
            assert signs[-1].has_begun
            assert signs[-1].usage.output_tokens == 5  # which the provider reported last
            assert provider_functions._baml._running.held == 0  # its events are not kept meanwhile
        completion = [piece async for piece in pieces][-1]
    assert isinstance(completion, Completion)
    assert completion.data["tags"] == ["a"] * 1000


async def test_structure_that_waits_to_be_parsed_can_be_cancelled(
    provider_functions: Functions, provider: RawProvider
) -> None:
    answer = json.dumps({"reply": "Hello", "tags": ["a"] * 1000})
    provider.answers = [Sent([wire.encode(event) for event in wire.answered("chat", [answer]).events])]
    turns = provider_functions._baml._running.parsing
    async with turns.turn(0):
        task = asyncio.create_task(finish(provider_functions, "hello", "NoteChat"))
        await until(lambda: bool(turns._waiting), 20, 0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [waiter.cancelled() for _, _, waiter in turns._waiting] == [True]


async def test_replies_that_come_at_once_are_read_in_turns_of_the_loop(
    provider_functions: Functions, provider: RawProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a crowd of large replies would hold up the loop for the sum of their shares."""
    monkeypatch.setattr(running_room, "READ_TURN", 0.0)
    read: list[int] = []
    reading = Call._read

    def noted(call: Call) -> bool:
        read.append(number())
        return reading(call)

    monkeypatch.setattr(Call, "_read", noted)
    events = [wire.encode(event) for event in wire.answered("chat", ["word "] * 30).events]
    provider.answers = [Sent(events, at_once=True) for _ in range(8)]
    with turns_of_the_loop() as number:
        await asyncio.gather(*(finish(provider_functions, "hello", "TextChat") for _ in range(8)))
    assert len(read) >= 8
    assert len(read) == len(set(read))


async def test_quiet_stream_is_not_looked_at(
    functions: Functions, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    reading = Call._read

    def counted(call: Call) -> bool:
        nonlocal looks
        looks += 1
        return reading(call)

    monkeypatch.setattr(Call, "_read", counted)
    task = asyncio.create_task(collect(functions, turn("[[tokens=9 hold=3]]")))
    await model.until(lambda server: bool(server.requests) and server.requests[-1].sent == 3)
    await until(lambda: looks >= 2, 5, 0.01)
    await asyncio.sleep(0.3)  # the looks that follow the last event
    before = looks
    await asyncio.sleep(0.5)
    assert looks == before
    model.let_go(times=9)
    _, completion = await asyncio.wait_for(task, 20)
    assert completion.text.startswith("word00 word01 word02 word03 ")
    assert looks > before


async def test_endless_keep_alives_are_no_sign_of_life(provider_functions: Functions, provider: RawProvider) -> None:
    provider.answers = [Sent(itertools.repeat(": ping"))]
    pieces = provider_functions.run(turn("hello", "TextChat"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(pieces), 0.5)
    await disconnected(provider)
