"""What a model provider reports besides the answer: the finish reason, the usage and errors.

BAML passes the provider's events on unchanged (`Collector`, baml-py 0.226.3), so this module reads the formats of
OpenAI, Anthropic and Google. It does not raise on an event of any other shape.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from baml_py import errors as baml

from bridge.errors import AnswerTooLong, BadOutput, BadRequest, ModelRefused, ModelUnavailable, TurnFailure
from bridge.model import Usage

# The providers whose events this module can read. Others give a structured result only at its end, and every ending
# counts as complete.
OPENAI = frozenset({"openai", "openai-generic", "openai-responses", "azure-openai", "ollama", "openrouter"})
READABLE = OPENAI | {"anthropic", "google-ai", "vertex-ai"}

TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"})
FILTERED = frozenset({"content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii"})


@dataclass(frozen=True, slots=True)
class Report:
    """What the provider reported about a call. `finish_reason` is in lower case, None if there was none.

    `complete` means that the stream ended as it should: with a finish reason, or with OpenAI's `[DONE]`.
    """

    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None
    complete: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


def events(call: Any) -> Sequence[Any]:
    """Return the events of a call so far; each has a `text`. A call that failed before its first event has none."""
    read = getattr(call, "sse_responses", None)
    return (read() or ()) if read else ()


def read_report(call: Any) -> Report:
    """Read the report from a call of a `Collector`."""
    texts = [event.text for event in events(call)]
    response, request, usage = call.http_response, call.http_request, call.usage
    bodies = [response.body.text()] if response and not texts else texts
    reason = next(filter(None, map(_finish_reason, reversed(bodies))), None)
    model = next(filter(None, map(_model_name, texts[:3])), None) or (request and _model_name(request.body.text()))
    tokens = (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) if usage else ()
    return Report(
        usage=Usage(model, *tokens),
        finish_reason=reason,
        complete=reason is not None or "[DONE]" in texts or call.provider not in READABLE,
        headers={k.lower(): str(v) for k, v in response.headers.items()} if response else {},
    )


def added_text(event: str) -> str:
    """Return the text that an event adds to the answer (OpenAI chat and responses, Anthropic, Google)."""
    match _parse(event):
        case {"choices": [{"delta": {"content": str(text)}}, *_]}:
            return text
        case {"candidates": [{"content": {"parts": [*parts]}}, *_]}:
            shown = (part.get("text") for part in parts if isinstance(part, dict) and not part.get("thought"))
            return "".join(text for text in shown if isinstance(text, str))
        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
    return ""


def judge_ending(report: Report, *, text: bool) -> TurnFailure | None:
    """Return None if an answer that ended so is good, or else its failure. `text` means that it is plain text.

    Plain text may end with `length`: a text that breaks off is better than none, but half a file must not replace a
    whole one. `stop`, `tool_calls` and others are always good. BAML reports success even for a stream that is cut off.
    """
    reason = report.finish_reason
    if not report.complete:
        return ModelUnavailable("model_cut", "The model's answer was cut off.", detail="no finish_reason")
    if reason in FILTERED:
        return ModelRefused("model_filtered", "The model declined to answer.", detail=f"finish_reason {reason}")
    if reason in TOO_LONG and not text:
        return AnswerTooLong("model_length", "The answer exceeds the model's output limit.")
    return None


def translate_error(error: BaseException, report: Report, env: Mapping[str, str]) -> TurnFailure:
    """Translate an exception of baml-py. The text for the user contains no prompt, key or address."""
    detail = _log_detail(error, env)
    match error:
        case baml.BamlClientHttpError():
            return _http_failure(error.status_code, detail, report)
        case baml.BamlTimeoutError():
            return ModelUnavailable("model_timeout", "The model took too long to answer.", detail=detail)
        case baml.BamlValidationError():
            # An answer that broke off fails validation too; then its ending is the real cause.
            problem = "The model's answer does not have the expected format."
            return judge_ending(report, text=False) or BadOutput("model_output", problem, detail=detail)
        case baml.BamlClientFinishReasonError():
            ending = judge_ending(Report(finish_reason=(error.finish_reason or "").lower()), text=False)
            problem = "The model ended its answer for an unexpected reason."
            return ending or BadOutput("model_output", problem, detail=detail)
        case baml.BamlInvalidArgumentError():
            problem = "The message's arguments do not match the function's parameters."
            return BadRequest("bad_arguments", problem, detail=detail)
        case baml.BamlAbortError():
            return ModelUnavailable("model_aborted", "The model's answer was interrupted.", detail=detail)
    # Nothing was sent yet: a variable that the client reads is not set, or its provider is unknown.
    return ModelRefused("model_setup", "The model is not configured correctly.", detail=detail)


def _http_failure(status: int, detail: str, report: Report) -> TurnFailure:
    after = retry_after(report.headers)
    if status == 429:
        return ModelUnavailable("model_busy", "The model is busy.", detail=detail, retry_after=after)
    if status in (408, 409, 425) or 500 <= status <= 599:
        # BAML also reports such a status when it reached no server; then there are no response headers.
        if not report.headers:
            return ModelUnavailable("model_unreachable", "The model provider could not be reached.", detail=detail)
        problem = "The model provider returned an error."
        return ModelUnavailable("model_unavailable", problem, detail=detail, retry_after=after)
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
        text = headers.get("retry-after", "")
        if text.strip().replace(".", "", 1).isdigit():
            return float(text)
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None


def _log_detail(error: BaseException, env: Mapping[str, str]) -> str:
    """Return what may be logged: only the message (`str` of BAML's errors has the prompt), without keys, shortened."""
    text = str(getattr(error, "message", "") or error).partition("\nStack backtrace:")[0]
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


def _finish_reason(body: str) -> str | None:
    """Return the finish reason of an event or of a whole response."""
    event = _parse(body)
    match event:
        case (
            {"choices": [{"finish_reason": str(reason)}, *_]}
            | {"candidates": [{"finishReason": str(reason)}, *_]}
            | {"delta": {"stop_reason": str(reason)}}
            | {"stop_reason": str(reason)}
        ) if reason:
            return reason.lower()
    match event.get("response") or event:  # OpenAI's responses API
        case {"status": "completed" | "incomplete", "incomplete_details": {"reason": str(reason)}} if reason:
            return reason.lower()
        case {"status": str(status)} if status in ("completed", "incomplete"):
            return status
    return None


def _model_name(body: str) -> str | None:
    match _parse(body):
        case {"model": str(name)} | {"modelVersion": str(name)} | {"message": {"model": str(name)}} if name:
            return name
    return None
