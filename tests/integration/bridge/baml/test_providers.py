"""What real providers do to a reply, through BAML and over HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from bridge.errors import ContextTooLong, ModelRefused, ModelUnavailable, TurnFailure
from bridge.functions import Functions
from bridge.model import CodeFile, Message
from tests.integration.bridge.baml.calls import collect, turn
from tests.support import wire
from tests.support.raw_provider import RawProvider, Refusal, Sent, frame
from tests.support.wire import Event, Format, Stream, answered

NAMES = {"chat": "Chat", "responses": "Responses", "anthropic": "Anthropic", "gemini": "Gemini"}
every_format = pytest.mark.parametrize("format_", wire.FORMATS)


def sent(stream: Stream, *, is_cut: bool = False, stays_open: bool = False) -> Sent:
    return Sent([wire.encode(event) for event in stream.events], is_cut, stays_open)


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_answer_of_a_fallback_is_that_of_the_call_that_gave_it(
    provider_functions: Functions, provider: RawProvider, first_provider: RawProvider, status: int
) -> None:
    first_provider.answers = [Refusal(status)]
    provider.answers = [sent(answered("chat"))]
    for _ in range(20):
        _, completion = await collect(provider_functions, turn("hi", "TextFallback"))
        assert (completion.text, completion.usage.output_tokens, completion.usage.model) == ("Hello", 5, "gpt")


async def test_whole_answer_needs_no_fallback(
    provider_functions: Functions, provider: RawProvider, first_provider: RawProvider
) -> None:
    """BAML asks the next client if it cannot read the last event; the whole answer is there already."""
    stream = answered("chat", ["first"])
    stream.events[-1] = '{"choices": null}'
    first_provider.answers = [sent(stream)]
    provider.answers = [sent(answered("chat", ["second"]))]
    for _ in range(10):
        _, completion = await collect(provider_functions, turn("hi", "TextFallback"))
        assert completion.text == "first"


async def test_answer_after_a_retry_of_baml_is_read(provider_functions: Functions, provider: RawProvider) -> None:
    for _ in range(10):
        provider.answers = [Refusal(500), Refusal(500), sent(answered("chat"))]
        _, completion = await collect(provider_functions, turn("hi", "TextRetrying"))
        assert completion.text == "Hello"


@every_format
@pytest.mark.parametrize("kind", ["Text", "Note"])
async def test_thinking_is_a_sign_of_life(
    provider_functions: Functions, provider: RawProvider, format_: Format, kind: str
) -> None:
    stream = Stream(format_)
    stream.open()
    stream.think("hm")
    provider.answers = [sent(stream, stays_open=True)]
    async with aclosing(provider_functions.run(turn("hi", f"{kind}{NAMES[format_]}"))) as pieces:
        async with asyncio.timeout(5):
            async for piece in pieces:
                if piece.has_begun:  # type: ignore[union-attr]  # no completion comes
                    break
        assert piece.text == ""


@every_format
async def test_first_event_alone_does_not_begin_the_answer(
    provider_functions: Functions, provider: RawProvider, format_: Format
) -> None:
    stream = Stream(format_)
    stream.open()
    if format_ == "gemini":
        stream.add({"candidates": [], "usageMetadata": {"promptTokenCount": 7}, "modelVersion": "gemini"})
    provider.answers = [sent(stream, stays_open=True)]
    async with aclosing(provider_functions.run(turn("hi", f"Text{NAMES[format_]}"))) as pieces:
        async with asyncio.timeout(5):
            assert not (await anext(pieces)).has_begun  # type: ignore[union-attr]  # no completion comes


@every_format
async def test_whole_answer_ends_although_the_stream_stays_open(
    provider_functions: Functions, provider: RawProvider, format_: Format
) -> None:
    stream = answered(format_)
    stream.events = [event for event in stream.events if event != "[DONE]"]
    provider.answers = [sent(stream, stays_open=True)]
    async with asyncio.timeout(15):
        _, completion = await collect(provider_functions, turn("hi", f"Text{NAMES[format_]}"))
    assert completion.text == "Hello"


@every_format
async def test_structure_is_parsed_from_the_whole_answer(
    provider_functions: Functions, provider: RawProvider, format_: Format
) -> None:
    pieces = ['<think>{"reply": 1}</think>{"reply": "Stra\\u00df', 'e \\"}\\"", ', '"tags": ["a",],}']
    provider.answers = [sent(answered(format_, pieces))]
    _, completion = await collect(provider_functions, turn("hi", f"Note{NAMES[format_]}"))
    assert (completion.text, completion.data["tags"]) == ('Straße "}"', ["a"])
    for reason in (*wire.BAD[format_], *wire.TOO_LONG[format_]):
        provider.answers = [sent(answered(format_, pieces, reason))]
        with pytest.raises(TurnFailure):
            await collect(provider_functions, turn("hi", f"Note{NAMES[format_]}"))


async def test_value_inside_of_a_check_is_the_text(provider_functions: Functions, provider: RawProvider) -> None:
    provider.answers = [sent(answered("chat", ['{"reply": "Hello", ', '"tags": []}']))]
    _, completion = await collect(provider_functions, turn("hi", "NoteChecked"))
    assert completion.text == "Hello"
    provider.answers = [sent(answered("chat", ["Hello"]))]
    _, completion = await collect(provider_functions, turn("hi", "TextChecked"))
    assert completion.text == "Hello"
    half = Stream("chat")
    half.say('{"reply": "Hel')
    provider.answers = [sent(half, stays_open=True)]
    async with aclosing(provider_functions.run(turn("hi", "NoteChecked"))) as pieces:
        async with asyncio.timeout(5):
            async for piece in pieces:
                if piece.text:
                    break
    assert piece.text == "Hel"


async def test_client_that_does_not_stream_is_read_too(provider_functions: Functions, provider: RawProvider) -> None:
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt", "usage": None}
    for message, reason, code in (
        ({"role": "assistant", "content": "Hello"}, "stop", None),
        ({"role": "assistant", "content": None, "refusal": "No, thanks."}, "stop", "model_filtered"),
        ({"role": "assistant", "content": "Hel"}, "error", "model_cut"),
    ):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        provider.answers = [Refusal(200, json.dumps(body | {"choices": [choice]}))]
        if code is None:
            _, completion = await collect(provider_functions, turn("hi", "TextWhole"))
            assert completion.text == "Hello"
        else:
            with pytest.raises(TurnFailure) as caught:
                await collect(provider_functions, turn("hi", "TextWhole"))
            assert caught.value.code == code


@pytest.mark.parametrize(
    ("refusal", "kind", "code"),
    [
        (Refusal(400, '{"error": {"code": "content_filter", "message": "filtered"}}'), ModelRefused, "model_filtered"),
        (Refusal(200, '{"choices": []}'), ModelUnavailable, "model_cut"),
        (Refusal(400, '{"error": {"code": "context_length_exceeded"}}'), ContextTooLong, "model_context"),
    ],
)
async def test_refused_request_has_its_code(
    provider_functions: Functions, provider: RawProvider, refusal: Refusal, kind: type[TurnFailure], code: str
) -> None:
    provider.answers = [refusal]
    with pytest.raises(kind) as caught:
        await collect(provider_functions, turn("hi", "TextChat"))
    assert caught.value.code == code
    assert len(provider.requests) == 1


async def test_conversation_that_is_too_long_is_shortened(provider_functions: Functions, provider: RawProvider) -> None:
    """The oldest messages go first, then files; a question that is too long by itself is refused with a sentence."""
    said = tuple(Message("user" if n % 2 == 0 else "assistant", f"message{n} ") for n in range(16))
    files = (CodeFile("a.txt", "aaa"), CodeFile("b.txt", "b" * 50))
    asked = turn("the question", "Remembering", said, files)
    too_long = Refusal(400, '{"error": {"message": "prompt is too long: 9 tokens > 8 maximum"}}')
    in_stream: list[Event] = [{"error": {"code": "context_length_exceeded", "message": "too long"}}]
    provider.answers = [too_long, Sent([wire.encode(event) for event in in_stream]), sent(answered("chat"))]
    _, completion = await collect(provider_functions, asked)
    assert completion.text == "Hello"
    first, second, third = provider.requests
    assert "message0" in first
    assert "message7" not in second
    assert "message12" in second
    assert "message11" not in third
    assert "message15" in third
    assert "bbb" in third
    provider.answers, provider.requests = [too_long], []
    with pytest.raises(ContextTooLong) as caught:
        await collect(provider_functions, asked)
    assert caught.value.message == "The conversation is too long for the model. Start a new session, or send less text."
    assert len(provider.requests) <= 9
    assert "the question" in provider.requests[-1]
    assert "aaa" not in provider.requests[-1]
    assert "message" not in provider.requests[-1].partition("messages")[2]


def bedrock(*pieces: str, reason: str | None = "end_turn") -> list[bytes]:
    deltas = [{"contentBlockIndex": 1, "delta": {"text": piece}} for piece in pieces]
    thought = {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}
    frames = [frame("messageStart", {"role": "assistant"}), frame("contentBlockDelta", thought)]
    frames += [frame("contentBlockDelta", delta) for delta in deltas]
    if reason is not None:
        frames.append(frame("messageStop", {"stopReason": reason}))
        usage = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
        frames.append(frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
    return frames


async def test_bedrock_is_read_as_baml_keeps_it(provider_functions: Functions, provider: RawProvider) -> None:
    """If this fails after an upgrade, BAML writes Bedrock's events down differently: see `bridge.baml.events`."""
    odd = "H\"e\\l\n\t\r\x1b ß😀\u200b'"
    provider.answers = [Sent(frames=bedrock(odd, "lo"))]
    _, completion = await collect(provider_functions, turn("hi", "TextBedrock"))
    assert (completion.text, completion.usage.input_tokens, completion.usage.output_tokens) == (f"{odd}lo", 3, 4)
    provider.answers = [Sent(frames=bedrock('{"reply": "Str', 'a\\u00dfe", "tags": [],}'))]
    _, completion = await collect(provider_functions, turn("hi", "NoteBedrock"))
    assert completion.text == "Straße"
    for ends, code in (
        (bedrock("Hel", reason=None), "model_cut"),
        (bedrock("Hel", reason="malformed_model_output"), "model_cut"),
        (bedrock("Hel", reason="guardrail_intervened"), "model_filtered"),
        (bedrock(), "model_empty"),
        ([*bedrock("Hel", reason=None), frame("throttlingException", {"message": "slow"}, "exception")], "model_cut"),
    ):
        provider.answers = [Sent(frames=ends)]
        with pytest.raises(TurnFailure) as caught:
            await collect(provider_functions, turn("hi", "TextBedrock"))
        assert caught.value.code == code
    provider.answers = [Sent(frames=bedrock("Hel", reason="max_tokens"))]
    _, completion = await collect(provider_functions, turn("hi", "TextBedrock"))
    assert (completion.text, completion.is_truncated) == ("Hel", True)
