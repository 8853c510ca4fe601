"""Everything the bridge raises on purpose, and the one place that decides retry or give up.

    BridgeError
    ├── SetupError             a part outside is missing: schema, BAML client, handler module; exit 2
    │   └── SettingsError        a setting is missing or wrong; exit 2
    ├── StoreError             a call of the worker to Supabase did not succeed
    │   ├── StoreUnavailable     it may succeed later (network, 5xx, timeout)
    │   └── StoreRefused         it never will as it stands (4xx)
    ├── RealtimeError          the subscription is not, or no longer, what it should be
    └── TurnFailure            a message could not be answered; `code` and text are safe to show
        ├── BadRequest           the message or its arguments cannot be answered as they are
        ├── ModelRefused         the provider said no for good (400, 401, 403, 404 …)
        ├── ModelUnavailable     the provider may answer later (429, 5xx, refused, cut, timeout)
        ├── BadOutput            the model answered, but not what the function promises
        ├── AnswerTooLong        the model had to stop before its answer was whole
        ├── HandlerFailed        a handler raised something of its own
        └── Unstorable           the database refuses the reply, whatever is in it

`TurnFailure`s carry what a user may see; details belong in `detail`, for the log alone.
"""

from __future__ import annotations

from dataclasses import dataclass


class BridgeError(Exception):
    """The root of the tree."""


class SetupError(BridgeError):
    """Something the bridge needs is missing or wrong: `problem`, and the `remedy`, each a sentence on one line."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem = problem
        self.remedy = remedy


class SettingsError(SetupError):
    """A setting is missing or wrong."""


class StoreError(BridgeError):
    """A call to Supabase did not succeed. `code` is the SQLSTATE, PGRST code or HTTP status, if known."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class StoreUnavailable(StoreError):
    """It may succeed when it is tried again."""


class StoreRefused(StoreError):
    """It will be refused again: a 4xx."""


class RealtimeError(BridgeError):
    """A Realtime connection or channel is not in order; whoever owns it builds it anew."""


class TurnFailure(BridgeError):
    """A message could not be answered. `code` and `message` may be shown to the user.

    `retry_after` is in seconds, as the provider asked for it. `detail` goes to the log.
    """

    retryable = False

    def __init__(self, code: str, message: str, *, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.retry_after = retry_after


class BadRequest(TurnFailure):
    """The message cannot be answered as it is: an unknown function, a missing or ill-typed argument."""


class ModelRefused(TurnFailure):
    """The provider refused the request for good."""


class ModelUnavailable(TurnFailure):
    """The provider did not answer, or not to the end; another attempt may succeed."""

    retryable = True


class BadOutput(TurnFailure):
    """The model's answer is not what the function promises; another attempt may succeed."""

    retryable = True


class AnswerTooLong(TurnFailure):
    """The answer does not fit into what the model may write: another one would be as long, and cost as much."""


class HandlerFailed(TurnFailure):
    """A handler raised something of its own; another attempt may succeed."""

    retryable = True


class Unstorable(TurnFailure):
    """The database refuses the reply for what is in it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a failed attempt: `retry` (after at least `after` seconds, if given) or give up."""

    retry: bool
    code: str
    message: str
    after: float | None = None


def verdict(error: BaseException) -> Verdict:
    """Say retry or give up, and what the user may read. Nothing else in the bridge decides this."""
    if isinstance(error, TurnFailure):
        # made text: a handler may raise one about an exception, which nobody could write down
        return Verdict(error.retryable, str(error.code), str(error.message), error.retry_after)
    if isinstance(error, StoreUnavailable):
        return Verdict(True, "unavailable", "The service is briefly unavailable.")
    return Verdict(True, "internal", "Something went wrong while answering.")
