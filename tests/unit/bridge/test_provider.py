"""Providers' events in their different formats, and how their errors are translated."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from baml_py import errors as baml

from bridge.baml.provider import Report, added_text, judge_ending, read_report, retry_after, translate_error
from bridge.errors import AnswerTooLong, BadOutput, BadRequest, ModelRefused, ModelUnavailable

OPENAI = [
    {"model": "gpt", "choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"model": "gpt", "choices": [{"delta": {"reasoning_content": "hm"}, "finish_reason": None}]},
    {"model": "gpt", "choices": [{"delta": {"content": "Hel"}, "finish_reason": None}]},
    {"model": "gpt", "choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}]},
    {"model": "gpt", "choices": [], "usage": {}},
]
RESPONSES = [
    {"type": "response.created", "response": {"model": "gpt", "status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": "Hel"},
    {"type": "response.output_text.delta", "delta": "lo"},
    {"type": "response.completed", "response": {"model": "gpt", "status": "completed"}},
]
ANTHROPIC = [
    {"type": "message_start", "message": {"model": "claude", "stop_reason": None}},
    {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
    {"type": "message_stop"},
]
GOOGLE = [
    {"modelVersion": "gemini", "candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]},
    {"modelVersion": "gemini", "candidates": [{"content": {"parts": [{"text": "Hel"}, {"text": "lo"}]}}]},
    {"modelVersion": "gemini", "candidates": [{"content": {}, "finishReason": "STOP"}]},
]


def call(provider: str, texts: list[str]) -> Any:
    return SimpleNamespace(
        provider=provider,
        sse_responses=lambda: [SimpleNamespace(text=text) for text in texts],
        http_response=None,
        http_request=None,
        usage=None,
    )


@pytest.mark.parametrize(
    ("provider", "events", "reason"),
    [
        ("openai-generic", OPENAI, "stop"),
        ("openai-responses", RESPONSES, "completed"),
        ("anthropic", ANTHROPIC, "end_turn"),
        ("google-ai", GOOGLE, "stop"),
    ],
)
def test_text_and_ending_are_read_in_every_format(provider: str, events: list[dict[str, Any]], reason: str) -> None:
    texts = [json.dumps(event) for event in events]
    assert "".join(map(added_text, texts)) == "Hello"
    report = read_report(call(provider, texts))
    assert (report.finish_reason, report.complete) == (reason, True)
    assert judge_ending(report, text=False) is None
    cut = read_report(call(provider, texts[:2]))
    assert (cut.finish_reason, cut.complete) == (None, False)
    assert isinstance(judge_ending(cut, text=True), ModelUnavailable)


def test_done_marker_without_a_reason_completes_the_stream() -> None:
    report = read_report(call("openai-generic", [json.dumps(OPENAI[2]), "[DONE]"]))
    assert (report.finish_reason, report.complete) == (None, True)


def test_unreadable_provider_counts_as_complete() -> None:
    assert read_report(call("aws-bedrock", [])).complete


@pytest.mark.parametrize(
    ("reason", "text", "kind"),
    [
        ("length", True, None),
        ("length", False, AnswerTooLong),
        ("max_tokens", False, AnswerTooLong),
        ("max_output_tokens", False, AnswerTooLong),
        ("content_filter", True, ModelRefused),
        ("refusal", False, ModelRefused),
        ("safety", True, ModelRefused),
        ("tool_calls", True, None),
    ],
)
def test_finish_reason_decides_the_ending(reason: str, text: bool, kind: type | None) -> None:
    failed = judge_ending(Report(finish_reason=reason), text=text)
    assert failed is None if kind is None else type(failed) is kind
    assert failed is None or not failed.retryable


@pytest.mark.parametrize("event", ["", "[DONE]", "null", "[]", "1", '{"choices": 1}', '{"choices": [null]}', "{"])
def test_event_of_unknown_format_adds_nothing(event: str) -> None:
    assert added_text(event) == ""
    assert read_report(call("openai", [event])).finish_reason is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)}, 0),
    ],
)
def test_retry_after_is_read_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date_is_relative_to_now() -> None:
    found = retry_after({"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)})
    assert found is not None
    assert 80 < found <= 90


def test_baml_errors_have_their_codes() -> None:
    for error, kind, code in (
        (baml.BamlTimeoutError("Model", "no data"), ModelUnavailable, "model_timeout"),
        (baml.BamlInvalidArgumentError("bad"), BadRequest, "bad_arguments"),
        (baml.BamlAbortError("aborted"), ModelUnavailable, "model_aborted"),
        (baml.BamlClientFinishReasonError("p", "m", "raw", "length", ""), AnswerTooLong, "model_length"),
        (baml.BamlClientFinishReasonError("p", "m", "raw", "unknown", ""), BadOutput, "model_output"),
        (baml.BamlError("no such client"), ModelRefused, "model_setup"),
    ):
        failed = translate_error(error, Report(), {})
        assert (type(failed), failed.code) == (kind, code)


def test_log_detail_has_no_key_and_no_prompt() -> None:
    error = baml.BamlClientHttpError("Model", "bad key sk-abcdefgh given", 401, "prompt: my secret plan")
    failed = translate_error(error, Report(), {"LLM_API_KEY": "sk-abcdefgh"})
    assert failed.detail == "BamlClientHttpError: bad key <LLM_API_KEY> given"
    validation = baml.BamlValidationError("my secret plan", "does not fit", "raw", "")
    assert translate_error(validation, Report(), {}).detail == "BamlValidationError: does not fit"
