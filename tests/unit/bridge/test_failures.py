"""What BAML raises, and what providers answer instead of a stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from baml_py import errors as baml

from bridge.baml.endings import judge_error
from bridge.baml.failures import Response, clean, complete, retry_after, translate_error
from bridge.errors import (
    BadOutput,
    BadRequest,
    ContextTooLong,
    ModelDenied,
    ModelNotSetUp,
    ModelRefused,
    ModelUnavailable,
    ModelUnreachable,
)
from bridge.model import Session, Turn
from tests.unit.bridge.test_endings import CONTEXT

NOW = datetime.now(UTC)


def at(when: datetime) -> str:
    return format_datetime(when, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": at(NOW - timedelta(hours=1))}, 0),
        # the worker's clock may be days off: the response says what time it is
        ({"retry-after": at(NOW + timedelta(days=2, seconds=9)), "date": at(NOW + timedelta(days=2))}, 9),
        ({"retry-after": at(NOW - timedelta(days=2) + timedelta(seconds=9)), "date": at(NOW - timedelta(days=2))}, 9),
        ({"retry-after": at(NOW - timedelta(hours=1)), "date": "yesterday"}, 0),
    ],
)
def test_retry_after_is_read_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date_is_relative_to_now_without_another() -> None:
    found = retry_after({"retry-after": at(datetime.now(UTC) + timedelta(seconds=90))})
    assert found is not None
    assert 80 < found <= 90


def refused(status: int, body: str = "", headers: dict[str, str] | None = None) -> tuple[type, str]:
    error = baml.BamlClientHttpError("Model", f"Request failed with status code: {status}", status, "prompt")
    failure = translate_error(error, Response(body, {"content-type": "x"} if headers is None else headers))
    return type(failure), failure.code


@pytest.mark.parametrize("message", CONTEXT)
def test_request_that_is_too_long_is_recognised(message: str) -> None:
    assert refused(400, f'{{"error": {{"message": "{message}"}}}}') == (ContextTooLong, "model_context")


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, '{"error": {"code": "content_filter"}}', ModelRefused, "model_filtered"),
        (
            403,
            '{"error": {"message": "moderation", "metadata": {"flagged_input": "x"}}}',
            ModelRefused,
            "model_filtered",
        ),
        (400, '{"error": {"message": "no such field"}}', ModelRefused, "model_refused"),
        (401, '{"error": {"message": "context length"}}', ModelDenied, "model_refused"),
        (404, "model not found", ModelDenied, "model_refused"),
        (413, "<html>Request Entity Too Large", ContextTooLong, "model_context"),
        (413, "", ContextTooLong, "model_context"),
        (429, "too many tokens per minute", ModelUnavailable, "model_busy"),
        (429, "Request too large for gpt on tokens per min", ContextTooLong, "model_context"),
        (500, "context length", ModelUnavailable, "model_unavailable"),
        (2, "", ModelUnavailable, "model_cut"),
    ],
)
def test_status_and_body_decide_the_kind(status: int, body: str, kind: type, code: str) -> None:
    assert refused(status, body) == (kind, code)


def test_server_that_was_not_reached_has_no_headers() -> None:
    assert refused(503, headers={}) == (ModelUnreachable, "model_unreachable")


def test_baml_errors_have_their_codes() -> None:
    for error, kind, code in (
        (baml.BamlTimeoutError("Model", "no data"), ModelUnavailable, "model_timeout"),
        (baml.BamlInvalidArgumentError("bad"), BadRequest, "bad_arguments"),
        (baml.BamlAbortError("aborted"), ModelUnavailable, "model_aborted"),
        (baml.BamlClientFinishReasonError("p", "m", "raw", "content_filter", ""), ModelRefused, "model_filtered"),
        (baml.BamlClientFinishReasonError("p", "m", "raw", "unknown", ""), ModelUnavailable, "model_cut"),
        (baml.BamlValidationError("prompt", "does not fit", "raw", ""), BadOutput, "model_output"),
        (baml.BamlError("no such client"), ModelNotSetUp, "model_setup"),
    ):
        failed = translate_error(error, Response())
        assert (type(failed), failed.code) == (kind, code)


def test_log_detail_has_no_key_and_no_prompt() -> None:
    error = baml.BamlClientHttpError("Model", "bad key sk-abcdefgh given", 401, "prompt: my secret plan")
    asked = Turn("Chat", "my secret plan", (), (), Session("s", "u", None, "Chat", {}), "u")
    env = {"LLM_API_KEY": "sk-abcdefgh"}
    failed = complete(translate_error(error, Response("", {"date": "x"})), asked, env)
    assert (failed.detail, failed.said) == ("HTTP 401", "BamlClientHttpError: bad key <LLM_API_KEY> given")
    validation = complete(
        translate_error(baml.BamlValidationError("p", "my secret plan", "r", ""), Response()), asked, env
    )
    assert validation.detail == "it does not fit the function's return type"


@pytest.mark.parametrize(
    ("name", "is_shown"),
    [
        ("invalid_request_error", True), ("RESOURCE_EXHAUSTED", True), ("context_length_exceeded", True),
        ("brand_new_code", True), ("ThrottlingException", True), ("400", True),
        ("xyzzy", False), ("err_xyzzy", False), ("ERR_XYZZY", False), ("XyzzyError", False), ("xyzzyerror", False),
        ("sk-abcdefgh", False), ("abcdefgh", False), ("error: xyzzy", False), ("the word is", False), ("", False),
        ("a" * 65, False), ("rm\x1b[31m", False), ("naïve", False), ("a\nb", False),
    ],
)  # fmt: skip
def test_code_of_a_provider_is_shown_if_it_repeats_nothing(name: str, is_shown: bool) -> None:
    asked = Turn("Chat", "the word is Xyzzy, in an error", (), (), Session("s", "u", None, "Chat", {}), "u")
    failure = judge_error({"code": name, "message": "unused"})
    complete(failure, asked, {"LLM_API_KEY": "sk-abcdefgh"})
    assert failure.detail == (f"an error in the stream: {name}" if is_shown else "an error in the stream")


@pytest.mark.parametrize("value", ["Incorrect API key provided: sk-abcd****efgh.", "Bearer abc.def is wrong"])
def test_part_of_a_key_is_not_shown(value: str) -> None:
    assert "abc" not in clean(value, {})
