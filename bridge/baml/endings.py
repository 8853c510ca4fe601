"""How an answer can end: the finish reasons of all providers, and the kinds of their errors.

A reason that is not listed is not a good end: providers add new ones, and most of those are new ways to fail. Sources:
the providers' API references and official clients, November 2026.
"""

import re
from collections.abc import Iterator
from typing import Any

from bridge.errors import ContextTooLong, ModelDenied, ModelRefused, ModelUnavailable, TurnFailure

# The whole answer was given. Calls of tools are good ends too: what was said before them is whole.
GOOD = frozenset({
    "stop", "end_turn", "stop_sequence", "completed", "complete",
    "eos", "eos_token", "end_of_text",  # Together, Hugging Face, watsonx
    "tool_calls", "tool_use", "tool_call", "function_call",
})  # fmt: skip
TOO_LONG = frozenset({
    "length", "max_tokens", "max_output_tokens", "max_completion_tokens", "model_length", "token_limit",
    "model_context_window_exceeded",
})  # fmt: skip
REFUSED = frozenset({
    "content_filter", "content_filtered", "guardrail_intervened", "refusal", "sensitive", "error_toxic", "moderation",
    "safety", "recitation", "language", "blocklist", "prohibited_content", "spii", "model_armor",
    "jailbreak", "escalation",
    "image_safety", "image_prohibited_content", "image_recitation",
})  # fmt: skip

_FILTERED = re.compile(
    r"content[_ ]?filter|content_policy|responsible ?ai ?policy|data_inspection_failed|moderation_blocked"
    r"|invalid_prompt|bio_policy|cyber_policy|prohibited_content|content management policy|content filtering policy"
    r"|content exists risk|usage (?:guidelines|policy|policies)|safety system"
    r"|(?:input|prompt|request|response)[^.]{0,40} (?:was|were|been) (?:flagged|blocked|filtered)|flagged (?:by|for|as)"
    r"|flagged_input",
    re.I,
)
_CONTEXT = re.compile(
    r"context[_ ](?:length|window|size|limit)|exceed_context|exceed context"
    r"|maximum (?:context|prompt|input|model) length|input length|prompt length|longer than the (?:model|maximum)"
    r"|(?:prompt|input|request|messages?|conversation|context)[^.]{0,30} (?:is |are |was )?too (?:long|large)"
    r"|request_too_large|too many (?:input )?tokens|too large for model|reduce the length|payload size exceeds"
    r"|input tokens exceed|prompt tokens[^.]{0,40} exceed|token count[^.]{0,40} exceed|expected maxlength"
    r"|exceed(?:s|ed)? (?:the |your )?(?:max|model|context|limit|available)[^.]{0,40}(?:token|context)"
    r"|(?:token|length) limit (?:exceeded|reached)|current length is[^.]{0,40}limit"
    r"|max_new_tokens[^.]{0,20}must be|tokens to keep from the initial prompt",
    re.I,
)
_BUSY = re.compile(r"rate.?limit|too_many_requests|too many requests|resource_exhausted|throttl|quota|\b429\b", re.I)
_OVERLOADED = re.compile(
    r"overload|unavailable|internal|server_?error|api_error|timeout|timed out|deadline|capacity|bad gateway"
    r"|\b5\d\d\b|try again",
    re.I,
)
_REQUEST_SIZE = re.compile(r"request too large|request is too large|tokens must be reduced", re.I)
_UNPAID = re.compile(r"insufficient_(?:quota|balance)", re.I)
_REFUSED_REQUEST = re.compile(
    r"authentication|permission|unauthorized|api.?key|forbidden|billing|credit|insufficient_(?:quota|balance)"
    r"|not_found|invalid_request|invalid_argument|\b40[0134]\b",
    re.I,
)


def is_good(reason: str) -> bool:
    """Whether an answer that ended so is whole."""
    return reason in GOOD


def is_refused(reason: str) -> bool:
    """Whether the model or a filter refused to go on."""
    return reason in REFUSED


def is_too_long(reason: str) -> bool:
    """Whether the model reached its output limit."""
    return reason in TOO_LONG


def refusal(text: str = "", detail: str = "") -> ModelRefused:
    """The failure of an answer that the model or a filter refused; the refusal's own text is shown, if there is one."""
    return ModelRefused("model_filtered", " ".join(text.split()) or "The model declined to answer.", detail=detail)


def too_much_context(detail: str) -> ContextTooLong:
    """The failure of a conversation that is longer than the model can read."""
    problem = "The conversation is too long for the model. Start a new session, or send less text."
    return ContextTooLong("model_context", problem, detail=detail)


def busy(detail: str, retry_after: float | None = None) -> ModelUnavailable:
    """The failure of a call that came too soon after others."""
    return ModelUnavailable("model_busy", "The model is busy.", detail=detail, retry_after=retry_after)


def out_of_order(detail: str, retry_after: float | None = None) -> ModelUnavailable:
    """The failure of a call that the provider could not serve."""
    problem = "The model provider returned an error."
    return ModelUnavailable("model_unavailable", problem, detail=detail, retry_after=retry_after)


def refused_request(detail: str, *, is_denied: bool = False) -> ModelRefused:
    """The failure of a call that the provider would refuse again; `is_denied`: whatever this worker asks."""
    if is_denied:
        return ModelDenied("model_refused", "The model provider refused the request.", detail=detail)
    return ModelRefused("model_refused", "The model provider refused the request.", detail=detail)


def judge_reason(reason: str) -> TurnFailure:
    """The failure of an answer that ended badly. Whatever is no refusal may pass, and is tried again."""
    failure: TurnFailure = ModelUnavailable("model_cut", "The model did not finish its answer.", detail="bad ending")
    if is_refused(reason):
        failure = refusal(detail="bad ending")
    failure.names = (reason[:_LONGEST_NAME],)
    return failure


def judge_error(error: Any) -> TurnFailure:
    """The failure that an error object means, which came in an event. `said` has the provider's words."""
    words = list(dict.fromkeys(_words(error)))
    failure = _judge_words(" ".join(words[:-1] or words), " ".join(words))
    failure.said, failure.names = " ".join(words)[:_LONGEST], names_in(error)
    return failure


def _judge_words(names: str, said: str) -> TurnFailure:
    detail = "an error in the stream"
    is_busy = _BUSY.search(names) is not None and not _UNPAID.search(names)
    if is_context(said, only_size=is_busy):
        return too_much_context(detail)
    if is_filtered(said):
        return refusal(detail=detail)
    if is_busy:
        return busy(detail)
    if not _OVERLOADED.search(names) and _REFUSED_REQUEST.search(names):
        return refused_request(detail)
    return out_of_order(detail)


def is_filtered(body: str) -> bool:
    """Whether the body of a refused request says that a filter refused it."""
    return _FILTERED.search(body) is not None


def is_context(body: str, *, only_size: bool = False) -> bool:
    """Whether the body of a refused request says that the conversation is too long for the model.

    With `only_size`, the provider also says that it is busy: then only a request that is too large by itself counts.
    """
    return (_REQUEST_SIZE if only_size else _CONTEXT).search(body) is not None


_LONGEST_NAME = 80  # characters of an error's code or type
_LONGEST = 20_000  # characters of an error that are read; keys are removed before it is shortened for the log
_NAMES = (
    "code",
    "type",
    "status",
    "reason",
    "error_type",
    "metadata",
    "innererror",
    "details",
    "error",
    "message",
    "msg",
)


def names_in(error: Any) -> tuple[str, ...]:
    """The short names that an error object has for what is wrong: its codes and types. They may be anything."""
    return tuple(dict.fromkeys(name[:_LONGEST_NAME] for name in _names(error)))[:4]


def _names(error: Any, depth: int = 0) -> Iterator[str]:
    if depth < 4 and isinstance(error, dict):
        for name in ("code", "type", "status", "reason", "error_type"):
            value = error.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool):
                yield str(value)
        for name in ("error", "metadata", "innererror", "details"):
            yield from _names(error.get(name), depth + 1)
    elif depth < 4 and isinstance(error, list):
        for item in error[:8]:
            yield from _names(item, depth + 1)


def _words(error: Any, depth: int = 0) -> Iterator[str]:
    """The words of an error: its names first, its message last."""
    if isinstance(error, str | int) and not isinstance(error, bool):
        if text := " ".join(str(error).split()):
            yield text[:_LONGEST]
    elif depth < 4 and isinstance(error, dict):
        for name in _NAMES:
            yield from _words(error.get(name), depth + 1)
    elif depth < 4 and isinstance(error, list):
        for item in error[:8]:
            yield from _words(item, depth + 1)
