"""Every exception that the bridge raises on purpose, and the one place that decides: retry or give up.

    BridgeError
    ├── SetupError             something outside is missing: schema, BAML client, handler module; exit code 2
    │   └── SettingsError        a setting is missing or wrong; exit code 2
    ├── StoreError             a call to Supabase failed
    │   ├── StoreUnavailable     it may succeed later (network, 5xx, timeout)
    │   └── StoreRefused         it will never succeed as it is (4xx)
    ├── RealtimeError          a connection or channel is broken
    └── TurnFailure            a message could not be answered; `code` and `message` are safe to show
        ├── BadRequest           the message or its arguments are invalid
        ├── ModelRefused         the provider rejected the request for good (400, 401, 403, 404 …)
        ├── ModelUnavailable     the provider may answer later (429, 5xx, refused, broken off, timeout)
        ├── BadOutput            the model's output does not match the function's return type
        ├── ContextTooLong       the conversation is longer than the model can read
        ├── AnswerTooLong        the model reached its output limit before the answer was complete
        ├── HandlerFailed        a handler raised an exception of its own
        └── Unstorable           the database rejects the reply because of its content

Users see the `code` and `message` of a `TurnFailure`; put everything else into `detail`, which only the log gets.
"""

from dataclasses import dataclass


class BridgeError(Exception):
    """The base class of every error here."""


class SetupError(BridgeError):
    """Something the bridge needs is missing or wrong: `problem`, and the `remedy`, each a sentence on one line."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class SettingsError(SetupError):
    """A setting is missing or wrong."""


class StoreError(BridgeError):
    """A call to Supabase failed. `code` is the SQLSTATE, PGRST code or HTTP status, if known."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class StoreUnavailable(StoreError):
    """A retry may succeed."""


class StoreRefused(StoreError):
    """A retry would fail again: a 4xx."""


class RealtimeError(BridgeError):
    """A Realtime connection or channel is broken; its owner replaces it."""


class TurnFailure(BridgeError):
    """A message could not be answered. Users may see `code` and `message`.

    `retry_after` is the provider's Retry-After in seconds. `detail` is for the log only.
    """

    retryable = False

    def __init__(self, code: str, message: str, *, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.retry_after = retry_after


class BadRequest(TurnFailure):
    """The message is invalid: an unknown function, or an argument that is missing or has the wrong type."""


class ModelRefused(TurnFailure):
    """The provider rejected the request for good."""


class ModelUnavailable(TurnFailure):
    """The provider did not answer, or not completely; a retry may succeed."""

    retryable = True


class BadOutput(TurnFailure):
    """The model's output does not match the function's return type; a retry may succeed."""

    retryable = True


class ContextTooLong(TurnFailure):
    """The conversation is longer than the model can read, even without the oldest messages and the files."""


class AnswerTooLong(TurnFailure):
    """The answer exceeds the model's output limit: a retry would be as long and cost as much."""


class HandlerFailed(TurnFailure):
    """A handler raised an exception of its own; a retry may succeed."""

    retryable = True


class Unstorable(TurnFailure):
    """The database rejects the reply because of its content."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows a failed attempt: retry (after at least `after` seconds, if given), or give up."""

    retry: bool
    code: str
    message: str
    after: float | None = None


def verdict(error: BaseException) -> Verdict:
    """Decide whether to retry, and what the user may read. Nothing else in the bridge decides this."""
    if isinstance(error, TurnFailure):
        # str(): a handler may raise one whose code or message is not text, which could not be stored
        return Verdict(error.retryable, str(error.code), str(error.message), error.retry_after)
    return Verdict(True, "internal", "Something went wrong while answering.")
