"""Translates what BAML raises, and what a provider answers instead of a stream, into failures of the attempt."""

import json
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from baml_py import errors as baml

from bridge.baml.endings import (
    busy,
    is_context,
    is_filtered,
    judge_reason,
    names_in,
    out_of_order,
    refusal,
    refused_request,
    too_much_context,
)
from bridge.errors import (
    AttachmentUnavailable,
    BadAttachment,
    BadOutput,
    BadRequest,
    ModelNotSetUp,
    ModelUnavailable,
    ModelUnreachable,
    TurnFailure,
)
from bridge.model import Turn


@dataclass(frozen=True, slots=True)
class Response:
    """The HTTP response of a call; BAML keeps none of a stream that has begun. Names of headers are in lower case."""

    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def translate_error(error: BaseException, response: Response) -> TurnFailure:
    """Translate an exception of baml-py. `code`, `message` and `detail` are ours; `said` is BAML's message."""
    failure = _translate(error, response)
    failure.said = name_error(error)
    return failure


def _translate(error: BaseException, response: Response) -> TurnFailure:
    match error:
        case baml.BamlClientHttpError():
            return _http_failure(error.status_code, name_error(error), response)
        case baml.BamlTimeoutError():
            detail = "a timeout of the client in baml_src"
            return ModelUnavailable("model_timeout", "The model took too long to answer.", detail=detail)
        case baml.BamlValidationError() if failed := _MEDIA.match(error.message):
            return _media_failure(is_read=failed["read"] is not None)
        case baml.BamlValidationError():
            return bad_output("it does not fit the function's return type")
        case baml.BamlClientFinishReasonError():
            return judge_reason((error.finish_reason or "").lower())
        case baml.BamlInvalidArgumentError():
            problem = "The message's arguments do not match the function's parameters."
            return BadRequest("bad_arguments", problem, detail="BAML refused the arguments")
        case baml.BamlAbortError():
            return ModelUnavailable(
                "model_aborted", "The model's answer was interrupted.", detail="the call was aborted"
            )
    # Nothing was sent yet: a variable that the client reads is not set, or its provider is unknown.
    if missing := _MISSING.search(name_error(error)):
        return _not_set_up(f"{missing[1]} is not set, and the client in baml_src reads it")
    return _not_set_up("BAML could not make the request; `bridge doctor` prints why")


def _http_failure(status: int, said: str, response: Response) -> TurnFailure:
    after = retry_after(response.headers)
    body = response.body or said  # Bedrock's errors have no body
    if not response.headers and (fault := _FAULT.search(said)):
        if "kind: Builder" in said:
            return _not_set_up("the URL of the model's client cannot be used")
        if "kind: Request" in fault[0]:
            return _unreachable(said)
    detail = f"HTTP {status}"
    failure = _status_failure(status, body, detail, after, is_reached=bool(response.headers))
    if failure is not None:
        with suppress(ValueError, RecursionError):
            failure.names = names_in(json.loads(body))
        return failure
    if "Failed to build request" in said:
        return _not_set_up("the URL of the model's client cannot be used")
    detail = "the connection broke, or an event could not be read"  # BAML's status 2
    if "without receiving any events" in said:
        detail = (
            "the stream ended without an event "
            "(if the provider cannot stream, set `supports_streaming false` in the client's options)"
        )
    return ModelUnavailable("model_cut", "The model's answer was cut off.", detail=detail, retry_after=after)


def _status_failure(
    status: int, body: str, detail: str, after: float | None, *, is_reached: bool
) -> TurnFailure | None:
    is_refused = 400 <= status <= 499 and status not in (401, 404, 408, 409, 425, 429)
    if status == 413 or (is_refused and is_context(body)):
        return too_much_context(detail)
    if is_refused and is_filtered(body):
        return refusal(detail=detail)
    if status == 429:
        if is_context(body, only_size=True):  # the quota of a minute is smaller than the conversation
            return too_much_context(detail)
        return busy(detail, after)
    if status in (408, 409, 425) or 500 <= status <= 599:
        # BAML also reports such a status when it reached no server; then there are no response headers.
        return out_of_order(detail, after) if is_reached else _unreachable(body)
    if 400 <= status <= 499:
        return refused_request(detail, is_denied=status in (401, 402, 403, 404, 407))
    return None


def _unreachable(said: str) -> ModelUnreachable:
    """The failure of a call that had no answer. The reason is found in what reqwest, hyper and rustls print."""
    reason = next((ours for theirs, ours in _REASONS if re.search(theirs, said)), "no connection")
    return ModelUnreachable("model_unreachable", "The model provider could not be reached.", detail=reason)


def _media_failure(*, is_read: bool) -> TurnFailure:
    """The failure of a call that did not get an attachment. The worker has looked at it before, so this is rare."""
    if is_read:
        problem = "An attachment is damaged, or not the kind of file that its name says."
        return BadAttachment("bad_attachment", problem, detail="its bytes are not of its type")
    problem = "The attachments cannot be reached at the moment."
    return AttachmentUnavailable("attachment_unavailable", problem, detail="BAML could not fetch an attachment")


def _not_set_up(detail: str) -> ModelNotSetUp:
    return ModelNotSetUp("model_setup", "The model is not configured correctly.", detail=detail)


# How baml-py 0.226.3 prints an error of its HTTP client; the URL in it is the operator's.
_FAULT = re.compile(r"reqwest::Error \{\s*kind: (?:Request|Builder)")
_MEDIA = re.compile(r"Internal Failure: (?:Failed to fetch media|(?P<read>Requested media of MIME type))")
_MISSING = re.compile(r"^BamlError: LLM client '\w+' requires environment variable '([A-Z][A-Z0-9_]*)'")
_OWN_ROOTS = "BAML trusts only the public authorities it was built with, and reads no SSL_CERT_FILE"
_REASONS = (
    (r"InvalidCertificate\(Expired|NotValidYet", "the provider's certificate is not valid at this time"),
    (r"InvalidCertificate\(NotValidForName", "the provider's certificate is for another host"),
    (r"InvalidCertificate", f"the provider's certificate is not trusted: {_OWN_ROOTS}"),
    (r"InvalidContentType|InvalidMessage", "the provider does not speak TLS: is its URL one of http?"),
    (
        r"AlertReceived|HandshakeFailure|PeerIncompatible|PeerMisbehaved",
        "the provider and BAML agree on no form of TLS",
    ),
    (r"dns error", "the provider's host name was not found"),
    (r"ConnectionRefused", "the connection was refused"),
    (r"ConnectionReset|ConnectionAborted|BrokenPipe", "the connection was reset before an answer came"),
    (r"TimedOut|timed out", "no connection was made in time"),
    (r"NetworkUnreachable|HostUnreachable|AddrNotAvailable", "there is no route to the provider"),
    (r"tunnel|[Pp]roxy", "the proxy did not make the connection"),
    (r"hyper::Error\(Parse", "the provider does not speak HTTP: is its URL one of https?"),
    (r"IncompleteMessage|UnexpectedEof", "the connection was closed before an answer came"),
)


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


def complete(failure: TurnFailure, asked: Turn, env: Mapping[str, str]) -> TurnFailure:
    """Add to `detail` the provider's names for the error that repeat nothing of the conversation or a key.

    A provider may put anything into them: the prompt, or the key it was given. `said` loses the keys.
    """
    private = _private(asked, env)
    names = ", ".join(name for name in failure.names if repeats_nothing(name, private))
    failure.detail = f"{failure.detail}: {names}" if names else failure.detail
    failure.names, failure.said = (), clean(failure.said, env)
    return failure


def repeats_nothing(name: str, private: str) -> bool:
    """Whether a name is short, looks like one, and shows nothing of `private`, as `_private` gives it.

    Parts of it count too: `err_secret` and `secreterror` show a secret. Words of providers' own codes are no secret.
    """
    name = name.casefold()
    if not _NAME.fullmatch(name) or name in private:
        return False
    words = [word for word in _BETWEEN.split(name) if word not in _COMMON]
    rest = [piece for word in words for piece in _COMMON_INSIDE.sub(" ", word).split()]
    pieces = {piece[at : at + _GRAM] for piece in rest for at in range(max(1, len(piece) - _GRAM + 1))}
    return not any(len(piece) > 2 and piece in private for piece in (*words, *pieces))


def known_model(reported: str | None, asked: Turn, env: Mapping[str, str], named: Collection[str] = ()) -> str | None:
    """The model's name as the provider reports it; if it may repeat the conversation, the one that was configured.

    `named` are those in the sources of the clients.
    """
    configured = [value for name, value in {**os.environ, **env}.items() if name.upper().endswith("MODEL") and value]
    configured += sorted(named, key=len, reverse=True)
    if reported is None or reported in configured or repeats_nothing(reported, _private(asked, env)):
        return reported
    return next((name for name in configured if reported.startswith(name)), None)


_NAME = re.compile(r"[a-z0-9][a-z0-9_.:/@-]{0,63}")
_BETWEEN = re.compile(r"[^a-z0-9]+")
_GRAM = 5  # characters of a name that are too many to be in a conversation by chance
# Words of providers' codes, which tell nothing of a conversation that has them too.
_COMMON_WORDS = """
a access account api argument auth authentication authorization available bad balance billing blocked busy
cancel cancelled capacity client code completion connection content context credit deadline denied error
exceed exceeded exception exhausted expired failed failure filter filtered finish found gateway guardrail
input insufficient internal invalid is key length limit long malformed max maximum message method missing
model moderation no not of other out output overloaded parameter payment per permission policy prompt quota
rate reached reason recitation refusal request requests required resource response safety server service size
slow state status stop stream system temporarily throttled throttling time timeout token tokens too tool type
unauthorized unavailable unknown unsupported unprocessable usage user validation value violation window
"""
_COMMON = frozenset(_COMMON_WORDS.split())
_COMMON_INSIDE = re.compile("|".join(sorted((word for word in _COMMON if len(word) > 2), key=len, reverse=True)))


def _private(asked: Turn, env: Mapping[str, str]) -> str:
    # the name of the model that was chosen is no secret
    return " ".join((repr(replace(asked, model=None)), *_keys(env).values())).casefold()


def clean(text: str, env: Mapping[str, str]) -> str:
    """Return what an operator may read of BAML's or a provider's words: no key, no backtrace, one line, shortened."""
    text = text.partition("\nStack backtrace:")[0]
    for name, value in _keys(env).items():
        text = text.replace(value, f"<{name}>")
    return " ".join(_KEY_LIKE.sub("<a key>", text).split())[:500]


_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")
# Of a key that is wrong, providers quote both ends: "Incorrect API key provided: sk-abcde***wxyz".
_KEY_LIKE = re.compile(r"\b(?:sk|pk|gsk|xai|sb|eyJ|AIza)[-_\w.*]{8,}|(?<=Bearer )\S+")


def _keys(env: Mapping[str, str]) -> dict[str, str]:
    values = {**os.environ, **env}
    return {name: value for name, value in values.items() if len(value) >= 8 and _SECRET.search(name.upper())}
