"""What providers did to replies, by example, in every format that can have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.baml.answer import Answer, without_reasoning
from bridge.baml.events import read_event
from bridge.errors import AnswerTooLong, ContextTooLong, ModelRefused, ModelUnavailable, TurnFailure
from bridge.model import Usage
from tests.support import wire
from tests.support.wire import Event, Format, Stream, answered

every_format = pytest.mark.parametrize("format_", wire.FORMATS)
CUT = ModelUnavailable("model_cut", "The model's answer was cut off.")


def read(events: list[Event]) -> Answer:
    answer = Answer()
    for event in events:
        read_event(answer, wire.encode(event))
    return answer


def judge(stream: Stream, broken: TurnFailure | None = None, *, is_text: bool = True) -> TurnFailure | None:
    return read(stream.events).judge(broken, is_text=is_text)


@every_format
def test_whole_answer_is_read(format_: Format) -> None:
    stream = answered(format_, ["Hel", "lo"], thought="hm")
    answer = read(stream.events)
    assert (answer.text, answer.is_whole, answer.has_begun) == ("Hello", True, True)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 5)
    assert answer.usage.model in ("gpt", "claude", "gemini")
    assert judge(stream) is None
    assert judge(stream, is_text=False) is None


@every_format
def test_first_word_or_thought_begins_the_answer(format_: Format) -> None:
    stream = Stream(format_)
    stream.open()
    assert not read(stream.events).has_begun
    for begin, words in ((Stream.think, "hm"), (Stream.say, "word"), (Stream.call_tool, "{")):
        stream = Stream(format_)
        stream.open()
        begin(stream, words)
        assert read(stream.events).has_begun


@every_format
@pytest.mark.parametrize(
    "garbage", ['{"choices": [{"delta"', "upstream error", "<html>", '"text"', "{" * 5000, "9" * 5000 + "x"]
)
def test_unreadable_event_in_the_middle_is_a_failure(format_: Format, garbage: str) -> None:
    stream = Stream(format_)
    stream.open()
    stream.say("a = 10")
    stream.add(garbage)
    stream.say(" * rate")
    stream.end(wire.GOOD[format_][0], whole=False)
    failure = judge(stream)
    assert isinstance(failure, ModelUnavailable)
    assert failure.code == "model_cut"


def test_text_that_openai_repeats_mends_what_was_lost() -> None:
    stream = Stream("responses")
    stream.say("a = 10")
    lost = Stream("responses", stream.text)
    lost.add("{")
    lost.text = "a = 100 * rate"
    lost.end("completed")
    assert read(lost.events).text == "a = 100 * rate"
    assert judge(lost) is None


@every_format
def test_error_in_the_middle_is_not_swallowed(format_: Format) -> None:
    stream = Stream(format_)
    stream.open()
    stream.say("half")
    stream.fail()
    stream.end(wire.GOOD[format_][0])
    failure = judge(stream)
    assert failure is not None
    assert failure.code == "model_unavailable"


@every_format
def test_whole_answer_survives_whatever_follows_it(format_: Format) -> None:
    tails: tuple[Event, ...] = (
        "{",
        "[DONE]",
        {"choices": None},
        {"error": {"message": "async filter"}},
        {"choices": [{"index": 0}]},
    )
    for tail in tails:
        stream = Stream(format_)
        stream.open()
        stream.say("whole")
        stream.end(wire.GOOD[format_][0])
        stream.add(tail)
        assert judge(stream, CUT) is None
        assert judge(stream, CUT, is_text=False) is None


@every_format
def test_only_ends_that_are_known_to_be_good_are_good(format_: Format) -> None:
    for reason in wire.GOOD[format_]:
        assert judge(answered(format_, reason=reason), is_text=False) is None, reason
    for bad in wire.BAD[format_]:
        for is_text in (True, False):
            failure = judge(answered(format_, reason=bad), is_text=is_text)
            assert isinstance(failure, ModelUnavailable), bad
    for reason in wire.REFUSED[format_]:
        failure = judge(answered(format_, reason=reason))
        assert isinstance(failure, ModelRefused), reason
        assert failure.code == "model_filtered"
    for reason in wire.TOO_LONG[format_]:
        assert judge(answered(format_, reason=reason)) is None, reason
        assert read(answered(format_, reason=reason).events).is_truncated
        assert isinstance(judge(answered(format_, reason=reason), is_text=False), AnswerTooLong), reason


@every_format
def test_end_of_stream_without_a_reason_is_a_cut(format_: Format) -> None:
    stream = Stream(format_)
    stream.open()
    stream.say("half")
    stream.close()  # also with OpenAI's [DONE]
    failure = judge(stream)
    assert failure is not None
    assert failure.code == "model_cut"


@every_format
def test_answer_without_a_word_is_empty(format_: Format) -> None:
    for fill, words in (
        (Stream.say, ""),
        (Stream.think, "hm"),
        (Stream.call_tool, "{}"),
        (Stream.say, " \n"),
        (Stream.say, "<think>and no more</think>\n"),
        (Stream.say, "<think>for ever"),
    ):
        stream = Stream(format_)
        stream.open()
        fill(stream, words)
        stream.end(wire.GOOD[format_][0])
        for is_text in (True, False):
            failure = judge(stream, is_text=is_text)
            assert isinstance(failure, ModelUnavailable)
            assert failure.code == "model_empty"
            assert failure.retryable


@pytest.mark.parametrize("format_", ["chat", "responses"])
def test_words_of_a_refusal_are_shown(format_: Format) -> None:
    stream = Stream(format_)
    stream.open()
    stream.refuse("I would rather ")
    stream.refuse("not.")
    stream.end(wire.GOOD[format_][0])
    failure = judge(stream)
    assert isinstance(failure, ModelRefused)
    assert (failure.code, failure.message) == ("model_filtered", "I would rather not.")


def test_blocked_prompt_of_gemini_is_a_refusal() -> None:
    for reason in ("SAFETY", "OTHER", "JAILBREAK", "A_REASON_OF_NEXT_YEAR"):
        failure = read([{"promptFeedback": {"blockReason": reason}}]).judge(CUT, is_text=True)
        assert isinstance(failure, ModelRefused)


def chat(delta: Any, **choice: Any) -> Event:
    return wire.chunk(delta) | {"choices": [{"index": 0, "delta": delta, **choice}]}


@pytest.mark.parametrize(
    "event",
    [
        chat({"content": "lo"}),
        chat({"role": "", "content": "lo"}),
        chat({"content": [{"type": "text", "text": "lo"}]}),
        chat({"content": ["l", "o"]}),
        chat({"content": {"type": "text", "text": {"value": "lo"}}}),
        chat(
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "lo"},
                ]
            }
        ),
        chat({"content": "lo"}, text="lo"),
        chat({"content": "lo"}, message={"content": "Hello"}),
        chat({}, text="lo"),
        chat(None, text="lo"),
        {"choices": [{"delta": {"content": "lo"}}], "created": "1", "usage": {"prompt_tokens": 1.5}, "model": None},
        {"choices": {"delta": {"content": "lo"}}},
        [chat({"content": "lo"})],
        "\ufeff" + json.dumps(chat({"content": "lo"})),
    ],
)
def test_text_of_a_chat_dialect_is_found(event: Any) -> None:
    answer = read([chat({"content": "Hel"}), event if isinstance(event, str) else json.dumps(event)])
    assert (answer.text, answer.lost) == ("Hello", None)


@pytest.mark.parametrize("content", [True, {"a": "b"}, [{"a": "b"}], [[{"a": 1}]]])
def test_content_in_no_known_form_is_lost(content: Any) -> None:
    assert read([chat({"content": content})]).lost is not None


def test_whole_answer_in_one_body_is_read() -> None:
    for body in (
        {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]},
        {"object": "response", "status": "completed", "output": [wire.message("Hello")]},
        {
            "type": "message",
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": "end_turn",
            "role": "assistant",
        },
        [wire.candidate([{"text": "Hel"}]), wire.candidate([{"text": "lo"}], "STOP")],
    ):
        answer = read([json.dumps(body)])
        assert (answer.text, answer.is_whole) == ("Hello", True)


def test_message_that_begins_again_replaces_the_first() -> None:
    first, second = Stream("anthropic"), answered("anthropic", ["Hello"])
    first.open()
    first.say("Hel")
    again = json.loads(json.dumps(second.events))
    again[0]["message"]["id"] = "another"
    assert read([*first.events, *again]).text == "Hello"
    # the same message is only announced twice
    assert read([*first.events, first.events[0], *second.events[2:]]).text == "HelHello"
    assert read([*first.events, {"type": "ping", "message": {}}, *second.events[2:]]).text == "HelHello"


def test_every_message_of_a_response_is_part_of_the_answer() -> None:
    last = wire.response("completed") | {
        "output": [wire.message("I look. "), {"type": "reasoning"}, wire.message("Found.")]
    }
    assert read([{"type": "response.completed", "response": last}]).text == "I look. Found."


def test_repeated_delta_of_a_response_counts_once() -> None:
    stream = Stream("responses")
    stream.open()
    stream.say("ha")
    stream.events.append(stream.events[-1])
    stream.say("ha")
    stream.end("completed", whole=False)
    assert read(stream.events).text == "haha"
    unnumbered = [{**event, "sequence_number": 0} for event in stream.events if isinstance(event, dict)]
    assert read([*unnumbered]).text == "hahaha"


def test_recorded_shape_of_openrouter_is_an_error() -> None:
    """Two chunks end with `length`, then comes an error beside a chunk without a reason."""
    answer = read(
        [
            chat({"content": "half"}),
            chat({}, finish_reason="length"),
            chat({}, finish_reason="length"),
            {**wire.chunk({"content": ""}), "error": {"code": 400, "message": "Token limit reached"}},
            "[DONE]",
        ]
    )
    assert isinstance(answer.judge(None, is_text=True), ContextTooLong)


def test_native_refusal_is_believed() -> None:
    answer = read([chat({"content": "half"}), chat({}, finish_reason="stop", native_finish_reason="refusal")])
    assert isinstance(answer.judge(None, is_text=True), ModelRefused)


@pytest.mark.parametrize(
    ("event", "usage"),
    [
        (
            {
                "choices": [],
                "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}},
            },
            (9, 4, 3),
        ),
        ({"choices": [], "usage": {"prompt_tokens": 9.0, "completion_tokens": "4"}}, (9, 4, None)),
        ({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 354}}, (12, 342, None)),
        ({"choices": [{"usage": {"prompt_tokens": 9, "completion_tokens": 4}}]}, (9, 4, None)),
        ({"choices": [], "x_groq": {"usage": {"prompt_tokens": 9, "completion_tokens": 4}}}, (9, 4, None)),
        ({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1e300}}, (None, None, None)),
        (
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}},
            (9, 1, 8),
        ),
        ({"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 5}}, (9, 9, None)),
        (
            {
                "type": "message_delta",
                "delta": {},
                "usage": {"input_tokens": 2, "cache_read_input_tokens": 7, "output_tokens": 4},
            },
            (9, 4, 7),
        ),
    ],
)
def test_token_counts_are_read_in_every_form(event: Event, usage: tuple[int | None, ...]) -> None:
    assert read([event]).usage == Usage(None, *usage)


def test_later_count_of_zero_is_no_news() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}
    answer = read([start, {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 0, "output_tokens": 5}}])
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 5)


def test_bedrock_events_are_read() -> None:
    delta = "ContentBlockDelta(ContentBlockDeltaEvent {{ delta: Some({}), content_block_index: {} }})"
    stop = "MessageStop(MessageStopEvent {{ stop_reason: {}, additional_model_response_fields: None }})"
    said: list[Event] = [
        {"debug": "MessageStart(MessageStartEvent { role: Assistant })"},
        {"debug": delta.format("*** Sensitive Data Redacted ***", 0)},
        {"debug": delta.format(r"""Text("H\"e\\l\n\u{1b} ß\u{200b}'")""", 1)},
        {"debug": "Unknown"},
    ]
    for reason, code in (
        ("EndTurn", None), ("ToolUse", None), ("StopSequence", None), ("MaxTokens", None),
        ("GuardrailIntervened", "model_filtered"), ("ContentFiltered", "model_filtered"),
        ('Unknown(UnknownVariantValue("malformed_model_output"))', "model_cut"),
    ):  # fmt: skip
        answer = read([*said, {"debug": stop.format(reason)}])
        failure = answer.judge(None, is_text=True)
        assert (failure and failure.code) == code
        assert answer.text == "H\"e\\l\n\x1b ß\u200b'"
    assert isinstance(read(said).judge(None, is_text=True), ModelUnavailable)
    usage = "Metadata(ConverseStreamMetadataEvent { usage: Some(TokenUsage { input_tokens: 3, output_tokens: 4, "
    usage += "total_tokens: 7, cache_read_input_tokens: Some(2), cache_write_input_tokens: None }) })"
    assert read([{"debug": usage}]).usage == Usage(None, 5, 4, 2)


def texts(delta: dict[str, Any], **choice: Any) -> list[Event]:
    """Chunks that differ in their text alone."""
    return [chat({"content": text} | delta, **choice) for text in ("a", "b?", 'c"\\', "\U0001f600", "a")]


@pytest.mark.parametrize(
    "events",
    [
        texts({}),
        texts({"role": "assistant"}, logprobs=None, finish_reason=None),
        texts({"reasoning": "hm", "refusal": "no"}),
        texts({"tool_calls": [{"index": 0}]}),
        texts({}, finish_reason="stop"),
        texts({}, native_finish_reason="refusal", finish_reason="length"),
        texts({}, text="a"),
        texts({}, error={"code": 500}),
        [event | {"usage": {"completion_tokens": 5}} for event in texts({}) if isinstance(event, dict)],
        [*texts({}), '{"choices": [{"delta": {"content": "a", "refusal": "no"}}]}'],
        [*texts({}), *texts({}, finish_reason="length"), *texts({})],
        [chat({"content": "a"}), json.dumps(chat({"content": "b"}))[:-1], chat({"content": "c"})],
        [chat({"content": "a"}), json.dumps(chat({"content": "b"})).replace('"b"', '"b", "refusal": "no"')],
        [chat({"content": "a"}), json.dumps(chat({"content": "b"})).replace('"b"', "1.5")],
        [chat({"content": "gpt"}), chat({"content": "gpt"}), chat({"content": "other"})],
        [json.dumps(chat({"content": "A"}, logprobs=name)).replace('"A"', '"\\u0041"', 1) for name in ("A", "B", "C")],
        [chat({"content": "a"}, finish_reason=None), chat({"content": "b"}, finish_reason=True)],
        [chat({"content": "a"}), json.dumps(chat({"content": "b"})).replace('"b"', '"\ud800"'), chat({"content": "c"})],
    ],
)
def test_chunks_that_differ_in_their_text_are_read_as_any_other(events: list[Event]) -> None:
    quick, slow = Answer(), Answer()
    slow.frame_misses = 99  # every event is parsed as a whole
    for event in events:
        for answer in (quick, slow):
            read_event(answer, wire.encode(event))
        found, expected = (
            {**vars(answer), "frame": None, "frame_misses": 0, "_failure": repr(answer._failure)}
            for answer in (quick, slow)
        )
        assert found == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("  plain", "  plain"),
        ("<think>hm</think>\n\nHi", "Hi"),
        ("\n<THINK>hm</think>Hi", "Hi"),
        ("<thi", ""),
        ("<this>", "<this>"),
        ("<think>hm", ""),
        ("[THINK]a[/THINK]b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("<think>a</think><think>b</think>c", "c"),
        ("Use <think>x</think>", "Use <think>x</think>"),
        ("So it is 4.\n</think>\n\nHi", "Hi"),
        ("So it is `4`.\r\n```\n4\n```\r\n</think>\r\nHi\n</think>\n", "Hi\n</think>\n"),
        ("</think>\n\nHi", "Hi"),
        ("\n</THINK>Hi", "Hi"),
        ("\n</thi", ""),
        ("</this>", "</this>"),
        ("It is all thought.\n</think>\n", ""),
        ("It ends with </think>, as you see.", "It ends with </think>, as you see."),
        ("It ends with\n  </think>\nas you see.", "It ends with\n  </think>\nas you see."),
        ("```\nx\n</think>\n```", "```\nx\n</think>\n```"),
        ("```\na ` b\n</think>\n```", "```\na ` b\n</think>\n```"),
        ("~~~\nx\n</think>\n~~~", "~~~\nx\n</think>\n~~~"),
        ("Write <think> first, then\n</think>\nand so on", "Write <think> first, then\n</think>\nand so on"),
        ('As <thought id="1">\n</think>\nx', 'As <thought id="1">\n</think>\nx'),
        ("<p>a</p>\n</think>\n<p>b</p>", "<p>a</p>\n</think>\n<p>b</p>"),
        ('{"a": "stop\n</think>\nmore"}', '{"a": "stop\n</think>\nmore"}'),
        ("[a](b)", "[a](b)"),
        ("<", ""),
        ("<div>", "<div>"),
    ],
)
def test_reasoning_at_the_head_of_a_text_is_not_shown(text: str, shown: str) -> None:
    assert without_reasoning(text) == shown


def test_halves_of_a_character_are_joined() -> None:
    halves: list[Event] = [json.dumps(chat({"content": "\ud83d"})), json.dumps(chat({"content": "\ude00!"}))]
    assert [read(halves[:n]).text for n in (1, 2)] == ["", "😀!"]
    assert read([json.dumps(chat({"content": "a\udc00b"}))]).text == "a\ufffdb"


@pytest.mark.parametrize("error", ["", False, {}, {"message": "", "code": None}])
def test_empty_error_beside_a_chunk_is_none(error: Any) -> None:
    beside = wire.chunk({"content": "Hello"}) | {"error": error}
    assert read([beside, chat({}, finish_reason="stop")]).judge(None, is_text=True) is None


def test_messages_in_place_of_deltas_are_read() -> None:
    for pieces in (["Hel", "lo"], ["Hel", "Hello"], ["Hel", "Hello", "Hello"]):
        events: list[Event] = [{"choices": [{"message": {"content": piece}}]} for piece in pieces]
        assert read([*events, chat({}, finish_reason="stop")]).text == "Hello"


def test_loss_after_an_end_counts_if_more_is_said() -> None:
    events: list[Event] = [wire.candidate([{"text": "He"}], "STOP"), "{", wire.candidate([{"text": "o"}], "STOP")]
    assert isinstance(read(events).judge(None, is_text=True), ModelUnavailable)


@pytest.mark.parametrize(
    "event",
    [
        {"code": 0, "message": "success"},
        {"type": "ping", "detail": None},
        {"type": "response.mcp_call.failed", "error": {"message": "a tool"}},
        {"choices": [], "error": False},
    ],
)
def test_event_that_is_no_error_does_no_harm(event: Event) -> None:
    assert read([event, *answered("responses").events]).judge(None, is_text=True) is None


def test_delta_of_anthropic_with_empty_fields_is_read() -> None:
    delta = {"type": "text_delta", "text": "Hello", "stop_reason": None}
    event: Event = {"type": "content_block_delta", "index": 0, "delta": delta, "usageMetadata": None, "choices": None}
    assert read([event]).text == "Hello"


def test_last_event_of_a_response_may_be_empty_or_contradict_its_name() -> None:
    stream = Stream("responses")
    stream.say("Hello")
    empty = wire.response("completed") | {"output": [wire.message("")]}
    assert read([*stream.events, {"type": "response.completed", "response": empty}]).text == "Hello"
    failed = wire.response("failed")
    answer = read([*stream.events, {"type": "response.completed", "response": failed}])
    assert isinstance(answer.judge(None, is_text=True), ModelUnavailable)
    done = wire.response("completed") | {"output": [wire.message("Hello")]}
    assert read([{"type": "response.done", "response": done}]).is_whole


@pytest.mark.parametrize(
    "event", [{"choices": [{"delta": {"content": [{"type": ["x"], "text": "a"}]}}]}, {"choices": [[1]]}]
)
def test_odd_types_raise_nothing(event: Event) -> None:
    read([event])


def test_results_of_tools_are_not_shown() -> None:
    content = [{"type": "tool_result", "content": [{"type": "text", "text": "secret"}]}, {"type": "text", "text": "Hi"}]
    assert read([chat({"content": content})]).text == "Hi"


def test_reading_is_linear() -> None:
    answer = Answer()
    for _ in range(20_000):
        read_event(answer, '{"choices":[{"delta":{"content":"0123456789"}}]}')
        read_event(answer, '{"choices":[{"delta":{}}]}')
    assert len(answer.text) == 200_000
    assert without_reasoning("<think></think>" * 50_000) == ""


WORDS = st.lists(
    st.sampled_from(
        [
            "a",
            "wörd ",
            "😀",
            "�",
            "�",
            " ",
            "\n",
            "\r",
            "\t",
            "<",
            "<think>",
            "<thi",
            "</think>",
            "\n</think>",
            "\n</thi",
            "nk>",
            "[THINK]",
            "```",
        ]
    ),
    max_size=4,
).map("".join)
STEPS: st.SearchStrategy[Callable[[Answer], object]] = st.one_of(
    st.tuples(WORDS, st.sampled_from([None, None, (0, 0), (0, 1), (1, 0)])).map(lambda said: lambda it: it.say(*said)),
    WORDS.map(lambda text: lambda it: it.settle(text, (0, 1))),
    st.sampled_from([lambda it: it.restart(None), lambda it: it.end("stop"), lambda it: it.settle_all({(0, 0): "b"})]),
)


@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=25))
def test_text_is_the_same_however_often_it_is_read(steps: list[tuple[Callable[[Answer], object], bool]]) -> None:
    """Each time, only what was added is looked at."""
    often = Answer()
    for count, (step, reads) in enumerate(steps, 1):
        step(often)
        if reads:
            once = Answer()
            for before, _ in steps[:count]:
                before(once)
            assert (often.raw, often.text) == (once.raw, once.text)
            assert often.text == without_reasoning(often.raw, is_half=often.reason is None)
