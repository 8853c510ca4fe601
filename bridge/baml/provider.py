"""What a model provider reports besides the answer: the finish reason, the usage and errors.

BAML passes the provider's events on unchanged (`Collector`, baml-py 0.226.3), so this module reads the formats of
OpenAI, Anthropic and Google. It does not raise on an event of any other shape.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from baml_py import errors as baml

from bridge.errors import AnswerTooLong, BadOutput, BadRequest, ModelRefused, ModelUnavailable, TurnFailure

# The providers whose events this module can read. Others give a structured result only at its end, and every ending
# counts as complete.
READABLE = frozenset(
    {"openai", "openai-generic", "azure-openai", "ollama", "openrouter"}
    | {"openai-responses", "anthropic", "google-ai", "vertex-ai"}
)

TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"})
FILTERED = frozenset({"content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii"})


@dataclass(frozen=True, slots=True)
class Report:
    """What the provider reported about a call. `finish_reason` is in lower case, None if there was none.

    `complete` means that the stream ended as it should: with a finish reason, or with OpenAI's `[DONE]`.
    """

    model: str | None = None
    finish_reason: str | None = None
    complete: bool = True
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    status: int | None = None
    headers: Mapping[str, str] | None = None


def events(call: Any) -> Sequence[Any]:
    """Return the events of a call so far; each has a `text`. A call that failed before its first event has none."""
    read = getattr(call, "sse_responses", None)
    return (read() or ()) if read else ()


def read_report(call: Any) -> Report:
    """Read the report from a call of a `Collector`."""
    texts = [event.text for event in events(call)]
    response, request, usage = call.http_response, call.http_request, call.usage
    reason: str | None = None
    done = False
    for text in reversed(texts):
        if text == "[DONE]":
            done = True
        elif (reason := _finish_reason(_parse(text))) is not None:
            break
    if not texts and response is not None:
        reason = _finish_reason(_parse(response.body.text()))
    model = next((name for name in (_model_name(_parse(text)) for text in texts[:3]) if name), None)
    if model is None and request is not None:
        model = _model_name(_parse(request.body.text()))
    return Report(
        model=model,
        finish_reason=reason,
        complete=done or reason is not None or call.provider not in READABLE,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cached_tokens=usage.cached_input_tokens if usage else None,
        status=response.status if response else None,
        headers={k.lower(): str(v) for k, v in response.headers.items()} if response else None,
    )


def added_text(event: str) -> str:
    """Return the text that an event adds to the answer (OpenAI chat and responses, Anthropic, Google)."""
    value = _parse(event)
    added: Any = None
    if "choices" in value:
        added = _child(_first(value["choices"]), "delta").get("content")
    elif "candidates" in value:
        parts = _child(_first(value["candidates"]), "content").get("parts")
        texts = [p.get("text") for p in parts or () if isinstance(p, dict) and not p.get("thought")]
        added = "".join(text for text in texts if isinstance(text, str))
    elif value.get("type") == "content_block_delta":
        added = _child(value, "delta").get("text")
    elif value.get("type") == "response.output_text.delta":
        added = value.get("delta")
    return added if isinstance(added, str) else ""


def judge_ending(report: Report, *, text: bool) -> TurnFailure | None:
    """Return None if an answer that ended so is good, or else its failure. `text` means that it is plain text."""
    if not report.complete:
        return ModelUnavailable("model_cut", "The model's answer was cut off.", detail="no finish_reason")
    if report.finish_reason in FILTERED:
        return ModelRefused(
            "model_filtered", "The model declined to answer.", detail=f"finish_reason {report.finish_reason}"
        )
    if report.finish_reason in TOO_LONG and not text:
        return AnswerTooLong("model_length", "The answer exceeds the model's output limit.")
    return None


def translate_error(error: BaseException, report: Report, env: Mapping[str, str]) -> TurnFailure:
    """Translate an exception of baml-py. The text for the user contains no prompt, key or address."""
    detail = _log_detail(error, env)
    if isinstance(error, baml.BamlClientHttpError):
        return _http_failure(error.status_code, detail, report)
    if isinstance(error, baml.BamlTimeoutError):
        return ModelUnavailable("model_timeout", "The model took too long to answer.", detail=detail)
    if isinstance(error, baml.BamlValidationError):
        # An answer that broke off fails validation too; then its ending is the real cause.
        ending = judge_ending(report, text=False)
        return ending or BadOutput(
            "model_output", "The model's answer does not have the expected format.", detail=detail
        )
    if isinstance(error, baml.BamlClientFinishReasonError):
        ending = judge_ending(Report(finish_reason=(error.finish_reason or "").lower()), text=False)
        return ending or BadOutput(
            "model_output", "The model ended its answer for an unexpected reason.", detail=detail
        )
    if isinstance(error, baml.BamlInvalidArgumentError):
        return BadRequest(
            "bad_arguments", "The message's arguments do not match the function's parameters.", detail=detail
        )
    if isinstance(error, baml.BamlAbortError):
        return ModelUnavailable("model_aborted", "The model's answer was interrupted.", detail=detail)
    # Nothing was sent yet: a variable that the client reads is not set, or its provider is unknown.
    return ModelRefused("model_setup", "The model is not configured correctly.", detail=detail)


def _http_failure(status: int, detail: str, report: Report) -> TurnFailure:
    after = retry_after(report.headers or {})
    if status == 429:
        return ModelUnavailable("model_busy", "The model is busy.", detail=detail, retry_after=after)
    if status in (408, 409, 425) or 500 <= status <= 599:
        # BAML also reports such a status when it reached no server; then there are no response headers.
        code, text = "model_unavailable", "The model provider returned an error."
        if not report.headers:
            code, text = "model_unreachable", "The model provider could not be reached."
        return ModelUnavailable(code, text, detail=detail, retry_after=after)
    if 400 <= status <= 499:
        return ModelRefused("model_refused", "The model provider refused the request.", detail=detail)
    if "Failed to build request" in detail:
        return ModelRefused("model_setup", "The model is not configured correctly.", detail=detail)
    # BAML's status 2: the connection broke, or an event could not be read, such as an error inside the stream.
    return ModelUnavailable("model_cut", "The model's answer was cut off.", detail=detail, retry_after=after)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the provider asks to wait, from `retry-after-ms` or `retry-after` (seconds or a date)."""
    try:
        if text := headers.get("retry-after-ms"):
            return max(0.0, float(text) / 1000)
        if not (text := headers.get("retry-after")):
            return None
        if text.strip().replace(".", "", 1).isdigit():
            return float(text)
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None


def _log_detail(error: BaseException, env: Mapping[str, str]) -> str:
    """Return what may be logged: only the message (`str` of BAML's errors has the prompt), without keys, shortened."""
    text = str(getattr(error, "message", "") or error)
    text = text.partition("\nStack backtrace:")[0]
    for name, value in {**os.environ, **env}.items():
        if len(value) >= 8 and name.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD")):
            text = text.replace(value, f"<{name}>")
    return f"{type(error).__name__}: {' '.join(text.split())[:500]}"


def _parse(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first(value: Any) -> dict[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _child(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    child = value.get(key)
    return child if isinstance(child, dict) else {}


def _finish_reason(event: Mapping[str, Any]) -> str | None:
    """Return the finish reason of an event or of a whole response."""
    reason = (
        _first(event.get("choices")).get("finish_reason")
        or _first(event.get("candidates")).get("finishReason")
        or _child(event, "delta").get("stop_reason")
        or event.get("stop_reason")
    )
    response = _child(event, "response") or event  # OpenAI's responses API
    if reason is None and response.get("status") in ("completed", "incomplete"):
        reason = _child(response, "incomplete_details").get("reason") or response["status"]
    return reason.lower() if isinstance(reason, str) else None


def _model_name(event: Mapping[str, Any]) -> str | None:
    name = event.get("model") or event.get("modelVersion") or _child(event, "message").get("model")
    return name if isinstance(name, str) and name else None
