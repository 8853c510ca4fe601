"""The kinds of errors that providers report in a stream."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.baml.endings import judge_error
from bridge.errors import ContextTooLong, ModelRefused

CONTEXT = (
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Input is too long for requested model.",
    "request (4127 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 100 `max_new_tokens`",
    "Please reduce the length of the messages or completion.",
    "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "Your input exceeds the context window of this model.",
    "The number of tokens to keep from the initial prompt is greater than the context length",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081",
    "Range of input length should be [1, 30720]",
    "Your request exceeded model token limit: 8192",
    "prompt token count of 130000 exceeds the limit of 128000",
    "Request payload size exceeds the limit: 20971520 bytes.",
)
FILTERED: tuple[Any, ...] = (
    {"code": "content_filter", "message": "The response was filtered due to the prompt", "innererror": {"code": "X"}},
    {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
    {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
    {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."},
    {"message": "Content Exists Risk", "type": "invalid_request_error"},
    {"code": "moderation_blocked", "message": "rejected as a result of our safety system"},
    {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"], "flagged_input": "x"}},
    {"code": "invalid_prompt", "message": "Invalid prompt"},
)


@pytest.mark.parametrize("message", CONTEXT)
def test_conversation_that_is_too_long_is_recognised(message: str) -> None:
    failure = judge_error({"code": 400, "type": "invalid_request_error", "message": message})
    assert isinstance(failure, ContextTooLong)
    assert (failure.code, failure.retryable) == ("model_context", False)
    assert message[:10] in failure.said
    assert message[:10] not in failure.detail
    assert message[:10] not in failure.message


@pytest.mark.parametrize("error", FILTERED)
def test_refusal_of_a_filter_is_recognised(error: Any) -> None:
    failure = judge_error(error)
    assert isinstance(failure, ModelRefused)
    assert (failure.code, failure.retryable) == ("model_filtered", False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"type": "rate_limit_error", "message": "slow down"}, "model_busy"),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota"}, "model_busy"),
        ({"code": "rate_limit_exceeded", "message": "maximum context length is not the matter"}, "model_busy"),
        ({"message": "Too many tokens, please wait before trying again.", "type": "ThrottlingException"}, "model_busy"),
        ({"type": "overloaded_error", "message": "Overloaded"}, "model_unavailable"),
        ({"code": 503, "message": "overloaded"}, "model_unavailable"),
        ({"status": "UNAVAILABLE", "code": 503, "message": "try later"}, "model_unavailable"),
        ({"code": "server_error", "message": "it broke"}, "model_unavailable"),
        ("it broke", "model_unavailable"),
        ({}, "model_unavailable"),
        ([{"a": 1}], "model_unavailable"),
        ({"type": "authentication_error", "message": "bad key"}, "model_refused"),
        ({"code": "insufficient_quota", "message": "You exceeded your current quota"}, "model_refused"),
        ({"code": 401, "message": "bad key"}, "model_refused"),
        (
            {"code": "rate_limit_exceeded", "message": "Request too large for model `m` on tokens per minute"},
            "model_context",
        ),
    ],
)
def test_kind_of_error_decides_what_follows(error: Any, code: str) -> None:
    assert judge_error(error).code == code


def test_error_that_is_json_in_a_string_is_read() -> None:
    assert isinstance(
        judge_error('{"error":{"code":400,"type":"exceed_context_size_error","message":"m"}}'), ContextTooLong
    )


def test_hostile_error_is_bounded() -> None:
    error: Any = "deep"
    for _ in range(900):
        error = {"error": [error] * 2}
    assert len(judge_error(error).said) <= 20_000
    assert len(judge_error({"message": "x" * 1_000_000}).said) <= 20_000
