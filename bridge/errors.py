"""Every exception that the bridge raises on purpose, and the one place that decides: retry or give up.

    BridgeError
    ├── SetupError             something outside is missing: schema, BAML client, handler module; exit code 2
    │   └── SettingsError        a setting is missing or wrong; exit code 2
    ├── StoreError             a call to Supabase failed
    │   ├── StoreUnavailable     it may succeed later (network, 5xx, timeout)
    │   └── StoreRefused         it will never succeed as it is (4xx)
    ├── RealtimeError          a connection or channel is broken
    ├── StepFailure            a step of a handler has no result; a handler may catch it
    │   ├── ToolFailed           it failed for good: raised by the step's function, and remembered
    │   ├── NoAnswer             nobody gave it in time
    │   └── MaybeDone            it may run once only, and nobody knows whether it has
    └── TurnFailure            a message could not be answered; `code` and `message` are safe to show
        ├── BadRequest           the message or its arguments are invalid
        │   ├── BadAttachment      an attachment is not what it says, or gone, or not for this function
        │   └── UnknownModel       no client in this worker's baml_src has the name of the model that was chosen
        ├── AttachmentUnavailable  Storage does not answer
        ├── ModelRefused         the provider rejected the request for good (400, 422 …)
        │   ├── ModelDenied        it rejects this worker's key, or knows no such model (401, 403, 404)
        │   └── ModelNotSetUp      the client in baml_src cannot make a request
        ├── ModelUnavailable     the provider may answer later (429, 5xx, broken off, timeout)
        │   └── ModelUnreachable   this worker does not get through to the provider
        ├── BadOutput            the model's output does not match the function's return type
        ├── ContextTooLong       the conversation is longer than the model can read
        ├── AnswerTooLong        the model reached its output limit before the answer was complete
        ├── HandlerFailed        a handler raised an exception of its own
        ├── HandlerBroken        a handler has a bug that every attempt would meet
        ├── StepUnresolved       a handler did not catch a StepFailure
        ├── UsedUp               the user has used up the tokens of the day
        └── Unstorable           the database rejects the reply because of its content

Users see the `code` and `message` of a `TurnFailure`; put everything else into `detail`, which only operators get.
"""

from dataclasses import dataclass

from bridge.model import Usage

# Bad output costs as much as good output: it is asked for once more, and not as often as an answer that broke off.
MOST_BAD_OUTPUTS = 2


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


class StepFailure(BridgeError):
    """A step has no result. It is raised again whenever the handler comes by."""


class ToolFailed(StepFailure):
    """A step failed for good. Raise it in a step's function: it is remembered, and a model may be told its text."""


class NoAnswer(StepFailure):
    """Nobody gave the step in time: the user did not answer, or the other reply did not end."""


class MaybeDone(StepFailure):
    """A step with `once` has begun in an attempt that vanished: nobody knows whether it has run."""


class TurnFailure(BridgeError):
    """A message could not be answered. Users may see `code` and `message`.

    `retry_after` is the provider's Retry-After in seconds. `detail` is for operators: the log, the run and the dead
    letter. `said` is what the provider or BAML says, which may quote the prompt, and `names` are its codes for the
    error: `bridge.baml.failures` decides which of them operators see. `usage` is what was reported for the attempt.
    """

    retryable = False
    is_local = False  # the fault is this worker's: another one may be able to answer
    is_of_model = False  # the model or the way to it is out of order, whatever was asked
    was_asked = True  # a model may have been asked: then the attempt is charged, if only by an estimate
    most_attempts: int | None = None  # no more attempts than this, if it is fewer than BRIDGE_MAX_FAILURES
    usage: Usage | None = None
    said = ""
    names: tuple[str, ...] = ()

    def __init__(self, code: str, message: str, *, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.retry_after = retry_after


class BadRequest(TurnFailure):
    """The message is invalid: an unknown function, or an argument that is missing or has the wrong type."""

    was_asked = False


class BadAttachment(BadRequest):
    """An attachment cannot be given to the function: `unsupported_attachment`, `bad_attachment`, `attachment_gone`."""


class UnknownModel(BadRequest):
    """The model that was chosen is no client in `baml_src`: another worker may have a newer one."""

    is_local = True


class AttachmentUnavailable(TurnFailure):
    """Storage does not answer, or not as it should; a retry may succeed."""

    retryable = True
    was_asked = False


class ModelRefused(TurnFailure):
    """The provider rejected the request for good."""


class ModelDenied(ModelRefused):
    """The provider rejects this worker's key, or knows no such model."""

    is_local = is_of_model = True


class ModelNotSetUp(ModelRefused):
    """The client in `baml_src` cannot make a request."""

    is_local = is_of_model = True
    was_asked = False


class ModelUnavailable(TurnFailure):
    """The provider did not answer, or not completely; a retry may succeed."""

    retryable = True
    is_of_model = True


class ModelUnreachable(ModelUnavailable):
    """This worker does not get through to the provider."""

    is_local = True
    was_asked = False


class ModelEmpty(ModelUnavailable):
    """The model ended without a word, as some questions make it do."""

    is_of_model = False


class BadOutput(TurnFailure):
    """The model's output does not match the function's return type; a retry may succeed."""

    retryable = True
    most_attempts = MOST_BAD_OUTPUTS


class ContextTooLong(TurnFailure):
    """The conversation is longer than the model can read, even without the oldest messages and the files."""


class AnswerTooLong(TurnFailure):
    """The answer exceeds the model's output limit: a retry would be as long and cost as much."""


class HandlerFailed(TurnFailure):
    """A handler raised an exception of its own; a retry may succeed."""

    retryable = True


class HandlerBroken(TurnFailure):
    """A handler has a bug: it yields what no handler may yield, or its code is wrong. A retry would fail again."""


class StepUnresolved(TurnFailure):
    """A handler did not catch a StepFailure, which every further attempt would meet again."""


class UsedUp(TurnFailure):
    """The user has used up the tokens of the day: with the replies that were asked for before this one."""

    was_asked = False


class Unstorable(TurnFailure):
    """The database rejects the reply because of its content."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows a failed attempt: retry (after at least `after` seconds, if given), or give up.

    `hand_over`: another worker, if there is one, tries again, and the failure does not count.
    """

    retry: bool
    code: str
    message: str
    after: float | None = None
    hand_over: bool = False


def verdict(error: BaseException, failures: int, most: int) -> Verdict:
    """Decide whether to retry, and what the user may read. Nothing else in the bridge decides this.

    `failures` is how many attempts at the question failed before this one, and `most` how many may.
    """
    if isinstance(error, TurnFailure):
        retry = error.retryable and failures + 1 < min(most, error.most_attempts or most)
        # str(): a handler may raise one whose code or message is not text, which could not be stored
        return Verdict(retry, str(error.code), str(error.message), error.retry_after, error.is_local)
    return Verdict(failures + 1 < most, "internal", "Something went wrong while answering.")
