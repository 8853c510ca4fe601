"""Translates what BAML raises, and what a provider answers instead of a stream, into failures of the attempt."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from baml_py import errors as baml

from bridge.baml.endings import (
    busy,
    is_context,
    is_filtered,
    judge_reason,
    out_of_order,
    refusal,
    refused_request,
    too_much_context,
)
from bridge.errors import BadOutput, BadRequest, ModelNotSetUp, ModelUnavailable, ModelUnreachable, TurnFailure


@dataclass(frozen=True, slots=True)
class Response:
    """The HTTP response of a call; BAML keeps none of a stream that has begun. Names of headers are in lower case."""

    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def translate_error(error: BaseException, response: Response, env: Mapping[str, str]) -> TurnFailure:
    """Translate an exception of baml-py. The text for the user contains no prompt, key or address."""
    detail = clean(name_error(error), env)
    match error:
        case baml.BamlClientHttpError():
            return _http_failure(error.status_code, detail, response)
        case baml.BamlTimeoutError():
            return ModelUnavailable("model_timeout", "The model took too long to answer.", detail=detail)
        case baml.BamlValidationError():
            return bad_output(detail)
        case baml.BamlClientFinishReasonError():
            return judge_reason((error.finish_reason or "").lower())
        case baml.BamlInvalidArgumentError():
            problem = "The message's arguments do not match the function's parameters."
            return BadRequest("bad_arguments", problem, detail=detail)
        case baml.BamlAbortError():
            return ModelUnavailable("model_aborted", "The model's answer was interrupted.", detail=detail)
    # Nothing was sent yet: a variable that the client reads is not set, or its provider is unknown.
    return ModelNotSetUp("model_setup", "The model is not configured correctly.", detail=detail)


def _http_failure(status: int, detail: str, response: Response) -> TurnFailure:
    after = retry_after(response.headers)
    said = response.body or detail  # Bedrock's errors have no body
    is_refused = 400 <= status <= 499 and status not in (401, 404, 408, 409, 425, 429)
    if status == 413 or (is_refused and is_context(said)):
        return too_much_context(detail)
    if is_refused and is_filtered(said):
        return refusal(detail=detail)
    if status == 429:
        if is_context(said, only_size=True):  # the quota of a minute is smaller than the conversation
            return too_much_context(detail)
        return busy(detail, after)
    if status in (408, 409, 425) or 500 <= status <= 599:
        # BAML also reports such a status when it reached no server; then there are no response headers.
        if not response.headers:
            return ModelUnreachable("model_unreachable", "The model provider could not be reached.", detail=detail)
        return out_of_order(detail, after)
    if 400 <= status <= 499:
        return refused_request(detail, is_denied=status in (401, 402, 403, 404, 407))
    if "Failed to build request" in detail:
        return ModelNotSetUp("model_setup", "The model is not configured correctly.", detail=detail)
    if "without receiving any events" in detail:
        detail += " (if the provider cannot stream, set `supports_streaming false` in the client's options)"
    # BAML's status 2: the connection broke, or an event could not be read.
    return ModelUnavailable("model_cut", "The model's answer was cut off.", detail=detail, retry_after=after)


def bad_output(detail: str) -> BadOutput:
    """The failure of an answer that does not match the function's return type."""
    return BadOutput("model_output", "The model's answer does not have the expected format.", detail=detail)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the provider asks to wait, from `retry-after-ms` or `retry-after` (seconds or a date).

    A date is compared with the response's own `date`: the worker's clock may be wrong.
    """
    try:
        if text := headers.get("retry-after-ms"):
            return max(0.0, float(text) / 1000)
        text = headers.get("retry-after", "")
        if text.strip().replace(".", "", 1).isdigit():
            return float(text)
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        return None
    return max(0.0, (when - (_date(headers.get("date", "")) or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else None


def name_error(error: BaseException) -> str:
    """Return an exception's name and message; `str` of BAML's errors would have the prompt as well."""
    return f"{type(error).__name__}: {getattr(error, 'message', '') or error}"


def clean(detail: str, env: Mapping[str, str]) -> str:
    """Return what may be logged: without keys and the library's backtrace, on one line, shortened."""
    text = detail.partition("\nStack backtrace:")[0]
    for name, value in {**os.environ, **env}.items():
        if len(value) >= 8 and name.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD")):
            text = text.replace(value, f"<{name}>")
    return " ".join(text.split())[:500]
