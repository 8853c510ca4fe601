"""What a model's provider says beside the answer: why it stopped, what it cost, what went wrong.

BAML hands the provider's events on as it got them (`Collector`, baml-py 0.226.3), so they are read here in the formats
of OpenAI, Anthropic and Google. Nothing here raises on an event of another shape.
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

# The providers whose events can be read here. With others a structured result comes whole, at its end, and that is
# taken for a proper one.
READABLE = frozenset(
    {"openai", "openai-generic", "azure-openai", "ollama", "openrouter"}
    | {"openai-responses", "anthropic", "google-ai", "vertex-ai"}
)

TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"})
FILTERED = frozenset({"content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii"})


@dataclass(frozen=True, slots=True)
class Report:
    """What the provider said. `finish` is its reason to stop, lower-case, None if it gave none.

    `ended` tells whether the stream came to its proper end: a reason to stop, or OpenAI's `[DONE]`.
    """

    model: str | None = None
    finish: str | None = None
    ended: bool = True
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    status: int | None = None
    headers: Mapping[str, str] | None = None


def events(call: Any) -> Sequence[Any]:
    """Give the events of a call so far; each has a `text`. One that failed before its first has none."""
    read = getattr(call, "sse_responses", None)
    return (read() or ()) if read else ()


def read_report(call: Any) -> Report:
    """Read what a call of a `Collector` knows."""
    texts = [event.text for event in events(call)]
    response, request, usage = call.http_response, call.http_request, call.usage
    finish: str | None = None
    done = False
    for text in reversed(texts):
        if text == "[DONE]":
            done = True
        elif (finish := _finish(_read(text))) is not None:
            break
    if not texts and response is not None:
        finish = _finish(_read(response.body.text()))
    model = next((name for name in (_model(_read(text)) for text in texts[:3]) if name), None)
    if model is None and request is not None:
        model = _model(_read(request.body.text()))
    return Report(
        model=model,
        finish=finish,
        ended=done or finish is not None or call.provider not in READABLE,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cached_tokens=usage.cached_input_tokens if usage else None,
        status=response.status if response else None,
        headers={k.lower(): str(v) for k, v in response.headers.items()} if response else None,
    )


def added_text(event: str) -> str:
    """Give the text that an event adds to the answer: OpenAI's chat and responses, Anthropic's, Google's."""
    value = _read(event)
    added: Any = None
    if "choices" in value:
        added = _part(_first(value["choices"]), "delta").get("content")
    elif "candidates" in value:
        parts = _part(_first(value["candidates"]), "content").get("parts")
        texts = [p.get("text") for p in parts or () if isinstance(p, dict) and not p.get("thought")]
        added = "".join(text for text in texts if isinstance(text, str))
    elif value.get("type") == "content_block_delta":
        added = _part(value, "delta").get("text")
    elif value.get("type") == "response.output_text.delta":
        added = value.get("delta")
    return added if isinstance(added, str) else ""


def stopped(report: Report, *, text: bool) -> TurnFailure | None:
    """Judge how an answer ended: None if it may stand. `text` says that it is plain text."""
    if not report.ended:
        return ModelUnavailable("model_cut", "The model's answer was cut off.", detail="no finish_reason")
    if report.finish in FILTERED:
        return ModelRefused(
            "model_filtered", "The model declined to answer this.", detail=f"finish_reason {report.finish}"
        )
    if report.finish in TOO_LONG and not text:
        return AnswerTooLong("model_length", "The answer is longer than the model may write.")
    return None


def failure(error: BaseException, report: Report, env: Mapping[str, str]) -> TurnFailure:
    """Say what an exception of baml-py's means. What a user may read of it holds nothing of prompt, key or address."""
    detail = _detail(error, env)
    if isinstance(error, baml.BamlClientHttpError):
        return _http_failure(error.status_code, detail, report)
    if isinstance(error, baml.BamlTimeoutError):
        return ModelUnavailable("model_timeout", "The model took too long to answer.", detail=detail)
    if isinstance(error, baml.BamlValidationError):
        # A broken-off answer is one that does not fit, too: how it ended says more.
        ended = stopped(report, text=False)
        return ended or BadOutput(
            "model_output", "The model's answer did not have the form that was asked for.", detail=detail
        )
    if isinstance(error, baml.BamlClientFinishReasonError):
        ended = stopped(Report(finish=(error.finish_reason or "").lower()), text=False)
        return ended or BadOutput(
            "model_output", "The model ended its answer in a way that is not allowed.", detail=detail
        )
    if isinstance(error, baml.BamlInvalidArgumentError):
        return BadRequest("bad_arguments", "The message's arguments do not fit the function.", detail=detail)
    if isinstance(error, baml.BamlAbortError):
        return ModelUnavailable("model_aborted", "The model's answer was interrupted.", detail=detail)
    # Before anything was sent: a variable that the client names is not set, or it names an unknown provider.
    return ModelRefused("model_setup", "The model is not set up correctly.", detail=detail)


def _http_failure(status: int, detail: str, report: Report) -> TurnFailure:
    after = retry_after(report.headers or {})
    if status == 429:
        return ModelUnavailable("model_busy", "The model is busy.", detail=detail, retry_after=after)
    if status in (408, 409, 425) or 500 <= status <= 599:
        # BAML gives such a status to a request that met no server, too; then no response with headers was there.
        code, text = "model_unavailable", "The model's service failed."
        if not report.headers:
            code, text = "model_unreachable", "The model's service could not be reached."
        return ModelUnavailable(code, text, detail=detail, retry_after=after)
    if 400 <= status <= 499:
        return ModelRefused("model_refused", "The model's service refused the request.", detail=detail)
    if "Failed to build request" in detail:
        return ModelRefused("model_setup", "The model is not set up correctly.", detail=detail)
    # BAML's status 2: the connection broke, or an event could not be read (an error sent inside the stream, say).
    return ModelUnavailable("model_cut", "The model's answer was cut off.", detail=detail, retry_after=after)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds a provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date."""
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


def _detail(error: BaseException, env: Mapping[str, str]) -> str:
    """What the log may hold: the message alone (`str` of BAML's errors has the prompt), without keys, not too long."""
    text = str(getattr(error, "message", "") or error)
    text = text.partition("\nStack backtrace:")[0]
    for name, value in {**os.environ, **env}.items():
        if len(value) >= 8 and name.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD")):
            text = text.replace(value, f"<{name}>")
    return f"{type(error).__name__}: {' '.join(text.split())[:500]}"


def _read(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first(value: Any) -> dict[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _part(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = value.get(key)
    return part if isinstance(part, dict) else {}


def _finish(event: Mapping[str, Any]) -> str | None:
    """The reason to stop in an event, or in a whole response."""
    reason = (
        _first(event.get("choices")).get("finish_reason")
        or _first(event.get("candidates")).get("finishReason")
        or _part(event, "delta").get("stop_reason")
        or event.get("stop_reason")
    )
    response = _part(event, "response") or event  # of OpenAI's responses
    if reason is None and response.get("status") in ("completed", "incomplete"):
        reason = _part(response, "incomplete_details").get("reason") or response["status"]
    return reason.lower() if isinstance(reason, str) else None


def _model(event: Mapping[str, Any]) -> str | None:
    name = event.get("model") or event.get("modelVersion") or _part(event, "message").get("model")
    return name if isinstance(name, str) and name else None
